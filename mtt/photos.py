"""Image files as uint8 tensors, decoded when they are taken: a set of them need not fit in memory."""

import warnings

import numpy as np
import torch

from mtt import vision


class Photos:
    """Image files, indexed as the tensor (n, 3, side, side) of them all would be; no image is kept."""

    dtype = torch.uint8

    def __init__(self, paths, side):
        self.paths, self.shape = paths, (len(paths), 3, side, side)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        """(k, 3, side, side) uint8 for a slice or indices (k,). Raises ValueError, naming the file, for one that is no image."""
        numbers = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        return torch.stack([decoded(self.paths[number], self.shape[-1]) for number in numbers])


def decoded(path, side):
    """(3, side, side) uint8 of an image file, as fitted() makes it of what people see."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as opened:  # of EXIF that is broken: then nothing is turned
            image = seen(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: found no readable image ({error}); wanted one: mend it, or take it out") from None
    return fitted(image, side)


def fitted(image, side):
    """(channels, side, side) uint8 of a Pillow image: its shorter side resized with antialiasing, its centre cropped."""
    functional = vision.torchvision.transforms.functional
    return functional.pil_to_tensor(functional.center_crop(functional.resize(image, side), side))


def seen(image):
    """A Pillow image as people see it, in RGB: turned as its EXIF says, on white where it is transparent, the first of several."""
    from PIL import Image, ImageOps

    if image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel; wanted 8 or 16")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # which Pillow would clip to white
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
