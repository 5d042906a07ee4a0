import pytest
import torch
from test_unroll import relative

from mtt import gsam, trajectory
from mtt.convnet import ConvNet
from mtt.functional import as_function, learner
from mtt.seeds import generator
from mtt.training import epoch, initialise


def problem(count):
    """`count` small networks theta (E, P) in float64, the gradient of them, images and labels."""
    draws = generator("gsam")
    nets = [initialise(ConvNet(1, 8, 3, width=4, depth=1), draws).double() for _ in range(count)]
    theta = torch.stack([trajectory.vector(net) for net in nets])
    x = torch.randn(count, 6, 1, 8, 8, generator=draws, dtype=torch.float64)
    return nets[0], theta, learner(nets[0]), x, torch.arange(6).expand(count, -1) % 3


@pytest.mark.parametrize("count", [1, 3])
def test_gsam_with_rho_0_is_sgd(count):
    """Over two epochs, bit for bit, one network and several as one."""
    ends = []
    for flat in (False, True):
        _, theta, gradient, x, y = problem(count)
        gradient = gsam.flattening(gradient, 0.0, 1.0) if flat else gradient
        optimizer = torch.optim.SGD([theta], 0.1)
        for number in range(2):
            draws = [generator("gsam", number, own) for own in range(count)]
            epoch(gradient, theta, optimizer, x[0], y[0], 4, lambda images, generator: images, draws)
        ends.append(theta.clone())
    assert torch.equal(*ends)


@pytest.mark.parametrize("count", [1, 3])
def test_the_direction_is_that_of_the_formula(count):
    """Written out for each network on its own; theta stands where it was."""
    net, theta, gradient, x, y = problem(count)
    before = theta.clone()
    loss, found = gsam.flattening(gradient, 0.05, 0.3)(theta, x, y)
    assert torch.equal(theta, before)
    function, total = as_function(net), 0
    for own in range(count):
        w = before[own].clone().requires_grad_()
        value = function(w, x[own], y[own])
        (g,) = torch.autograd.grad(value, w)
        there = (w + 0.05 * w**2 * g / (w.abs() * g).norm()).detach().requires_grad_()
        (h,) = torch.autograd.grad(function(there, x[own], y[own]), there)
        across = g - (g @ h) / (h @ h) * h
        assert relative(found[own], h - 0.3 * across) < 1e-10
        assert relative(found[own], g) > 1e-4, "the formula is not just the gradient"
        total += value.item()
    assert float(loss) == pytest.approx(total)


def test_it_leads_to_a_flatter_minimum():
    """Of two equal ones of a function of one number, a narrow and a wide: SGD stays in the narrow, GSAM leaves it."""

    def loss(theta):
        return torch.minimum(400 * (theta - 1).square(), (theta - 2).square()).sum()

    def gradient(theta, x, y):
        own = theta.detach().requires_grad_()
        return loss(own), torch.autograd.grad(loss(own), own)[0]

    ends = []
    for way in (gradient, gsam.flattening(gradient, 0.2, 0.0)):
        theta = torch.full((1, 1), 1.02)
        for _ in range(300):
            theta = theta - 0.002 * way(theta, None, None)[1]
        ends.append(float(theta))
    assert ends[0] == pytest.approx(1, abs=1e-3)
    assert ends[1] > 1.1
