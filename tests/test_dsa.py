import math

import pytest
import torch

from mtt import dsa
from mtt.dsa import Draw
from mtt.seeds import generator

FAMILIES = list(dsa.FAMILIES)


def example(n=3, channels=3, side=8, seed=0):
    """Images (n, channels, side, side) and numbers u (n, 3), in float64."""
    draws = generator("dsa", seed)
    images = torch.randn(n, channels, side, side, generator=draws, dtype=torch.float64)
    return images, torch.rand(n, 3, generator=draws, dtype=torch.float64)


def slow_color(image, u):
    """x + (u - .5); (x - m) 2u + m, m the pixel's mean over channels; (x - m)(u + .5) + m, m the image's mean."""
    brighter = image + (u[0] - 0.5)
    saturated = torch.empty_like(image)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            pixel = brighter[:, row, column]
            grey = sum(pixel) / len(pixel)
            saturated[:, row, column] = (pixel - grey) * (2 * u[1]) + grey
    mean = saturated.sum() / saturated.numel()
    return (saturated - mean) * (u[2] + 0.5) + mean


def slow_crop(image, u):
    """Shifted by dy, dx ~ U{-s..s}, s = int(side / 8 + .5), zero filled."""
    side = image.shape[-1]
    s = int(side / 8 + 0.5)
    dy, dx = [math.floor(u[axis] * (2 * s + 1)) - s for axis in (0, 1)]
    return by_pixel(image, lambda row, column: at(image, row + dy, column + dx))


def slow_cutout(image, u):
    """0 in a square of side c = int(side / 2 + .5), its centre ~ U{0..side} (c even) or U{0..side - 1} (c odd)."""
    side = image.shape[-1]
    c = int(side / 2 + 0.5)
    centres = side + 1 if c % 2 == 0 else side
    top, left = [math.floor(u[axis] * centres) - c // 2 for axis in (0, 1)]
    inside = lambda row, column: top <= row < top + c and left <= column < left + c  # noqa: E731
    return by_pixel(image, lambda row, column: 0 * image[:, row, column] if inside(row, column) else image[:, row, column])


def slow_flip(image, u):
    """Left-right if u < .5."""
    side = image.shape[-1]
    return by_pixel(image, lambda row, column: image[:, row, side - 1 - column] if u[0] < 0.5 else image[:, row, column])


def slow_scale(image, u):
    """The sampling grid stretched by sx, sy ~ U[1/1.2, 1.2]."""
    sx, sy = [1 / 1.2 + float(u[axis]) * (1.2 - 1 / 1.2) for axis in (0, 1)]
    return sampled(image, lambda x, y: (sx * x, sy * y))


def slow_rotate(image, u):
    """The sampling grid turned by U[-15, 15] degrees."""
    angle = math.radians(-15 + 30 * float(u[0]))
    return sampled(image, lambda x, y: (x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)))


def by_pixel(image, value):
    """The image whose pixel (channels,) at row, column is value(row, column)."""
    side = range(image.shape[-1])
    return torch.stack([torch.stack([value(row, column) for column in side], 1) for row in side], 1)


def at(image, row, column):
    """A pixel (channels,); 0 outside the image."""
    side = image.shape[-1]
    return image[:, row, column] if 0 <= row < side and 0 <= column < side else torch.zeros_like(image[:, 0, 0])


def sampled(image, source):
    """Bilinear at source(x, y), zero padded; x and y run from -1 to 1 between the centres of the outermost pixels (align_corners)."""
    half = (image.shape[-1] - 1) / 2

    def value(row, column):
        x, y = [(at + 1) * half for at in source(column / half - 1, row / half - 1)]
        left, top = math.floor(x), math.floor(y)
        corners = [(top + i, left + j, (y - top if i else top + 1 - y) * (x - left if j else left + 1 - x)) for i in (0, 1) for j in (0, 1)]
        return sum(at(image, i, j) * weight for i, j, weight in corners)

    return by_pixel(image, value)


SLOW = {"color": slow_color, "crop": slow_crop, "cutout": slow_cutout, "flip": slow_flip, "scale": slow_scale, "rotate": slow_rotate}


@pytest.mark.parametrize("side", [8, 9, 12])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_its_definition_pixel_by_pixel(family, side):
    """Sides 8 and 9 cut an even and an odd square, 12 shifts by two pixels."""
    images, u = example(side=side, seed=side)
    wanted = torch.stack([SLOW[family](image, numbers) for image, numbers in zip(images, u, strict=True)])
    assert torch.allclose(dsa.apply(images, Draw(family, u)), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_draw_applied_twice_gives_one_picture(family):
    images = example(5)[0].float()
    drawn = dsa.draw([family], 5, generator("twice"))
    assert torch.equal(dsa.apply(images, drawn), dsa.apply(images, drawn))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_image_has_numbers_of_its_own(family):
    """A batch of one repeated image comes out in many ways, each image as it would alone with its row of numbers."""
    images, u = example(1)[0].expand(16, -1, -1, -1), example(16)[1]
    found = dsa.apply(images, Draw(family, u))
    alone = torch.cat([dsa.apply(images[:1], Draw(family, numbers[None])) for numbers in u])
    assert torch.allclose(found, alone, rtol=0, atol=1e-12)
    assert len(torch.unique(found.flatten(1), dim=0)) >= (2 if family == "flip" else 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_the_images_is_exact(family):
    images, u = example(2, channels=2, side=6)
    assert torch.autograd.gradcheck(lambda x: dsa.apply(x, Draw(family, u)), images.requires_grad_())


def test_saturation_does_nothing_to_images_of_one_channel():
    """Bitwise: any saturation gives the same picture; with three channels it does not."""
    for channels, same in ((1, True), (3, False)):
        images, u = example(channels=channels)
        other = u.clone()
        other[:, 1] = 1 - u[:, 1]
        found = [dsa.apply(images, Draw("color", numbers)) for numbers in (u, other)]
        assert torch.equal(*found) == same


@pytest.mark.parametrize(("side", "s"), [(8, 1), (28, 4), (32, 4)])
def test_shifts_cover_exactly_minus_s_to_s_on_each_axis(side, s):
    """One bright pixel shows the shift: all pairs come, and about equally often."""
    images = torch.zeros(4000, 1, side, side)
    images[:, :, side // 2, side // 2] = 1
    lit = dsa.apply(images, dsa.draw(["crop"], 4000, generator("shifts"))).nonzero()
    assert len(lit) == 4000
    shifts, counts = torch.unique(lit[:, 2:] - side // 2, dim=0, return_counts=True)
    assert {tuple(shift) for shift in shifts.tolist()} == {(dy, dx) for dy in range(-s, s + 1) for dx in range(-s, s + 1)}
    expected = 4000 / (2 * s + 1) ** 2
    assert (counts - expected).abs().max() < 5 * expected**0.5


@pytest.mark.parametrize("side", [8, 9])
def test_the_cut_square_is_centred_on_every_pixel_alike(side):
    """On each axis every place from the border inwards: what is left of the square there shows its centre."""
    images = torch.ones(2000, 1, side, side)
    cut = dsa.apply(images, dsa.draw(["cutout"], 2000, generator("cut"))) == 0
    c = int(side / 2 + 0.5)
    places = {tuple(each.nonzero().flatten().tolist()) for each in cut[:, 0].any(2)}
    centres = range(side + 1 - c % 2)
    assert places == {tuple(row for row in range(side) if 0 <= row - centre + c // 2 < c) for centre in centres}


def test_about_half_of_the_images_are_flipped():
    images = torch.arange(2.0).expand(10000, 1, 2, 2)
    flipped = dsa.apply(images, dsa.draw(["flip"], 10000, generator("half")))[:, 0, 0, 0]
    assert float(flipped.mean()) == pytest.approx(0.5, abs=0.02)


def test_each_family_is_drawn_about_equally_often():
    draws = generator("families")
    names = [dsa.draw(FAMILIES, 1, draws).family for _ in range(1200)]
    assert all(150 < names.count(family) < 250 for family in FAMILIES)


def test_without_families_the_images_stay_as_they_are():
    images, draws = example()[0], generator("none")
    assert dsa.draw([], 3, draws) is None
    assert dsa.apply(images, None) is images
    assert dsa.augment(images, [], draws) is images


def test_augment_is_a_draw_applied():
    images = example()[0]
    for seed in range(10):
        drawn = dsa.draw(FAMILIES, 3, generator(seed))
        assert torch.equal(dsa.augment(images, FAMILIES, generator(seed)), dsa.apply(images, drawn))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_images_themselves_are_not_changed(family):
    images, u = example()
    before = images.clone()
    dsa.apply(images, Draw(family, u))
    assert torch.equal(images, before)


def test_a_draw_leaves_the_global_generator_alone():
    images, before = example()[0], torch.get_rng_state()
    for family in FAMILIES:
        dsa.augment(images, [family], generator(family))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["crop", "cutout"])
def test_the_largest_number_stays_in_range_in_every_precision(family, dtype):
    """The float32 just below 1 is 1 in half precision; the last place is still the one that is meant."""
    images, u = torch.ones(1, 1, 8, 8), torch.full((1, 3), 1 - 2**-24)
    found = dsa.apply(images.to(dtype), Draw(family, u))
    assert found.dtype == dtype
    assert torch.equal(found.float(), dsa.apply(images, Draw(family, u)))
