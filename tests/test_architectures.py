import pytest
import torch
import torch.nn.functional as F

from mtt.architectures import MLP, VGG11, AlexNet, LeNet, ResNet18, ViT
from mtt.convnet import ConvNet
from mtt.seeds import generator
from mtt.training import initialise
from stages.evaluate import ARCHITECTURES

PAPER = ("ConvNet", "AlexNet", "VGG11", "ResNet18")
CASES = [(name, channels, side) for name in PAPER for channels in (1, 3) for side in (8, 16, 28, 32)]
CASES += [(name, *size) for name in ARCHITECTURES if name not in PAPER for size in ((1, 8), (3, 11), (1, 28), (3, 32))]


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("name", "channels", "side"), CASES)
def test_every_architecture_is_alive_at_every_side(name, channels, side):
    """Its logits differ between images, every parameter gets a gradient, and a few steps lower the loss."""
    draws = generator("alive", channels, side)
    net = initialise(ARCHITECTURES[name](channels, side, 10), draws)
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
    [
        (3, 32, 10, 3, 320_010),
        (3, 32, 100, 3, 504_420),
        (1, 28, 10, 3, 317_706),
        (3, 64, 200, 4, 857_160),
        (3, 128, 10, 5, 615_690),
        (3, 256, 10, 6, 763_530),
    ],
)
def test_convnet_has_the_published_number_of_parameters(channels, side, classes, depth, wanted):
    """And beyond 128 px, of which none is published, those of one more block."""
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


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32)])
def test_lenet_and_mlp_have_the_parameters_of_their_published_forms(channels, side):
    """LeNet: 16 maps of 5x5 before the linear layers, from 28x28 of one channel as from 32x32 of three."""
    assert parameters(LeNet(channels, side, 10)) == (channels * 150 + 6) + (6 * 400 + 16) + 401 * 120 + 121 * 84 + 85 * 10
    assert parameters(MLP(channels, side, 10)) == (channels * side * side + 1) * 128 + 129 * 128 + 129 * 10


@pytest.mark.parametrize(("side", "patch"), [(8, 2), (9, 2), (28, 4), (32, 4), (37, 5), (64, 8), (128, 16)])
def test_the_vision_transformer_sees_every_pixel_in_one_of_its_patches(side, patch):
    net = initialise(ViT(2, side, 10, layers=1), generator(1))
    x = torch.randn(1, 2, side, side, generator=generator(2)).requires_grad_()
    net(x).square().sum().backward()
    assert (x.grad.abs().sum((0, 1)) > 0).all()
    assert net[1].conv_proj.kernel_size == (patch, patch)
    assert net[1].seq_length - 1 == (-(-side // patch)) ** 2


def test_the_vision_transformer_tells_places_apart():
    """By its position embedding: without it, exchanging two patches would change nothing."""
    net = initialise(ViT(1, 8, 10, layers=1), generator(1)).double()
    x = torch.randn(1, 1, 8, 8, generator=generator(2), dtype=torch.float64)
    swapped = x.roll(4, 3)
    assert not torch.allclose(net(x), net(swapped), atol=1e-6)
    net[1].encoder.pos_embedding.data.zero_()
    assert torch.allclose(net(x), net(swapped), atol=1e-12)
