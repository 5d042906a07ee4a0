import pytest
import torch
import torch.nn.functional as F

from mtt.architectures import VGG11, AlexNet, ResNet18
from mtt.convnet import ConvNet
from mtt.seeds import generator
from mtt.training import initialise

ALL = [ConvNet, AlexNet, VGG11, ResNet18]


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("side", [8, 16, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("architecture", ALL)
def test_every_architecture_is_alive_at_every_side(architecture, channels, side):
    """Its logits differ between images, every parameter gets a gradient, and a few steps lower the loss."""
    draws = generator("alive", channels, side)
    net = initialise(architecture(channels, side, 10), draws)
    x, y = torch.randn(4, channels, side, side, generator=draws), torch.arange(4)
    logits = net(x)
    assert logits.shape == (4, 10)
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    before = F.cross_entropy(logits, y)
    before.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert F.cross_entropy(net(x), y) < before


@pytest.mark.parametrize("side", [8, 9, 11, 16, 28, 32])
@pytest.mark.parametrize(
    "architecture", [lambda *a: ConvNet(*a, width=4, depth=5), VGG11, ResNet18], ids=["ConvNet-D5", "VGG11", "ResNet18"]
)
def test_no_norm_sees_a_map_smaller_than_two_by_two(architecture, side):
    net, sides = architecture(3, side, 10), []
    for module in net.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.register_forward_hook(lambda _, inputs, __: sides.append(inputs[0].shape[-1]))
    net(torch.zeros(1, 3, side, side))
    assert min(sides) >= 2


@pytest.mark.parametrize(
    ("channels", "side", "classes", "depth", "wanted"),
    [(3, 32, 10, 3, 320_010), (3, 32, 100, 3, 504_420), (1, 28, 10, 3, 317_706), (3, 64, 200, 4, 857_160), (3, 128, 10, 5, 615_690)],
)
def test_convnet_has_the_published_number_of_parameters(channels, side, classes, depth, wanted):
    assert parameters(ConvNet(channels, side, classes, 128, depth)) == wanted


def test_resnet18_and_vgg11_have_the_parameters_of_their_32_px_forms():
    """Counted by hand from their layers: convolutions, affine norms, one linear layer."""
    blocks = [(64, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    wanted = 3 * 64 * 9 + 128 + 512 * 10 + 10
    wanted += sum(9 * a * b + 9 * b * b + 4 * b + (a * b + 2 * b if a != b else 0) for a, b in blocks)
    assert parameters(ResNet18(3, 32, 10)) == wanted
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    assert parameters(VGG11(3, 32, 10)) == sum(9 * a * b + b + 2 * b for a, b in zip(widths, widths[1:], strict=False)) + 5130


def test_one_channel_28_px_images_get_32_px_maps():
    x = torch.zeros(1, 1, 28, 28)
    for net in (ConvNet(1, 28, 10, 8), AlexNet(1, 28, 10), VGG11(1, 28, 10)):
        assert net[0](x).shape[-1] == 32
