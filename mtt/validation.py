"""How good a set of images is while it is learned: fresh networks are trained on it and scored on held-out real images."""

import copy
from functools import partial

import torch

from mtt import compiling, dsa, textures, trajectory
from mtt.functional import learner, set_parameters
from mtt.seeds import generator
from mtt.training import accuracy, fit, halves, initialise
from mtt.workers import groups


def scorer(p, net, families, held_out, compiled):
    """A function (x, y, alpha, iteration) -> the mean accuracy of `p.scoring.networks` fresh ones of `net`, trained at the rate alpha.

    `p` is `distill:` of params.yaml; `families` are those of the augmentation, `held_out` is an ImageSet of real images.
    """
    student = copy.deepcopy(net)  # trained in place, and not the one that is a function of theta
    gradient = learner(student, compiling.compiled if compiled else None)
    return partial(score, p, student, gradient, families, held_out)


def score(p, net, gradient, families, held_out, x, y, alpha, iteration):
    """Train `p.scoring.networks` on the images x (n, C, H, W) with labels y; their mean accuracy on `held_out`."""
    how, augment = p.scoring, textures.cropped(partial(dsa.augment, families=families), p.canvas_size)
    x_val, y_val, scores = held_out.on(x.device), held_out.labels.to(x.device), []
    for numbers in groups(range(how.networks)):
        draws = [generator("validate", iteration, number) for number in numbers]
        fresh = [trajectory.vector(initialise(copy.deepcopy(net).cpu(), own)) for own in draws]
        theta = torch.stack(fresh).to(x.device)
        for epochs, rate in halves(how.epochs, alpha):
            fit(
                gradient, theta, x, y, epochs=epochs, batch=how.batch, learning_rate=rate, momentum=how.momentum,
                weight_decay=how.weight_decay, augment=augment, generators=draws, samples=p.canvas_samples,
            )  # fmt: skip
        scores += [accuracy(set_parameters(net, own), x_val, y_val) for own in theta]
    return sum(scores) / len(scores)
