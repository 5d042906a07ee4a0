"""A set of labelled images in one file: prepared real images, a distilled set, or the choice of any other method.

Self-sufficient: who has the file needs nothing else to train on it, to look at it, or to prepare test images for it.
"""

import reprlib
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from pydantic import Field

from mtt import foreign, tensorfile
from mtt.whitening import Whitening

WHITENING = ("whitening_mean", "whitening_matrix")  # tensors of the file, where there are any
PIECE = 16  # images that are written at a time


@dataclass
class ImageSet:
    """Images with labels, and what it takes to use them."""

    images: torch.Tensor  # (n, C, H, W): uint8 pixels, or float32 normalised or whitened; or what gives rows of them, to be saved
    labels: torch.Tensor  # (n,) int64 class indices, or (n, K) float32 probabilities
    name: str  # of the data set that the images come from
    classes: list  # K names
    mean: list  # per channel, of pixels in [0, 1]
    std: list
    learning_rate: float | None = None  # the learned step size alpha, where one was learned
    provenance: dict = field(default_factory=dict)  # the parameter sections that made the set
    whitening: Whitening | None = None  # in place of mean and std, which are 0 and 1 then
    canvas_size: int = 1  # each of `images` is a canvas (mtt/textures.py) of so many times the image's side,
    canvas_samples: int = 1  # from which so many images are cropped in each use

    def normalised(self):
        """(n, C, H, W) float32: what a network takes (or is cropped from)."""
        return self.normalise(self.images)

    def normalise(self, images):
        """Some of its images (k, C, H, W), on any device, as a network takes them: float32, normalised or whitened."""
        if images.dtype != torch.uint8:
            return images
        pixels = images.float() / 255
        if self.whitening:
            return self.whitening.forward(pixels)
        return (pixels - _per_channel(self.mean, images)) / _per_channel(self.std, images)

    def on(self, device):
        """What a network takes, for a large set: indexed as `normalised()` is, but normalised only when it is taken."""
        return Normalised(self, device)

    def pixels(self):
        """(n, C, H, W) float32 in [0, 1], clipped: what an eye takes."""
        return self.images.float() / 255 if self.images.dtype == torch.uint8 else self._unclipped().clamp(0, 1)

    def _unclipped(self):
        """The pixels of float images."""
        if self.whitening:
            return self.whitening.back(self.images)
        return self.images * _per_channel(self.std, self.images) + _per_channel(self.mean, self.images)

    def plain(self, mean, std):
        """The same pictures, unclipped, as a set that is not whitened but normalised by these numbers per channel.

        Without a step size: it was learned for whitened images.
        """
        images = self.images
        if images.dtype != torch.uint8:
            images = (self._unclipped() - _per_channel(mean, images)) / _per_channel(std, images)
        return replace(self, images=images, mean=mean, std=std, whitening=None, learning_rate=None)

    @property
    def shape(self):
        """[C, H, W] of an image as a network takes it."""
        channels, *sides = self.images.shape[1:]
        return [channels, *(side // self.canvas_size for side in sides)]

    def about(self):
        """What sets that are used together must share; `whitening` where there is one."""
        about = {**{name: getattr(self, name) for name in ("name", "classes", "mean", "std")}, "shape": self.shape}
        return about | ({"whitening": self.whitening.digest} if self.whitening else {})

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
        left = {"images", "labels", "whitening", *(name for name in ("canvas_size", "canvas_samples") if getattr(self, name) == 1)}
        header = {name: value for name, value in vars(self).items() if name not in left}
        tensors = {"labels": self.labels}
        if self.whitening:
            tensors |= dict(zip(WHITENING, (self.whitening.mean, self.whitening.matrix), strict=True))
        tensors = {name: (tensor.dtype, tensor.shape, [tensor]) for name, tensor in tensors.items()}
        pieces = (self.images[index] for index in torch.arange(len(self.images)).split(PIECE))
        tensorfile.stream(path, {"images": (self.images.dtype, self.images.shape, pieces), **tensors}, {"kind": "set", **header})


def _per_channel(numbers, images):
    return torch.tensor(numbers).view(1, -1, 1, 1).to(images.device, non_blocking=True)  # as in dsa.apply


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
        return self.normalise(self.images[index].to(self.device))


class About(foreign.Schema):
    """The header of a set file: what an ImageSet is but for images and labels."""

    kind: str
    name: foreign.Word
    classes: foreign.several(str, min_length=1)
    mean: foreign.several(float)
    std: foreign.several(Annotated[float, Field(gt=0)])
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    provenance: dict = {}
    canvas_size: Annotated[int, Field(ge=1, le=1 << 16)] = 1
    canvas_samples: Annotated[int, Field(ge=1, le=1 << 16)] = 1


def load(path):
    """The ImageSet in `path`. Raises ValueError, naming the path, for a file of another layout."""
    tensors, header = tensorfile.load(path, "set")
    if tensors.keys() - {*WHITENING} != {"images", "labels"} or len(tensors) == 3 or header.keys() - About.model_fields:
        found, wanted = reprlib.repr(sorted({*tensors, *header})), ", ".join(["images", "labels", *About.model_fields])
        raise ValueError(f"{path}: found a set file of another layout, with {found}; wanted {wanted}")
    whitening = Whitening(*(tensors.pop(name) for name in WHITENING)) if len(tensors) == 4 else None
    found = ImageSet(**tensors, **foreign.held(path, About, header).model_dump(exclude={"kind"}), whitening=whitening)
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
    check_canvas(path, found)
    if found.whitening:
        check_whitening(path, found)
    if not all(_finite(numbers) for numbers in (images, labels) if numbers.is_floating_point()):
        raise ValueError(f"{path}: found images or labels that are not finite; wanted numbers")


def check_canvas(path, found):
    """Raise ValueError, naming `path`, unless the images of the ImageSet `found` are whole canvases of its canvas_size."""
    size, samples = found.canvas_size, found.canvas_samples
    if any(side % size for side in found.images.shape[2:]):
        raise ValueError(f"{path}: found canvases {tuple(found.images.shape)}; wanted sides of whole images, canvas_size {size} of them")
    if size == 1 and samples > 1:
        raise ValueError(f"{path}: found canvas_samples {samples}; wanted 1 where a canvas is an image")


def check_whitening(path, found):
    """Raise ValueError, naming `path`, unless the ImageSet `found` has a whitening of its images."""
    mean, matrix, size = found.whitening.mean, found.whitening.matrix, found.images[0].numel()
    if mean.shape != (size,) or matrix.shape != (size, size) or {mean.dtype, matrix.dtype} != {torch.float32}:
        shapes = f"a whitening by {tuple(mean.shape)} of {mean.dtype} and {tuple(matrix.shape)} of {matrix.dtype}"
        raise ValueError(f"{path}: found {shapes}; wanted ({size},) and ({size}, {size}) of torch.float32, the numbers of an image")
    if found.canvas_size > 1:
        raise ValueError(f"{path}: found whitened canvases; wanted whole images, or no whitening")
    if not _finite(mean) or not _finite(matrix):
        raise ValueError(f"{path}: found a whitening that is not finite; wanted numbers")


def _finite(numbers):
    return torch.stack(numbers.aminmax()).isfinite().all()


if __name__ == "__main__":  # as in mtt/trajectory.py
    from mtt import importing, params

    params.run(importing.images)
