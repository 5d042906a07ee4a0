"""Distilled set with soft labels, random images, buffer -> either labelled in the other's way, for the scores of mtt/robustness.py.

They say what a set is worth apart from its labels: trained on with classes alone, and beside real images with labels by its recipe.
"""

import math
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from mtt import foreign, imageset, soft_labels, trajectory, workers
from mtt.buffer import Buffer
from mtt.convnet import ConvNet
from mtt.params import Augmentation, Network, run
from stages import PARENT


class Recipe(foreign.Schema):
    """Of `distill:`, what labels follow from."""

    labels: Literal["teacher", "learned"]
    max_start_epoch: Annotated[int, Field(ge=1)]
    expert_epochs: Annotated[int, Field(ge=1)]


class Provenance(foreign.Schema):
    """What a distilled set says of how it was made."""

    network: Network
    augmentation: Augmentation
    distill: Recipe


def main(method, distilled, random, buffer, out):
    """Write the set of `method` to `out`. Raises ValueError unless the set in `distilled` has soft labels, and says how it was made."""
    if method not in METHODS:
        raise ValueError(f"relabelled: found {method}; wanted one of {', '.join(METHODS)}")
    workers.end_with_parent(PARENT)
    learned = imageset.load(distilled)
    if learned.labels.ndim == 1:
        raise ValueError(f"{distilled}: found a class for each image; wanted probabilities: sets with classes need no other labels")
    made = foreign.held(distilled, Provenance, learned.provenance)
    found = hard(learned) if method == "distilled_hard" else soft(learned, made, distilled, random, buffer)
    replace(found, provenance={**found.provenance, "relabelled": {"method": method, **made.model_dump()}}).save(out)
    print(f"{out}: {len(found.images)} images")


def hard(learned):
    """The learned images, class by class as `distill` begins them, with classes (n,); no step size, which was learned for soft labels."""
    classes = len(learned.classes)
    return replace(learned, labels=torch.arange(classes).repeat_interleave(len(learned.images) // classes), learning_rate=None)


def soft(learned, made, distilled, random, buffer):
    """The random images with the labels (n, K) that the recipe gives images before anything is learned.

    Raises ValueError unless the sets and the buffer belong together.
    """
    experts, real, target = Buffer(buffer), imageset.load(random), made.distill.max_start_epoch + made.distill.expert_epochs - 1
    experts.check(made.network.model_dump(), made.augmentation.model_dump(), target + 1, distilled)
    for path, data in {distilled: learned, random: real}.items():
        experts.check_set(path, data.about())
    size = (*real.shape[:2], len(real.classes), made.network.width, made.network.depth)
    with torch.device("meta"):
        experts.check_layout(trajectory.layout(ConvNet(*size)))
    experts.verify()
    torch.backends.cudnn.allow_tf32 = False  # as distill, which labels its images so
    workers.set_threads(math.prod(real.shape[1:]) * made.network.width * len(real.images))
    x, y = real.normalised().to(workers.device()), real.labels.to(workers.device())
    labels = soft_labels.of(made.distill.labels, ConvNet(*size).to(x.device), experts, target)
    return replace(real, labels=labels.kept(labels.begin(y, x), x).cpu())


METHODS = ("distilled_hard", "random_soft")


if __name__ == "__main__":
    run(main)
