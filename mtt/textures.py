"""Textures: what is learned is a canvas, larger than an image and without borders, of which each use crops an image anywhere.

The canvas is a torus: what leaves it on one side comes back on the other. As with `dsa`, numbers are drawn first and applied
as a pure function, for the adjoint of `unroll` runs each step twice. A canvas of `size` 1 is an image, nothing is drawn for it.
"""

import torch


def draw(n, size, generator):
    """Offsets (n, 2) of n crops, down and to the right, in [0, 1) of the canvas; None where the canvas is the image."""
    return None if size == 1 else torch.rand(n, 2, generator=generator)


def crop(canvases, offsets, size):
    """Images (n, C, H / size, W / size) from canvases (n, C, H, W), each rolled by its offset (a whole number of pixels); all, for None."""
    if offsets is None:
        return canvases
    offsets = offsets.to(canvases.device, non_blocking=True)  # as in dsa.apply
    rows, columns = [_window(offsets[:, axis], canvases.shape[2 + axis], size) for axis in (0, 1)]
    each, channel = [torch.arange(count, device=canvases.device) for count in canvases.shape[:2]]
    return canvases[each[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def _window(offset, side, size):
    """Indices (n, side / size) along one axis; in float64, where offset x side cannot round up to side."""
    return ((offset.double() * side).long()[:, None] + torch.arange(side // size, device=offset.device)) % side


def cropped(augment, size):
    """The function (canvases, generator) -> images: each canvas cropped, then augmented by `augment(images, generator=...)`."""

    def both(canvases, generator):
        return augment(crop(canvases, draw(len(canvases), size, generator), size), generator=generator)

    return both


def tile(images, size):
    """Canvases (n, C, size H, size W) of images (n size^2, C, H, W): as many in a row as in a column, in reading order."""
    n, (c, h, w) = len(images) // size**2, images.shape[1:]
    return images.reshape(n, size, size, c, h, w).permute(0, 3, 1, 4, 2, 5).reshape(n, c, size * h, size * w)


def tiles(canvases, size):
    """The images (n size^2, C, H, W) that each canvas is tiled of, where nothing is to be drawn: what `tile` made it of."""
    n, (c, h, w) = len(canvases), canvases.shape[1:]
    return canvases.reshape(n, c, size, h // size, size, w // size).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, h // size, w // size)
