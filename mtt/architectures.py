"""The other networks of the cross-architecture comparison, in the 32-px forms of the dataset-condensation literature; and a transformer.

Each takes (n, channels, side, side) with side >= 8 and gives logits (n, classes). A pool or stride that would leave
a normalised map smaller than 2x2 is left out: the instance norm of a 1x1 map is a constant, and the network dead.
"""

import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mtt import vision


def instance_norm(channels):
    """Instance norm with affine, as GroupNorm with one channel per group."""
    return nn.GroupNorm(channels, channels)


def extra_padding(channels, side):
    """The first convolution of AlexNet and VGG11 brings one-channel 28x28 images to the 32x32 maps these forms are made for."""
    return 2 if (channels, side) == (1, 28) else 0


class AlexNet(nn.Sequential):
    """Five convolutions, ReLU, max pools after the 1st, 2nd and 5th, no norm, one linear layer."""

    def __init__(self, channels, side, classes):
        first = 2 + extra_padding(channels, side)
        layers, inputs, side = [], channels, side + 2 * (first - 2)
        for width, kernel, padding, pool in [(128, 5, first, 1), (192, 5, 2, 1), (256, 3, 1, 0), (192, 3, 1, 0), (192, 3, 1, 1)]:
            layers += [nn.Conv2d(inputs, width, kernel, padding=padding), nn.ReLU()]
            if pool:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            inputs = width
        super().__init__(*layers, nn.Flatten(), nn.Linear(inputs * side * side, classes))


class VGG11(nn.Sequential):
    """64 M 128 M 256 256 M 512 512 M 512 512 M: 3x3 convolutions with bias, instance norm, ReLU, M = max pool 2; one linear layer."""

    blocks = ((64,), (128,), (256, 256), (512, 512), (512, 512))

    def __init__(self, channels, side, classes):
        first = 1 + extra_padding(channels, side)
        layers, inputs, side = [], channels, side + 2 * (first - 1)
        for number, block in enumerate(self.blocks, 1):
            for width in block:
                layers += [nn.Conv2d(inputs, width, 3, padding=1 if layers else first), instance_norm(width), nn.ReLU()]
                inputs = width
            smallest = 1 if number == len(self.blocks) else 2
            if side // 2 >= smallest:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        super().__init__(*layers, nn.Flatten(), nn.Linear(inputs * side * side, classes))


class Block(nn.Module):
    """ResNet's basic block: two 3x3 convolutions without bias and a shortcut, 1x1 where the shape changes."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False), instance_norm(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), instance_norm(width),
        )  # fmt: skip
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), instance_norm(width))

    def forward(self, x):
        """(n, inputs, s, s) -> (n, width, s / stride, s / stride)."""
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet18(nn.Sequential):
    """3x3 stem, two basic blocks each of 64, 128, 256, 512, downsampling by stride, average over the map, one linear layer."""

    def __init__(self, channels, side, classes):
        layers, inputs = [nn.Conv2d(channels, 64, 3, padding=1, bias=False), instance_norm(64), nn.ReLU()], 64
        for width in (64, 128, 256, 512):
            stride = 2 if width > 64 and (side + 1) // 2 >= 2 else 1
            layers += [Block(inputs, width, stride), Block(width, width, 1)]
            inputs, side = width, -(-side // stride)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class LeNet(nn.Sequential):
    """5x5 convolutions of 6 and 16, ReLU and max pool after each, three linear layers; below 28 px the convolutions keep the map's side."""

    def __init__(self, channels, side, classes):
        padding = 2 if side < 28 else 0
        first = padding + extra_padding(channels, side)
        flat = 16 * ((((side + 2 * first - 4) // 2) + 2 * padding - 4) // 2) ** 2
        super().__init__(
            nn.Conv2d(channels, 6, 5, padding=first), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes),
        )  # fmt: skip


class MLP(nn.Sequential):
    """Two hidden layers of 128, ReLU."""

    def __init__(self, channels, side, classes):
        layers = [nn.Linear(channels * side * side, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, classes)]
        super().__init__(nn.Flatten(), *layers)


class ViT(nn.Sequential):
    """torchvision's vision transformer (Dosovitskiy et al. 2021), small: 4 heads, hidden 128, MLP 256, no dropout.

    Some 8x8 patches, of 2x2 pixels at the least: with patches of one, a step on 8x8 images takes three times as long.
    A side that the patch does not divide is filled with zeros, at the right and below.
    """

    def __init__(self, channels, side, classes, layers=4):
        patch = max(2, round(side / 8))
        surplus = -side % patch
        transformer = vision.torchvision.models.VisionTransformer(side + surplus, patch, layers, 4, 128, 256, num_classes=classes)
        transformer.conv_proj = nn.Conv2d(channels, 128, patch, patch)  # in place of that of three channels
        super().__init__(nn.ZeroPad2d((0, surplus, 0, surplus)), transformer)

    def forward(self, x):
        """Logits; attention as plain products, the one form of it that torch.vmap has a rule for on a CPU."""
        with sdpa_kernel(SDPBackend.MATH):
            return super().forward(x)
