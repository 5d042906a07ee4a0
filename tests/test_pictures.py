import numpy as np
import pytest
import torch
from PIL import Image

from mtt import pictures
from mtt.imageset import ImageSet
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


def canvases():
    """Two learned canvases of four images each, of numbers within the range of pixels."""
    images = torch.rand(2, 1, 16, 16, generator=generator("canvases"))
    return ImageSet(images, torch.tensor([0, 1]), "toy", ["a", "b"], [0.0], [1.0], canvas_size=2)


def test_a_canvas_is_shown_twice_in_each_direction():
    found = pictures.shown(canvases())
    for down in (0, 16):
        for right in (0, 16):
            assert torch.equal(found[:, :, down : down + 16, right : right + 16], canvases().images)


def test_in_the_space_of_networks_each_image_goes_from_black_to_white(tmp_path):
    """By its own least and greatest number; the command writes the same picture."""
    images = 5 * torch.randn(3, 1, 8, 8, generator=generator("whitened"))
    data = ImageSet(images, torch.arange(3), "toy", ["a", "b", "c"], [0.5], [0.5])
    found = pictures.shown(data, whitened=True)
    for one, wanted in zip(found, images, strict=True):
        assert torch.allclose(one, (wanted - wanted.min()) / (wanted.max() - wanted.min()), atol=1e-6)
    data.save(tmp_path / "set.safetensors")
    pictures.main(tmp_path / "set.safetensors", tmp_path / "grid.png", "--whitened")
    tile = read(tmp_path / "grid.png")[GAP : GAP + 64, GAP : GAP + 64, 0]
    assert np.abs(tile[::8, ::8] - found[0, 0].numpy() * 255).max() <= 1
    with pytest.raises(ValueError, match="the command line: found --white; wanted --whitened or nothing"):
        pictures.main(tmp_path / "set.safetensors", tmp_path / "grid.png", "--white")


def some(classes, labels):
    """A set of one-pixel images with these labels."""
    n = len(labels)
    return ImageSet(torch.arange(n).float().view(n, 1, 1, 1), torch.tensor(labels), "toy", [str(k) for k in range(classes)], [0.0], [1.0])


@pytest.mark.parametrize(
    ("classes", "labels", "most", "wanted", "columns"),
    [
        (3, [0, 0, 1, 1, 2, 2], None, [0, 2, 4, 1, 3, 5], 3),  # a column each
        (3, [2, 0, 1, 0, 2, 1], None, [1, 2, 0, 3, 5, 4], 3),  # in whatever order they come
        (3, [0, 0, 1, 1, 2, 2], 1, [0, 2, 4], 3),
        (3, [0, 0, 1, 1, 2], None, [0, 1, 2, 3, 4], 3),  # of different numbers
        (2, [[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.0, 1.0]], None, [0, 2, 1, 3], 2),  # of soft labels
        (21, [*range(21)], None, [*range(21)], 20),  # many classes
        (21, [label // 3 for label in range(63)], 2, [3 * label + n for label in range(21) for n in (0, 1)], 2),  # a row each
    ],
    ids=["columns", "any order", "the first of each", "uneven", "soft", "many", "rows"],
)
def test_a_class_is_a_column_and_of_many_a_row(classes, labels, most, wanted, columns):
    index, found = pictures.order(some(classes, labels), most)
    assert (index.tolist(), found) == (wanted, columns)
