"""Where a distillation starts: which real images, and which experts and epochs (as the paper, and as DATM, Guo et al. 2024)."""

from itertools import chain

import torch

from mtt.seeds import generator


def rightly(right, labels, classes, count, draws):
    """Indices (classes x count,) of images that an expert classifies right, class by class, those of the first expert first.

    `right` gives a mask (n,) of the images for each expert, one at a time, and no more than it takes; `labels` (n,) are their classes.
    Within an expert's the order is random. Where all experts together are right on too few of a class, others of it follow: their
    number comes with the indices. Raises ValueError where a class has too few images.
    """
    order, taken = torch.randperm(len(labels), generator=draws), torch.zeros(len(labels), dtype=torch.bool)
    chosen, everything, lacking = [[] for _ in range(classes)], torch.ones(len(labels), dtype=torch.bool), 0
    for mask in chain(right, [everything]):
        lacking = sum(count - len(own) for own in chosen)
        for label, own in enumerate(chosen):
            found = order[(mask & ~taken & (labels == label))[order]][: count - len(own)]
            taken[found] = True
            own += found.tolist()
        if all(len(own) == count for own in chosen):
            return torch.tensor(chosen).flatten(), lacking * (mask is everything)
    raise ValueError(f"found a class of fewer than {count} images; wanted as many, to start from")


def end(iteration, first, last, growing):
    """The start epochs of an iteration are below this: `first` at the beginning, `last` from iteration `growing` on."""
    return min(last, first + int((last - first) * iteration / growing))


def epoch(first, end, between, draws):
    """A random start epoch: whole, of first .. end - 1; or real, of [first, end), where epochs are read `between` snapshots too."""
    if between:
        return first + (end - first) * float(torch.rand((), dtype=torch.float64, generator=draws))
    return int(torch.randint(first, end, (), generator=draws))


def visited(number, count, seed):
    """The expert of the `number`-th segment: a permutation of all `count` is walked, then the next (without replacement, as published)."""
    order = torch.randperm(count, generator=generator("experts", seed, number // count))
    return int(order[number % count])
