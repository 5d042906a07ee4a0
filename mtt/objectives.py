"""What a student's end can be held to, besides the distance that the paper matches (unroll.distance): for ablations.

Each takes theta (P,), where the student ended, `start`, where it began, and the expert's `target`; it gives a value () and
the value's derivative by theta (P,), which is lam_N of the adjoint: all else of the gradient stays as it is.
"""

import torch
import torch.nn.functional as F

from mtt.functional import value_and_gradient


@value_and_gradient
def raw(theta, start, target):
    """||theta - target||^2: the numerator of Equation 2 alone, larger where the expert moves far."""
    return (theta - target).square().sum()


@value_and_gradient
def cosine(theta, start, target):
    """1 - cos of the student's and the expert's ways, theta - start and target - start: the direction alone."""
    return 1 - F.cosine_similarity(theta - start, target - start, dim=0)


def logits(network, x):
    """The mean squared difference of the student's and the expert's logits on images x (n, C, H, W); network(theta, x) -> (n, K)."""
    return value_and_gradient(lambda theta, start, target: (network(theta, x) - network(target, x).detach()).square().mean())


def task(loss, x, y):
    """The loss on real images x, y itself, loss(theta, x, y) -> (): no expert is matched; the whole process is learned end to end."""
    return value_and_gradient(lambda theta, start, target: loss(theta, x, y))


def by_layer(theta, start, target, sizes):
    """Equation 2 for each tensor of parameters on its own, (len(sizes),): what share of the expert's way it did not go."""
    pairs = zip((theta - target).split(sizes), (start - target).split(sizes), strict=True)
    return torch.stack([left.square().sum() / way.square().sum() for left, way in pairs])
