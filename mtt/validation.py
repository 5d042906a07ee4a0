"""How good a set of images is while it is learned: fresh networks are trained on it and scored on held-out real images."""

import copy
from functools import partial

import torch

from mtt import trajectory
from mtt.functional import learner, set_parameters
from mtt.seeds import generator
from mtt.training import accuracy, fit, halves, initialise
from mtt.workers import groups


def scorer(net, held_out, compiler=None, **how):
    """`score` as a function (x, y, alpha, iteration), of networks like `net` that are trained in a place of their own."""
    student = copy.deepcopy(net)  # not the one that is a function of theta
    return partial(score, student, learner(student, compiler), held_out, **how)


def score(net, gradient, held_out, x, y, alpha, iteration, *, networks, epochs, batch, augment, samples, **sgd):
    """The mean accuracy on the ImageSet `held_out` of `networks` fresh ones of `net`, trained on images x (n, C, H, W), labels y.

    Their learning rate is alpha, and a tenth of it in the second half of the `epochs`; `batch`, `augment`, `samples` and `sgd`
    (momentum, weight_decay) are those of training.fit, and other networks are drawn in each `iteration`.
    """
    x_val, y_val, scores = held_out.on(x.device), held_out.labels.to(x.device), []
    for numbers in groups(range(networks), sharing=1):
        draws = [generator("validate", iteration, number) for number in numbers]
        fresh = [trajectory.vector(initialise(copy.deepcopy(net).cpu(), own)) for own in draws]
        theta = torch.stack(fresh).to(x.device)
        for length, rate in halves(epochs, alpha):
            fit(
                gradient, theta, x, y, epochs=length, batch=batch, learning_rate=rate,
                augment=augment, generators=draws, samples=samples, **sgd,
            )  # fmt: skip
        scores += [accuracy(set_parameters(net, own), x_val, y_val) for own in theta]
    return sum(scores) / len(scores)
