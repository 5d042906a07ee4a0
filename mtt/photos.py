"""Image files as uint8 tensors, decoded when they are taken: a set of them need not fit in memory."""

import numpy as np
import torch

from mtt.vision import torchvision


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
    """(3, side, side) uint8 of an image file: its shorter side resized with antialiasing, its centre cropped."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            if opened.mode in ("I", "F"):
                raise ValueError("32 bits a pixel; wanted 8 or 16")
            if opened.mode.startswith("I;16"):  # which Pillow would clip to white
                opened = Image.fromarray((np.asarray(opened) / 257).round().astype(np.uint8))
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: found no readable image ({error})") from None
    functional = torchvision.transforms.functional
    return functional.pil_to_tensor(functional.center_crop(functional.resize(image, side), side))
