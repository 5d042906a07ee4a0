"""Where a distillation starts: which real images, and which experts and epochs (as the paper, and as DATM, Guo et al. 2024)."""

from itertools import chain

import torch

from mtt import imageset, textures
from mtt.seeds import generator
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


def images(p, index, path, right):
    """The first images x (n, C, H, W) and their classes y (n,), class by class: noise, or random ones of the set file `path`.

    `p` is `distill:` of params.yaml, `index` the buffer's; right(ImageSet) gives the masks that `rightly` takes.
    """
    draws = generator("distill", p.seed, "start")
    y = torch.arange(len(index["classes"])).repeat_interleave(p.ipc)
    channels, *sides = index["shape"]
    x = torch.randn(len(y), channels, *(p.canvas_size * side for side in sides), generator=draws)
    return (real(p, path, right, draws) if p.start == "real" else x), y


def real(p, path, right, draws):
    """Random images of the set in `path`, class by class, or canvases tiled of them, all distinct; or canvases as they stand there."""
    data = imageset.load(path)
    if data.labels.ndim > 1:
        raise ValueError(f"{path}: found a row of probabilities for each image; wanted its class, to start from")
    if data.canvas_size not in (1, p.canvas_size):
        raise ValueError(f"{path}: found canvas_size {data.canvas_size}; wanted distill.canvas_size = {p.canvas_size}, or images")
    times = p.canvas_size // data.canvas_size
    if p.start_images == "right":
        chosen, lacking = rightly(right(data), data.labels, len(data.classes), p.ipc, draws)
        if lacking:
            print(f"warning: {lacking} of {len(chosen)} images to start from that no expert is right on")
    else:
        chosen = data.some(p.ipc * times**2, draws)
    return textures.tile(data.on("cpu")[chosen], times)


@torch.no_grad()
def right(experts, output, data):
    """A mask (n,) of the images of `data` for each expert, one at a time: whether its last snapshot classifies them right."""
    x, y = data.on(device()), data.labels.to(device())
    for theta in experts.every(experts.index["snapshots"] - 1):
        theta = theta.to(device())
        yield torch.cat([output(theta, x[b]).argmax(1) == y[b] for b in torch.arange(len(y)).split(500)]).cpu()


def segment(p, experts, iteration, number):
    """The segment that is matched as the `number`-th of the run: expert, start epoch, and the generator of all else that it draws."""
    draws, own = generator("distill", p.seed, number), p.start_epochs
    first = p.max_start_epoch if own.first == "all" else own.first
    last = end(iteration, first, p.max_start_epoch, own.growing)
    return visited(number, len(experts.experts), p.seed), epoch(own.floor, last, experts.straight, draws), draws
