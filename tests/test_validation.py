"""The score of a set while it is learned."""

import pytest
import torch

from mtt import validation
from mtt.convnet import ConvNet
from mtt.imageset import ImageSet
from mtt.seeds import generator

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


def test_networks_are_those_of_the_iteration_and_the_students_own_parameters_stay(problem):
    net, score, x, y = problem
    before = [parameter.clone() for parameter in net.parameters()]
    few = {iteration: [score(x, y, 0.0005, iteration) for _ in range(2)] for iteration in range(4)}
    assert all(first == second for first, second in few.values())
    assert len({first for first, _ in few.values()}) > 1
    assert all(torch.equal(own, parameter) for own, parameter in zip(before, net.parameters(), strict=True))
