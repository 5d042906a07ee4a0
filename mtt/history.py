"""The images of a distillation on their way: pictures at growing intervals, kept in its work folder until it is done, and moving."""

from pathlib import Path

from PIL import Image

from mtt.files import whole

MARKS = {0, *(round(1.25**power) for power in range(100))}  # iterations that are seen: 29 of the first 1,000, 37 of 5,000
LARGEST = 700  # pixels, the side of a moving picture
PAUSES = 125, 2000  # milliseconds: between two, and after the last


def due(iteration):
    """Whether the images are to be seen after so many iterations; whatever their number will be in the end."""
    return iteration in MARKS


def frame(folder, iteration):
    """The file of one picture."""
    return Path(folder, f"{iteration:06d}.png")


def frames(folder, iterations):
    """The pictures of a run of so many iterations that are in `folder`, which may hold those of a longer one too."""
    wanted = [frame(folder, mark) for mark in sorted({*MARKS, iterations}) if mark <= iterations]
    return [path for path in wanted if path.exists()]


def animate(path, pictures):
    """Write the pictures in these files as one GIF without end."""
    images = [Image.open(picture).convert("RGB") for picture in pictures]
    for image in images:
        image.thumbnail((LARGEST, LARGEST))
    pauses = [*[PAUSES[0]] * (len(images) - 1), PAUSES[1]]
    with whole(path) as beside:
        images[0].save(beside, format="gif", save_all=True, append_images=images[1:], duration=pauses, loop=0)
