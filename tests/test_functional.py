import pytest
import torch
import torch.nn.functional as F

from mtt.architectures import MLP, VGG11, AlexNet, LeNet, ResNet18, ViT
from mtt.batchnorm import batch_normed
from mtt.convnet import ConvNet
from mtt.functional import as_function, learner, set_parameters, together, value_and_gradient
from mtt.seeds import generator
from mtt.training import initialise
from mtt.trajectory import vector

NETWORKS = {
    "ConvNet": lambda: ConvNet(3, 8, 7, width=8, depth=2),
    "ConvNetBN": lambda: batch_normed(ConvNet)(3, 8, 7, width=8, depth=2),
    **{kind.__name__: lambda kind=kind: kind(3, 8, 7) for kind in (AlexNet, VGG11, ResNet18, LeNet, MLP, ViT)},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_as_a_function_of_one_vector_equals_the_network(name):
    """Loss and gradient."""
    net = initialise(NETWORKS[name](), generator(2))
    x, y = torch.randn(4, 3, 8, 8, generator=generator(3)), torch.tensor([0, 6, 2, 2])
    value, slope = value_and_gradient(as_function(net))(vector(net), x, y)
    wanted = F.cross_entropy(net(x), y)
    wanted.backward()
    assert torch.equal(value, wanted)
    assert torch.equal(slope, torch.cat([parameter.grad.flatten() for parameter in net.parameters()]))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_together_have_the_losses_and_gradients_of_each_alone(name):
    net = NETWORKS[name]().double()
    theta = torch.stack([vector(initialise(net, generator(seed))) for seed in range(3)])
    x, y = torch.randn(3, 4, 3, 8, 8, generator=generator(3), dtype=torch.float64), torch.randint(7, (3, 4), generator=generator(4))
    value, slope = value_and_gradient(together(as_function(net)))(theta, x, y)
    alone = [value_and_gradient(as_function(net))(*each) for each in zip(theta, x, y, strict=True)]
    assert torch.allclose(value, sum(value for value, _ in alone), rtol=1e-12)
    assert torch.allclose(slope, torch.stack([slope for _, slope in alone]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_trained_in_place_has_the_very_same_gradient(name):
    """Bitwise, also after theta was stepped, and for another theta after the first."""
    net = initialise(NETWORKS[name](), generator(2))
    gradient, wanted = learner(net), value_and_gradient(as_function(NETWORKS[name]()))
    x, y = torch.randn(4, 3, 8, 8, generator=generator(3)), torch.tensor([0, 6, 2, 2])
    for seed in (1, 2):
        theta = vector(initialise(NETWORKS[name](), generator(seed)))[None]
        for _ in range(2):
            value, slope = gradient(theta, x[None], y[None])
            assert all(torch.equal(*pair) for pair in zip((value, slope[0]), wanted(theta[0], x, y), strict=True))
            theta -= 0.1 * slope
    assert torch.equal(vector(net), theta[0])


def test_a_gradient_leaves_no_graph_and_its_argument_as_it_was():
    net = initialise(ConvNet(1, 8, 3, width=4, depth=1), generator(1))
    theta, x, y = vector(net), torch.randn(2, 1, 8, 8, generator=generator(2)), torch.tensor([0, 2])
    before = theta.clone()
    with torch.no_grad():
        value, slope = value_and_gradient(as_function(net))(theta, x, y)
    assert not value.requires_grad
    assert not slope.requires_grad
    assert not theta.requires_grad
    assert torch.equal(theta, before)


def test_parameters_that_are_set_are_copies():
    net = ConvNet(1, 8, 3, width=4, depth=1)
    theta = torch.randn(len(vector(net)), generator=generator(1))
    set_parameters(net, theta)
    assert torch.equal(vector(net), theta)
    theta.zero_()
    assert float(vector(net).norm()) > 0
