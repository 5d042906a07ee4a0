"""Differentiable Siamese augmentation (Zhao & Bilen 2021): the numbers are drawn first, then applied as a pure function.

One family is drawn per call and applied to the whole batch; its numbers are independent per image, and per axis
where there are two. Images are (n, C, side, side) in the normalised space, whose 0 is the fill of every gap.
The adjoint of `unroll` runs each step twice: one draw applied twice gives one picture.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F


class Draw(NamedTuple):
    """What `apply` needs: a family's name and its numbers, u ~ U[0, 1) of shape (n, 3)."""

    family: str
    u: torch.Tensor


def draw(families, n, generator):
    """A Draw for n images from the list of `families`; None where the list is empty."""
    if not families:
        return None
    family = families[int(torch.randint(len(families), (), generator=generator))]
    return Draw(family, torch.rand(n, 3, generator=generator))


def apply(images, drawn):
    """The images as `drawn` changes them; the images themselves where it is None."""
    if drawn is None:
        return images
    # A GPU is not waited for: else it stands idle while the next kernels are launched.
    return FAMILIES[drawn.family](images, drawn.u.to(images.device, non_blocking=True))


def augment(images, families, generator):
    """Draw and apply at once, where the draw is not needed again."""
    return apply(images, draw(families, len(images), generator))


def color(images, u):
    """Brightness, saturation, contrast, in this order."""
    brightness, saturation, contrast = u.to(images).view(-1, 3, 1, 1, 1).unbind(1)
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * 2 * saturation + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def crop(images, u):
    """Shift by whole pixels, -s to s, s an eighth of the side."""
    side = images.shape[-1]
    s = int(side / 8 + 0.5)
    index = torch.arange(side, device=u.device) + _whole(u, 2 * s + 1).unsqueeze(2)  # (n, 3, side), into the padded image
    each, channel = torch.arange(len(images), device=u.device), torch.arange(images.shape[1], device=u.device)
    rows, columns = index[:, 0], index[:, 1]
    padded = F.pad(images, (s, s, s, s))
    return padded[each[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def cutout(images, u):
    """A square of half the side, anywhere, clipped at the border, filled with 0."""
    side = images.shape[-1]
    c = int(side / 2 + 0.5)
    centre = _whole(u, side + 1 - c % 2).unsqueeze(2)  # (n, 3, 1)
    offset = torch.arange(side, device=u.device) - centre + c // 2
    hit = (offset >= 0) & (offset < c)  # (n, 3, side)
    return images.masked_fill((hit[:, 0, :, None] & hit[:, 1, None, :]).unsqueeze(1), 0)


def flip(images, u):
    """Left-right, every other image."""
    return torch.where(u[:, 0].view(-1, 1, 1, 1) < 0.5, images.flip(3), images)


def scale(images, u):
    """Stretch the sampling grid by 1/1.2 to 1.2 per axis: above 1 the picture shrinks."""
    factor = 1 / 1.2 + u.to(images) * (1.2 - 1 / 1.2)
    zero = torch.zeros_like(factor[:, 0])
    return _warp(images, [factor[:, 0], zero, zero, factor[:, 1]])


def rotate(images, u):
    """By -15 to 15 degrees."""
    angle = torch.deg2rad((u[:, 0].to(images) - 0.5) * 30)
    return _warp(images, [angle.cos(), -angle.sin(), angle.sin(), angle.cos()])


def _warp(images, matrix):
    """Bilinear, zero padded. `matrix` holds the four entries, each (n,), of the map from output to input coordinates."""
    rows = torch.stack(matrix, 1).view(-1, 2, 2)
    grid = F.affine_grid(F.pad(rows, (0, 1)), images.shape, align_corners=True)
    return F.grid_sample(images, grid, align_corners=True)


def _whole(u, k):
    """Whole numbers 0 .. k-1 from u in [0, 1); in float64, where u k cannot round up to k."""
    return (u.double() * k).long()


FAMILIES = {family.__name__: family for family in (color, crop, cutout, flip, scale, rotate)}
