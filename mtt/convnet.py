"""ConvNet-D{depth}, the network of dataset condensation: student and expert everywhere (Gidaris & Komodakis 2018)."""

from torch import nn


class ConvNet(nn.Sequential):
    """`depth` blocks of 3x3 convolution, instance norm with affine, ReLU, average pool 2; then one linear layer.

    Takes (n, channels, side, side), gives logits (n, classes). One-channel 28x28 images are padded to 32x32 maps by
    the first convolution. A pool is left out where it would leave the next norm a map smaller than 2x2:
    the instance norm of a 1x1 map is a constant, and the network dead.
    """

    def __init__(self, channels, side, classes, width=128, depth=3):
        padding = 3 if (channels, side) == (1, 28) else 1
        layers, side = [], side + 2 * (padding - 1)
        for block in range(depth):
            layers += [
                nn.Conv2d(width if block else channels, width, 3, padding=1 if block else padding),
                nn.GroupNorm(width, width),  # one channel per group: instance norm
                nn.ReLU(),
            ]
            smallest = 1 if block == depth - 1 else 2
            if side // 2 >= smallest:
                layers.append(nn.AvgPool2d(2))
                side //= 2
        super().__init__(*layers, nn.Flatten(), nn.Linear(width * side * side, classes))
