"""Raw images -> train, validation and test sets, uint8, with how to normalise them."""

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field

from mtt import images, whitening
from mtt.imageset import ImageSet
from mtt.params import Section, read, run
from mtt.seeds import generator


def indices(found):
    """The list `found`. Raises ValueError where an index stands twice, or below 0."""
    if len(set(found)) < len(found) or min(found) < 0:
        raise ValueError("each index once, the first being 0")
    return found


Indices = Annotated[list[int], Field(min_length=2), AfterValidator(indices)]


# The number of classes of each set that has a number of its own.
CLASSES = {"digits": 10, "MNIST": 10, "FashionMNIST": 10, "CIFAR10": 10, "CIFAR100": 100, "TinyImageNet": 200, "ImageNet": 1000}


class Prepare(Section):
    """`prepare:`; what came after the first sets stands in a set's provenance only where it is not the default."""

    raw: str  # where raw images lie; data/raw/README.md says what to put there
    set: Literal["digits", "MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "TinyImageNet", "ImageNet", "folder", "csv"]
    classes: Literal["all"] | Indices = Field(exclude_if=lambda kept: kept == "all")  # indices of those that are taken, in this order
    side: int = Field(ge=8)  # pixels, of `folder`, `csv` and `ImageNet`; the other sets have their own
    test: float = Field(gt=0, lt=1)  # share of each class held out, where the set has no test split
    validation: float = Field(gt=0, lt=1)  # share of each class of train held out to select on
    seed: int = Field(ge=0)  # of both splits
    zca: bool = Field(exclude_if=lambda zca: not zca)  # whiten, in place of mean and deviation


def main(raw, train, validation, test):
    """Write the three sets to the given paths."""
    p = read("prepare", Prepare)
    found = images.load(p.set, raw, p.side, p.classes)
    parts = {train: found.train, test: found.test}
    if found.test is None:
        parts[train], parts[test] = cut(found.train, p.test, generator("test", p.seed))
    parts[train], parts[validation] = cut(parts[train], p.validation, generator("validation", p.seed))
    for part, (_, labels) in parts.items():
        empty = [name for k, name in enumerate(found.classes) if not (labels == k).any()]
        if empty:
            raise ValueError(f"{raw}: found no image of {empty} for {part}; wanted three of every class, or prepare.classes without it")
    mean, std = normalisation(found, parts[train][0])
    if min(std) == 0:
        raise ValueError(f"{raw}: found training images of one colour; wanted some that differ")
    whiten = whitening.fit(parts[train][0][:].float() / 255) if p.zca else None
    if whiten:
        mean, std = [0.0] * len(mean), [1.0] * len(std)
    for path, (x, y) in parts.items():
        provenance = {"prepare": p.model_dump(exclude={"raw"})}
        ImageSet(x, y, p.set, found.classes, mean, std, provenance=provenance, whitening=whiten).save(path)
        print(f"{path}: {len(x)} images {tuple(x.shape[1:])}, {len(found.classes)} classes")


def cut(part, share, draws):
    """(images, labels) in two: the rest, and `share` of each class."""
    return [images.chosen(part, index) for index in images.split(part[1], share, draws)]


def normalisation(found, x):
    """Mean and deviation per channel of pixels in [0, 1]: the published ones, or those of the training images."""
    if found.mean is not None:
        return found.mean, found.std
    counts, values = torch.zeros(x.shape[1], 256, dtype=torch.float64), torch.arange(256).double() / 255
    for piece in images.pieces(x):
        counts += torch.stack([channel.flatten().bincount(minlength=256) for channel in piece.unbind(1)])
    n = counts[0].sum()
    mean = counts @ values / n
    std = ((counts * (values - mean[:, None]) ** 2).sum(1) / (n - 1)).sqrt()
    return [[round(float(number), 4) for number in statistic] for statistic in (mean, std)]


if __name__ == "__main__":
    run(main)
