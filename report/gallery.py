"""The pictures of a run as HTML: every image under the name of its class, out of grids (mtt/pictures.py) that the page has once each."""

import base64
import json
from pathlib import Path

from PIL import Image

from mtt import imageset, pictures
from report.markup import absent, text

GAP = 4  # pixels around each tile of a grid
VIEWS = {"images.png": "the result", "seen.png": "as networks see them"}


def html(images, results, history):
    """The images of the set file `images` by class, with views out of the folder `results`; and on their way, out of `history`.

    Without the file, the pictures of `results` as they are.
    """
    views = {words: Path(results, name) for name, words in VIEWS.items() if Path(results, name).exists()}
    if not Path(images).exists():
        return "".join(map(figure, views, views.values())) + absent("No names of classes and no slider", "`dvc pull` brings the images")
    if not views:
        return absent("No pictures", "`dvc repro` makes them")
    found, steps = imageset.load(images), sorted(Path(history).glob("*.png"))
    side = tile(found, size(next(iter(views.values()))))
    return gallery("result", found, side, [*views.values()], buttons(views)) + (way(found, side, steps) if steps else "")


def way(found, side, steps):
    """The pictures `steps`, NUMBER.png of the iteration, with a slider."""
    numbers = [int(path.stem) for path in steps]
    slider = f'<input type="range" min="0" max="{len(steps) - 1}" value="0" data-steps="{json.dumps(numbers)}" aria-label="iteration">'
    controls = f"<label>{slider} <output>iteration {numbers[0]}</output></label>"
    return f"<h3>On their way</h3>{gallery('way', found, side, steps, controls)}"


def buttons(views):
    """A button for each view."""
    radios = [f'<label><input type="radio" name="view" value="{index}"> {text(words)}</label>' for index, words in enumerate(views)]
    return "".join(radios).replace("<input", "<input checked", 1)


def gallery(name, found, side, paths, controls):
    """The tiles of the first of the grids `paths`, all of one size, by class; `controls` choose another."""
    width, height = size(paths[0])
    grids, shown = json.dumps([uri(path) for path in paths]), f'<image id="{name}" width="{width}" height="{height}"/>'
    return (
        f'<form class="views" data-grid="{name}">{controls}<script type="application/json">{grids}</script></form>'
        f'<svg class="grid" aria-hidden="true"><defs>{shown}</defs></svg>{classes(name, found, side, (width, height))}'
    )


def classes(name, found, side, grid):
    """A figure for each class of the ImageSet `found`: its name, and its tiles of `side` (w, h) pixels of the grid `name`."""
    index, columns = layout(found, side, grid)
    across, each = min(10, max(1, len(index) // len(found.classes))), {k: [] for k in range(len(found.classes))}
    for place, image in enumerate(index.tolist()):
        row, column = divmod(place, columns)
        box = f"{GAP + (side[0] + GAP) * column} {GAP + (side[1] + GAP) * row} {side[0]} {side[1]}"
        each[label(found, image)].append(f'<svg viewBox="{box}"><use href="#{name}"/></svg>')
    figures = [
        f'<figure role="img" aria-label="{text(word)}"><figcaption>{text(word)}</figcaption><div>{"".join(each[k])}</div></figure>'
        for k, word in enumerate(found.classes)
    ]
    return f'<div class="classes" style="--across: {across}">{"".join(figures)}</div>'


def layout(found, side, grid):
    """What pictures.order() says of a grid of this size (W, H): all images of each class are there, or the first so many."""
    for most in range(max(1, len(found.images) // len(found.classes)), 0, -1):
        index, columns = pictures.order(found, most)
        if extent(side, len(index), columns) == grid:
            return index, columns
    raise ValueError(f"found a picture of {grid[0]} x {grid[1]} pixels; wanted one of the images in data/: `dvc checkout` brings them")


def extent(side, count, columns):
    """(W, H) of a grid of so many tiles."""
    return GAP + (side[0] + GAP) * columns, GAP + (side[1] + GAP) * -(-count // columns)


def tile(found, grid):
    """(w, h) in pixels of a tile of the grid (W, H) of all images."""
    index, columns = pictures.order(found)
    return (grid[0] - GAP) // columns - GAP, (grid[1] - GAP) // -(-len(index) // columns) - GAP


def label(found, image):
    """The class of an image of the ImageSet; with soft labels they are class by class."""
    return int(found.labels[image]) if found.labels.ndim == 1 else image * len(found.classes) // len(found.images)


def size(path):
    """(W, H) of a picture."""
    with Image.open(path) as opened:
        return opened.size


def figure(words, path):
    """A picture as it is, with a line under it."""
    return f'<figure class="wide"><img src="{uri(path)}" alt="{text(words)}"><figcaption>{text(words)}</figcaption></figure>'


def uri(path):
    """A picture as a data: URI."""
    return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"
