import pytest
import torch
import torch.nn.functional as F
from test_unroll import relative, setting

from mtt import objectives
from mtt.convnet import ConvNet
from mtt.functional import as_function
from mtt.seeds import generator
from mtt.unroll import distance, match


def ends():
    draws = generator("objectives")
    return [torch.randn(40, generator=draws, dtype=torch.float64) for _ in range(3)]


def real(theta):
    """Images, labels, and a network of as many parameters as `setting` has."""
    draws = generator("real")
    net = ConvNet(1, 8, 5, width=4, depth=2).double()
    assert sum(p.numel() for p in net.parameters()) == len(theta)
    return net, torch.randn(7, 1, 8, 8, generator=draws, dtype=torch.float64), torch.arange(7) % 5


def written_out(name, theta, start, target, net, x, y):
    """Each value, from its formula."""
    f = as_function(net, lambda found, _: found)
    return {
        "raw": lambda: ((theta - target) ** 2).sum(),
        "cosine": lambda: 1 - (theta - start) @ (target - start) / ((theta - start).norm() * (target - start).norm()),
        "logits": lambda: ((f(theta, x, None) - f(target, x, None)) ** 2).mean(),
        "task": lambda: F.cross_entropy(f(theta, x, None), y),
    }[name]()


@pytest.mark.parametrize("name", ["raw", "cosine", "logits", "task"])
def test_the_adjoint_of_every_objective_equals_autograd_through_the_whole_unroll(name):
    """Value, images and step size, in float64."""
    step, theta, target, x, y, alpha, steps = setting(["crop"])
    net, x_real, y_real = real(theta)
    network = as_function(net, lambda found, _: found)
    simple = {"raw": objectives.raw, "cosine": objectives.cosine}
    made = {
        "logits": objectives.logits(lambda theta, x: network(theta, x, None), x_real),
        "task": objectives.task(as_function(net), x_real, y_real),
    }
    found = match(step, theta, target, x, y, alpha, steps, {**simple, **made}[name])
    x, alpha, student = x.clone().requires_grad_(), alpha.clone().requires_grad_(), theta.clone().requires_grad_()
    for b, augment in steps:
        student = student - alpha * torch.autograd.grad(step.loss(student, augment(x[b]), y[b]), student, create_graph=True)[0]
    value = written_out(name, student, theta, target, net, x_real, y_real)
    for number, wanted in zip(found, (value.detach(), *torch.autograd.grad(value, (x, alpha))), strict=True):
        assert relative(number, wanted) < 1e-10


def test_raw_is_the_distance_times_the_squared_way_and_cosine_forgets_how_far():
    theta, start, target = ends()
    way = (start - target).square().sum()
    for found, wanted in zip(objectives.raw(theta, start, target), distance(theta, start, target), strict=True):
        assert torch.allclose(found, wanted * way)
    further = start + 3 * (theta - start)
    assert torch.allclose(objectives.cosine(theta, start, target)[0], objectives.cosine(further, start, target)[0])
    assert float(objectives.cosine(start + 0.5 * (target - start), start, target)[0]) == pytest.approx(0)


def test_the_layers_distances_weighed_by_their_ways_are_the_whole_distance():
    theta, start, target = ends()
    sizes = [5, 20, 15]
    found = objectives.by_layer(theta, start, target, sizes)
    ways = torch.stack([part.square().sum() for part in (start - target).split(sizes)])
    assert torch.allclose((found * ways).sum() / ways.sum(), distance(theta, start, target)[0])
