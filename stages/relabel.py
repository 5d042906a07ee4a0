"""Distilled set with soft labels, random images, buffer -> either labelled in the other's way, for the scores of mtt/robustness.py.

They say what a set is worth apart from its labels: trained on with classes alone, and beside real images with labels by its recipe.
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from mtt import foreign, imageset, soft_labels, workers
from mtt.buffer import Buffer
from mtt.convnet import ConvNet
from mtt.params import run
from stages import PARENT


class Recipe(foreign.Schema):
    """Of `distill:`, what labels follow from."""

    labels: Literal["teacher", "learned"]
    max_start_epoch: Annotated[int, Field(ge=1)]
    expert_epochs: Annotated[int, Field(ge=1)]


class Provenance(foreign.Schema):
    """What a distilled set says of how it was made."""

    network: dict
    augmentation: dict
    distill: Recipe


def main(method, distilled, random, buffer, out):
    """Write the set of `method` to `out`. Raises ValueError unless the set in `distilled` has soft labels, and its recipe."""
    if method not in METHODS:
        raise ValueError(f"relabelled: found {method}; wanted one of {', '.join(METHODS)}")
    workers.end_with_parent(PARENT)
    learned = imageset.load(distilled)
    if learned.labels.ndim == 1:
        raise ValueError(f"{distilled}: found a class for each image; wanted probabilities: sets with classes need no other labels")
    found = METHODS[method](learned, distilled, random, buffer)
    replace(found, provenance={**found.provenance, "relabelled": method}).save(out)
    print(f"{out}: {len(found.images)} images")


def hard(learned, distilled, *_):
    """The learned images with their classes, class by class as `distill` begins them; no step size, which was learned for soft labels."""
    ipc, rest = divmod(len(learned.images), len(learned.classes))
    if rest:
        raise ValueError(f"{distilled}: found {len(learned.images)} images; wanted as many of each of the {len(learned.classes)} classes")
    return replace(learned, labels=torch.arange(len(learned.classes)).repeat_interleave(ipc), learning_rate=None)


def soft(learned, distilled, random, buffer):
    """The random images with the labels that the recipe gives images before anything is learned."""
    p, experts, real = foreign.held(distilled, Provenance, learned.provenance), Buffer(buffer), imageset.load(random)
    experts.check(p.network, p.augmentation, p.distill.max_start_epoch + p.distill.expert_epochs)
    experts.check_set(random, real.about())
    experts.verify()
    device = workers.device()
    net = ConvNet(*real.shape[:2], len(real.classes), **experts.index["network"]).to(device)
    labels = soft_labels.of(p.distill.labels, net, experts, p.distill.max_start_epoch + p.distill.expert_epochs - 1)
    x, y = real.normalised().to(device), real.labels.to(device)
    return replace(real, labels=labels.kept(labels.begin(y, x), x).cpu())


METHODS = {"distilled_hard": hard, "random_soft": soft}


if __name__ == "__main__":
    run(main)
