"""A set of labelled images in one file: prepared real images, a distilled set, or the choice of any other method.

Self-sufficient: who has the file needs nothing else to train on it, to look at it, or to prepare test images for it.
"""

import reprlib
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field

from mtt import foreign, tensorfile

PIECE = 16  # images that are written at a time


@dataclass
class ImageSet:
    """Images with labels, and what it takes to use them."""

    images: (
        torch.Tensor
    )  # (n, C, H, W): uint8 pixels, or float32 in the normalised space that they were learned in; or what gives rows of either, to be saved
    labels: torch.Tensor  # (n,) int64 class indices, or (n, K) float32 probabilities
    name: str  # of the data set that the images come from
    classes: list  # K names
    mean: list  # per channel, of pixels in [0, 1]
    std: list
    learning_rate: float | None = None  # the learned step size alpha, where one was learned
    provenance: dict = field(default_factory=dict)  # the parameter sections that made the set

    def normalised(self):
        """(n, C, H, W) float32: what a network takes."""
        return self.images if self.images.dtype != torch.uint8 else self.normalise(self.images)

    def normalise(self, images):
        """uint8 images (n, C, H, W), on any device, as this set's are normalised; float32."""
        return (images.float() / 255 - _per_channel(self.mean, images)) / _per_channel(self.std, images)

    def on(self, device):
        """What a network takes, for a large set: indexed as `normalised()` is, but normalised only when it is taken."""
        return Normalised(self, device)

    def pixels(self):
        """(n, C, H, W) float32 in [0, 1], clipped: what an eye takes."""
        if self.images.dtype == torch.uint8:
            return self.images.float() / 255
        return (self.images * _per_channel(self.std, self.images) + _per_channel(self.mean, self.images)).clamp(0, 1)

    def about(self):
        """What sets that are used together must share."""
        names = ("name", "classes", "mean", "std")
        return {**{name: getattr(self, name) for name in names}, "shape": list(self.images.shape[1:])}

    def of_class(self, label):
        """Indices (m,) of the images of one class."""
        return (self.labels == label).nonzero().squeeze(1)

    def some(self, ipc, draws):
        """Indices (K ipc,) of `ipc` random images of each class, class by class. Raises ValueError where a class has too few."""
        chosen = []
        for label, name in enumerate(self.classes):
            indices = self.of_class(label)
            if len(indices) < ipc:
                raise ValueError(f"params.yaml: ipc = {ipc}; wanted at most {len(indices)}, the images of class {name!r}")
            chosen.append(indices[torch.randperm(len(indices), generator=draws)[:ipc]])
        return torch.cat(chosen)

    def save(self, path):
        """Write the set to `path`, some images at a time: they may be made when they are taken."""
        header = {name: value for name, value in vars(self).items() if name not in ("images", "labels")}
        pieces = (self.images[index] for index in torch.arange(len(self.images)).split(PIECE))
        images, labels = (self.images.dtype, self.images.shape, pieces), (self.labels.dtype, self.labels.shape, [self.labels])
        tensorfile.stream(path, {"images": images, "labels": labels}, {"kind": "set", **header})


def _per_channel(numbers, images):
    return torch.tensor(numbers, device=images.device).view(1, -1, 1, 1)


class Normalised:
    """The images of a set on `device`, float32 for those that are taken; as they are, uint8 pixels take a quarter of the memory.

    On a GPU they stay where they are, mapped from their file, where they would fill half of its free memory.
    """

    def __init__(self, data, device):
        self.normalise, self.images, self.device = data.normalise, data.images, torch.device(device)
        if self.device.type != "cuda" or self.images.nbytes < torch.cuda.mem_get_info(self.device)[0] / 2:
            self.images = self.images.to(self.device)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        """(k, C, H, W) for a slice or indices (k,) on any device."""
        index = index.to(self.images.device) if isinstance(index, torch.Tensor) else index
        images = self.images[index].to(self.device)
        return images if images.dtype != torch.uint8 else self.normalise(images)


class About(foreign.Schema):
    """The header of a set file: what an ImageSet is but for images and labels."""

    kind: str
    name: foreign.Word
    classes: foreign.several(str, min_length=1)
    mean: foreign.several(float)
    std: foreign.several(Annotated[float, Field(gt=0)])
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    provenance: dict = {}


def load(path):
    """The ImageSet in `path`. Raises ValueError, naming the path, for a file of another layout."""
    tensors, header = tensorfile.load(path, "set")
    if tensors.keys() != {"images", "labels"} or header.keys() - About.model_fields:
        found, wanted = reprlib.repr(sorted({*tensors, *header})), ", ".join(["images", "labels", *About.model_fields])
        raise ValueError(f"{path}: found a set file of another layout, with {found}; wanted {wanted}")
    found = ImageSet(**tensors, **foreign.held(path, About, header).model_dump(exclude={"kind"}))
    check(path, found)
    return found


def check(path, found):
    """Raise ValueError, naming `path`, unless the ImageSet `found` is what every user of a set relies on."""
    images, labels, k = found.images, found.labels, len(found.classes)
    if images.ndim != 4 or labels.ndim not in (1, 2) or len(images) != len(labels) or not images.numel():
        found = f"images {tuple(images.shape)} and labels {tuple(labels.shape)}"
        raise ValueError(f"{path}: found {found}; wanted (n, C, H, W) and (n,) or (n, K)")
    wanted = {1: torch.int64, 2: torch.float32}[labels.ndim]
    if labels.dtype != wanted or images.dtype not in (torch.uint8, torch.float32):
        found = f"images of {images.dtype} and labels {tuple(labels.shape)} of {labels.dtype}"
        raise ValueError(f"{path}: found {found}; wanted uint8 or float32 images, int64 labels (n,) or float32 labels (n, K)")
    if not images.shape[1] == len(found.mean) == len(found.std):
        found = f"{images.shape[1]} channels, {len(found.mean)} means and {len(found.std)} deviations"
        raise ValueError(f"{path}: found {found}; wanted as many of each")
    if labels.ndim == 1 and not 0 <= int(labels.min()) <= int(labels.max()) < k:
        raise ValueError(f"{path}: found labels from {int(labels.min())} to {int(labels.max())}; wanted 0 to {k - 1}, one for each class")
    if labels.ndim == 2 and labels.shape[1] != k:
        raise ValueError(f"{path}: found label rows of {labels.shape[1]}; wanted {k}, one number for each class")
    if not all(torch.stack(numbers.aminmax()).isfinite().all() for numbers in (images, labels) if numbers.is_floating_point()):
        raise ValueError(f"{path}: found images or labels that are not finite; wanted numbers")


if __name__ == "__main__":  # as in mtt/trajectory.py
    from mtt import importing, params

    params.run(importing.images)
