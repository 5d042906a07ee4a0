"""What the synthetic images are labelled with: their classes, what an expert sees in them, or labels learned with them.

y        (n,)      the classes of the images, or (n, K) logits where labels are learned: what a distillation carries along
x        (n, ...)  the images as they stand
output   the network as a function (theta (P,), x) -> logits (n, K)
experts  a function that gives the experts' vectors (P,), one at a time

Each kind has `begin(y, x)`, what y is at first; `seen(y, x, target)`, the labels of a student that is led to `target` (P,); `slope(y, dy)`,
the derivatives by y that follow from those by what was seen; and `kept(y, x)`, the labels that go with the images from then on.
"""

from functools import partial

import torch

from mtt.functional import as_function
from mtt.training import outputs


class Hard:
    """One class for each image: nothing is learned. Neither `output` nor `experts` is used."""

    def __init__(self, output=None, experts=None):
        self.output, self.experts = output, experts

    def begin(self, y, x):
        """The classes."""
        return y

    def seen(self, y, x, target):
        """The classes."""
        return y

    def slope(self, y, *dy):
        """Nothing: classes have no derivative."""
        return ()

    def kept(self, y, x):
        """The classes."""
        return y


class Taught(Hard):
    """The probabilities that the expert gives the images at the epoch that the student is led to (TESLA, Cui et al. 2023).

    Kept are the mean ones of all experts, on the images as they are in the end.
    """

    def seen(self, y, x, target):
        """(n, K), constant: there is no gradient through the expert."""
        return self.logits(x, target).softmax(1)

    def kept(self, y, x):
        """(n, K)."""
        total, count = 0, 0
        for theta in self.experts():
            total, count = total + self.seen(y, x, theta), count + 1
        return total / count

    def logits(self, x, theta):
        """(n, K)."""
        return outputs(partial(self.output, theta.to(x.device)), x)


class Learned(Taught):
    """softmax(z) of logits z (n, K) that are learned with the images (DATM, Guo et al. 2024)."""

    def begin(self, y, x):
        """z: the mean logits of the experts that are right on an image.

        Where none is, 0/0 in the paper: of all of them, the logits of its class and of the largest exchanged, so that its class is kept.
        """
        every, rightly, count, experts = 0, 0, 0, 0
        for theta in self.experts():
            logits = self.logits(x, theta)
            right = (logits.argmax(1) == y)[:, None]
            every, rightly, count, experts = every + logits, rightly + logits * right, count + right, experts + 1
        largest = every.max(1, keepdim=True)
        exchanged = every.scatter(1, largest.indices, every.gather(1, y[:, None])).scatter(1, y[:, None], largest.values)
        return torch.where(count > 0, rightly / count.clamp(min=1), exchanged / experts)

    def seen(self, y, x, target):
        """(n, K)."""
        return y.softmax(1)

    def slope(self, y, *dy):
        """dL/dz (n, K), back through the softmax."""
        _, back = torch.func.vjp(lambda z: z.softmax(1), y)
        return back(*dy)

    def kept(self, y, x):
        """(n, K)."""
        return y.softmax(1)


KINDS = {"hard": Hard, "teacher": Taught, "learned": Learned}


def of(kind, network, experts, target):
    """How images are labelled, one of KINDS, by the experts of a Buffer; `target` is the last epoch that a student is led to."""
    epoch = target if kind == "teacher" else experts.index["snapshots"] - 1
    return KINDS[kind](answer(network), partial(experts.every, epoch))


def answer(network):
    """The logits (n, K) of `network` as a function of its parameters theta (P,) and images x."""
    output = as_function(network, lambda logits, _: logits)
    return lambda theta, x: output(theta, x, None)
