"""Pictures of image sets."""

import torch.nn.functional as F

from mtt.files import whole
from mtt.vision import torchvision


def save_grid(path, pixels, columns, side=64):
    """Write images (n, C, h, w) in [0, 1] as one PNG, `columns` to a row, each blown up to at least `side` pixels without smoothing."""
    times = max(1, -(-side // pixels.shape[-1]))
    grid = torchvision.utils.make_grid(F.interpolate(pixels, scale_factor=times), nrow=columns, padding=4, pad_value=1)
    with whole(path) as beside:
        torchvision.utils.save_image(grid, beside, format="png")
