import pytest
import torch

from mtt import textures
from mtt.seeds import generator


def canvases(n=6):
    """Random canvases (n, 2, 8, 12), each twice as high and wide as an image."""
    return torch.randn(n, 2, 8, 12, generator=generator("canvases"), dtype=torch.float64)


def rolled(canvases, offsets, size):
    """The obvious way, one canvas after the other."""
    found = []
    for canvas, offset in zip(canvases, offsets.tolist(), strict=True):
        down, right = int(offset[0] * canvas.shape[1]), int(offset[1] * canvas.shape[2])
        found.append(torch.roll(canvas, (-down, -right), (1, 2))[:, : canvas.shape[1] // size, : canvas.shape[2] // size])
    return torch.stack(found)


@pytest.mark.parametrize("size", [2, 4])
def test_a_crop_is_the_corner_of_the_rolled_canvas_and_so_is_its_gradient(size):
    x, weight = canvases(200).requires_grad_(), torch.randn(200, 2, 8 // size, 12 // size, generator=generator(1), dtype=torch.float64)
    offsets = textures.draw(200, size, generator("offsets"))
    found, wanted = textures.crop(x, offsets, size), rolled(x, offsets, size)
    assert torch.equal(found, wanted)
    gradients = [torch.autograd.grad((images * weight).sum(), x)[0] for images in (found, wanted)]
    assert torch.equal(*gradients)


def test_every_place_is_cropped_from_and_the_canvas_has_no_border():
    """All 8 x 12 offsets are drawn, and the first pixels of crops are those of the canvas, each as often to within chance."""
    place = torch.arange(96.0).view(1, 1, 8, 12)
    n = 96 * 100
    crops = textures.crop(place.expand(n, -1, -1, -1), textures.draw(n, 2, generator("all")), 2)
    corners = torch.bincount(crops[:, 0, 0, 0].long(), minlength=96)
    assert corners.min() > 50
    assert corners.max() < 150
    assert {0.0, 95.0} <= set(crops[crops[:, 0, 0, 0] == 95][0].flatten().tolist()), "from the last pixel on into the first"


def test_offsets_next_to_one_stay_within_the_canvas():
    last = torch.full((1, 2), 1 - 2**-24)
    assert torch.equal(textures.crop(canvases(1), last, 2), rolled(canvases(1), last.double(), 2))


def test_a_canvas_of_size_one_is_the_image_and_draws_nothing():
    draws, untouched = generator("same"), generator("same")
    x = canvases()
    assert textures.draw(6, 1, draws) is None
    assert textures.crop(x, None, 1) is x
    textures.cropped(lambda images, generator: images, 1)(x, draws)
    assert torch.equal(draws.get_state(), untouched.get_state())


def test_what_is_augmented_are_crops():
    found = textures.cropped(lambda images, generator: 2 * images, 2)(canvases(), generator("augment"))
    assert torch.equal(found, 2 * textures.crop(canvases(), textures.draw(6, 2, generator("augment")), 2))


def test_a_tiled_canvas_shows_its_images_in_reading_order():
    images = torch.randn(18, 3, 4, 5, generator=generator("tile"))
    found = textures.tile(images, 3)
    assert found.shape == (2, 3, 12, 15)
    for number in range(18):
        canvas, (row, column) = number // 9, divmod(number % 9, 3)
        assert torch.equal(found[canvas, :, 4 * row : 4 * row + 4, 5 * column : 5 * column + 5], images[number])
    assert torch.equal(textures.tile(images, 1), images)


def test_the_tiles_of_a_canvas_are_the_images_that_it_was_tiled_of():
    images = torch.randn(12, 2, 4, 6, generator=generator("tiles"))
    assert torch.equal(textures.tiles(textures.tile(images, 2), 2), images)
    assert torch.equal(textures.tiles(images, 1), images)
