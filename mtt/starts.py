"""Where a distillation starts: which real images, and which experts and epochs (as the paper, and as DATM, Guo et al. 2024).

And which of the images go on from there (SelMatch, Lee & Chung 2024).
"""

from functools import partial
from itertools import chain

import torch

from mtt import imageset, textures
from mtt.seeds import generator
from mtt.training import outputs
from mtt.workers import device


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


def real(path, ipc, canvas_size, right, draws):
    """Random images of the set in `path`, class by class, or canvases tiled of them, all distinct; or canvases as they stand there.

    `ipc` of each class; right(ImageSet) gives the masks that `rightly` takes, None takes any images.
    """
    data = imageset.load(path)
    if data.labels.ndim > 1:
        raise ValueError(f"{path}: found a row of probabilities for each image; wanted its class, to start from")
    if data.canvas_size not in (1, canvas_size):
        raise ValueError(f"{path}: found canvas_size {data.canvas_size}; wanted distill.canvas_size = {canvas_size}, or images")
    times = canvas_size // data.canvas_size
    if right:
        chosen, lacking = rightly(right(data), data.labels, len(data.classes), ipc, draws)
        if lacking:
            print(f"warning: {lacking} of {len(chosen)} images to start from that no expert is right on")
    else:
        chosen = data.some(ipc * times**2, draws)
    return textures.tile(data.on("cpu")[chosen], times)


def learned(share, ipc, count):
    """A mask (count, 1, 1, 1) of the images that are learned: the first of the `ipc` of each class, `share` of them."""
    return (torch.arange(count) % ipc < round(share * ipc)).view(-1, 1, 1, 1)


def right(experts, output, data):
    """A mask (n,) of the images of `data` for each expert, one at a time: whether its last snapshot classifies them right.

    `experts` is a Buffer, `output` the network as a function (theta (P,), x) -> logits (n, K).
    """
    x, y = data.on(device()), data.labels.to(device())
    for theta in experts.every(experts.index["snapshots"] - 1):
        yield (outputs(partial(output, theta.to(device())), x).argmax(1) == y).cpu()
