"""Pictures of image sets. `python -m mtt.pictures SET OUT.png [--whitened]` makes one of a set file."""

import torch
import torch.nn.functional as F

from mtt import imageset
from mtt.files import whole
from mtt.vision import torchvision


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


def save_grid(path, pixels, columns, side=64):
    """Write images (n, C, h, w) in [0, 1] as one PNG, `columns` to a row, each blown up to at least `side` pixels without smoothing."""
    times = max(1, -(-side // pixels.shape[-1]))
    grid = torchvision.utils.make_grid(F.interpolate(pixels, scale_factor=times), nrow=columns, padding=4, pad_value=1)
    with whole(path) as beside:
        torchvision.utils.save_image(grid, beside, format="png")


def main(path, out, *flags):
    """Write a picture of the set file `path` to `out`, as many images to a row as there are classes."""
    if set(flags) - {"--whitened"}:
        raise ValueError(f"the command line: found {' '.join(flags)}; wanted --whitened or nothing")
    found = imageset.load(path)
    save_grid(out, shown(found, bool(flags)), len(found.classes))


if __name__ == "__main__":
    from mtt import params

    params.run(main)
