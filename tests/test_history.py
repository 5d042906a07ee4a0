import pytest
from PIL import Image, ImageSequence

from mtt import history


@pytest.mark.parametrize(("iterations", "most"), [(1, 2), (200, 22), (5000, 38), (1_000_000, 70)])
def test_pictures_are_close_at_first_and_few_however_long_a_run_is(iterations, most):
    """The start is one of them; each gap is about a quarter of what went before."""
    seen = [iteration for iteration in range(min(iterations, 5000) + 1) if history.due(iteration)]
    assert seen[0] == 0
    assert all(after - before <= 1 + 0.25 * before for before, after in zip(seen, seen[1:], strict=False))
    assert len([mark for mark in history.MARKS if mark <= iterations]) <= most


def test_a_shorter_run_leaves_out_what_a_longer_one_saw(tmp_path):
    """And has its own last iteration, which falls between two marks."""
    for iteration in (0, 1, 2, 8, 9, 10, 200):
        history.frame(tmp_path, iteration).touch()
    assert [int(path.stem) for path in history.frames(tmp_path, 8)] == [0, 1, 2, 8]
    assert [int(path.stem) for path in history.frames(tmp_path, 10)] == [0, 1, 2, 9, 10]


def test_a_moving_picture_shows_each_in_turn_and_rests_on_the_last(tmp_path):
    """Pictures larger than a page are made smaller."""
    for number, level in enumerate((10, 120, 250)):
        Image.new("RGB", (1400, 350), (level, level, level)).save(tmp_path / f"{number}.png")
    history.animate(tmp_path / "all.gif", sorted(tmp_path.glob("*.png")))
    with Image.open(tmp_path / "all.gif") as found:
        frames = [(frame.convert("L").getpixel((5, 5)), frame.info["duration"]) for frame in ImageSequence.Iterator(found)]
        assert found.size == (700, 175)
        assert found.info["loop"] == 0
    assert frames == [(10, 120), (120, 120), (250, 2000)]  # GIF counts in hundredths of a second
