"""The score of a set while it is learned."""

import pytest
import torch
import torch.nn.functional as F

from mtt import validation
from mtt.convnet import ConvNet
from mtt.imageset import ImageSet
from mtt.seeds import generator
from mtt.training import initialise

HOW = {"networks": 2, "epochs": 30, "batch": 4, "momentum": 0.9, "weight_decay": 0.0, "samples": 1}


@pytest.fixture
def problem():
    """A scorer and four images of two classes that a glance tells apart: a bright half on the left, or on the right."""
    x, y = 0.3 * torch.randn(40, 1, 8, 8, generator=generator("half")), torch.arange(40) % 2
    x[y == 0, :, :, :4] += 1
    x[y == 1, :, :, 4:] += 1
    net = ConvNet(1, 8, 2, 4, 1)
    held_out = ImageSet(x[4:], y[4:], "halves", ["left", "right"], [0.0], [1.0])
    return net, validation.scorer(net, held_out, augment=lambda images, generator: images, **HOW), x[:4], y[:4]


def test_right_labels_score_high_and_wrong_ones_low(problem):
    _, score, x, y = problem
    assert score(x, y, 0.05, 10) > 0.9
    assert score(x, 1 - y, 0.05, 10) < 0.1


def test_a_score_is_its_protocol_written_out(problem):
    """Networks trained one by one at the step size and, in the second half, a tenth of it; their mean accuracy on what is held out."""
    _, score, x, y = problem
    held_out, hits = score.args[2], []
    for number in range(HOW["networks"]):
        draws = generator("validate", 7, number)
        own = initialise(ConvNet(1, 8, 2, 4, 1), draws)
        for rate in (0.001, 0.0001):
            optimizer = torch.optim.SGD(own.parameters(), rate, HOW["momentum"])
            for _ in range(HOW["epochs"] // 2):
                order = torch.randperm(4, generator=draws)
                optimizer.zero_grad()
                F.cross_entropy(own(x[order]), y[order]).backward()
                optimizer.step()
        hits.append((own(held_out.normalised()).argmax(1) == held_out.labels).float().mean().item())
    assert 0.5 < sum(hits) / 2 < 1, "neither learned nor not"
    assert score(x, y, 0.001, 7) == pytest.approx(sum(hits) / 2, abs=1e-6)


def test_networks_are_those_of_the_iteration_and_the_students_own_parameters_stay(problem):
    net, score, x, y = problem
    before = [parameter.clone() for parameter in net.parameters()]
    few = {iteration: [score(x, y, 0.0005, iteration) for _ in range(2)] for iteration in range(4)}
    assert all(first == second for first, second in few.values())
    assert len({first for first, _ in few.values()}) > 1
    assert all(torch.equal(own, parameter) for own, parameter in zip(before, net.parameters(), strict=True))
