"""Pictures of image sets. `python -m mtt.pictures SET OUT.png [--whitened]` makes one of a set file."""

import torch
import torch.nn.functional as F

from mtt import imageset, vision
from mtt.files import whole

WIDEST = 20  # classes that stand side by side


def order(found, most=None):
    """Which images (m,) of an ImageSet a picture shows, row by row, and how many stand in a row.

    Up to WIDEST classes: a column each. More: a row each, or rows of WIDEST where there is one image of each. With `most`, only
    the first so many of each class. Where classes have different numbers, and where it can't be told, they stand one after another.
    """
    labels, k = found.labels, len(found.classes)
    index = labels.argsort(stable=True) if labels.ndim == 1 else torch.arange(len(labels))  # as a distillation has them: class by class
    if len(index) % k or (labels.ndim == 1 and len(labels.bincount(minlength=k).unique()) > 1):
        return index, min(k, WIDEST)
    index = index.view(k, -1)[:, :most]
    if k > WIDEST:
        return index.flatten(), index.shape[1] if index.shape[1] > 1 else WIDEST
    return index.T.flatten(), k


def shown(found, whitened=False):
    """Pictures (n, C, h, w) in [0, 1] of an ImageSet: in pixels, or as a network takes them, each from its least to its greatest number.

    A canvas is shown twice in each direction: it goes on beyond its borders.
    """
    images = stretched(found.normalised()) if whitened else found.pixels()
    return images.repeat(1, 1, 2, 2) if found.canvas_size > 1 else images


def stretched(images):
    """Each of images (n, C, h, w) from 0, its least number, to 1, its greatest."""
    least, greatest = [extreme(images, (1, 2, 3), keepdim=True) for extreme in (torch.amin, torch.amax)]
    return (images - least) / (greatest - least).clamp(min=1e-12)


def save_set(path, found, most=None, whitened=False):
    """Write a picture of an ImageSet to `path`; arguments as in order() and shown()."""
    index, columns = order(found, most)
    save_grid(path, shown(found, whitened)[index], columns)


def save_grid(path, pixels, columns, side=64):
    """Write images (n, C, h, w) in [0, 1] as one PNG, `columns` to a row, each blown up to at least `side` pixels without smoothing."""
    times = max(1, -(-side // pixels.shape[-1]))
    grid = vision.torchvision.utils.make_grid(F.interpolate(pixels, scale_factor=times), nrow=columns, padding=4, pad_value=1)
    with whole(path) as beside:
        vision.torchvision.utils.save_image(grid, beside, format="png")


def main(path, out, *flags):
    """Write a picture of the set file `path` to `out`."""
    if set(flags) - {"--whitened"}:
        raise ValueError(f"the command line: found {' '.join(flags)}; wanted --whitened or nothing")
    save_set(out, imageset.load(path), whitened=bool(flags))


if __name__ == "__main__":
    from mtt import params

    params.run(main)
