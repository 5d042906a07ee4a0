"""What the synthetic images are labelled with: their classes, what an expert sees in them, or labels learned with them.

y        (n,)      the classes of the images, or (n, K) logits where labels are learned: what a distillation carries along
x        (n, ...)  the images as they stand
output   the network as a function (theta (P,), x) -> logits (n, K)

Each kind has `begin(y, x)`, what y is at first; `seen(y, x, target)`, the labels of a student that is led to `target` (P,); `slope(y, dy)`,
the derivatives by y that follow from those by what was seen; and `kept(y, x)`, the labels that go with the images from then on.
"""

import torch


class Hard:
    """One class for each image: nothing is learned."""

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

    Kept are the mean ones of all `experts`, vectors (P,) that are taken one at a time, on the images as they are in the end.
    """

    def __init__(self, output, experts):
        self.output, self.experts = output, experts

    def seen(self, y, x, target):
        """(n, K), constant: there is no gradient through the expert."""
        with torch.no_grad():
            return self.output(target, x).softmax(1)

    def kept(self, y, x):
        """(n, K)."""
        return torch.stack([self.seen(y, x, theta.to(x.device)) for theta in self.experts]).mean(0)


class Learned(Taught):
    """softmax(z) of logits z (n, K) that are learned with the images (DATM, Guo et al. 2024)."""

    def begin(self, y, x):
        """z: the mean logits of the experts that are right on an image.

        Where none is, 0/0 in the paper: of all of them, the logits of its class and of the largest exchanged, so that its class is kept.
        """
        with torch.no_grad():
            logits = torch.stack([self.output(theta.to(x.device), x) for theta in self.experts])
        right = (logits.argmax(2) == y).unsqueeze(2)
        every, largest = logits.mean(0), logits.mean(0).max(1, keepdim=True)
        exchanged = every.scatter(1, largest.indices, every.gather(1, y[:, None])).scatter(1, y[:, None], largest.values)
        return torch.where(right.any(0), (logits * right).sum(0) / right.sum(0).clamp(min=1), exchanged)

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
