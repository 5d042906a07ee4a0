import numpy as np
import pytest
import torch
from PIL import Image

from mtt import pictures
from mtt.seeds import generator

GAP = 4


def read(path):
    with Image.open(path) as opened:
        return np.asarray(opened)


def test_a_grid_has_the_expected_size_and_every_tile_holds_its_image(tmp_path):
    """Seven images of 3x8x8, four to a row: two rows of 64-pixel tiles, the eighth place empty; no smoothing."""
    pixels = torch.randint(256, (7, 3, 8, 8), generator=generator("pictures")).to(torch.uint8)
    pictures.save_grid(tmp_path / "grid.png", pixels / 255, columns=4)
    found = read(tmp_path / "grid.png")
    assert found.shape == (2 * (64 + GAP) + GAP, 4 * (64 + GAP) + GAP, 3)
    for index in range(8):
        top, left = [GAP + (64 + GAP) * at for at in divmod(index, 4)]
        tile = found[top : top + 64, left : left + 64]
        wanted = pixels[index].permute(1, 2, 0).numpy().repeat(8, 0).repeat(8, 1) if index < 7 else np.full_like(tile, 255)
        assert np.array_equal(tile, wanted)


@pytest.mark.parametrize(("side", "tile"), [(8, 64), (28, 84), (32, 64), (64, 64), (128, 128)])
def test_tiles_are_blown_up_by_whole_numbers_to_64_pixels_or_more(tmp_path, side, tile):
    pictures.save_grid(tmp_path / "grid.png", torch.zeros(2, 1, side, side), columns=2)
    assert read(tmp_path / "grid.png").shape == (tile + 2 * GAP, 2 * (tile + GAP) + GAP, 3)
