"""The pictures of a run as HTML: every image under the name of its class, out of grids that the page has once each.

A grid (mtt/pictures.py) has K columns, one a class, and a row for each image of a class.
"""

import base64
import json
import math
from pathlib import Path

from PIL import Image

from mtt import imageset
from report.markup import absent, text

GAP = 4  # pixels around each tile of a grid
VIEWS = {"images.png": "the result", "seen.png": "as networks see them"}
PLAIN = {**VIEWS, "learning.gif": "on the way"}  # in place of the slider


def html(images, results, history):
    """The images of the set file `images` by class, with views: the result, as networks see them, and on the way (`history`).

    Without the file, the pictures of the folder `results` as they are.
    """
    here = Path(images).exists()
    views = {words: Path(results, name) for name, words in (VIEWS if here else PLAIN).items() if Path(results, name).exists()}
    if not here:
        return "".join(map(figure, views, views.values())) + absent("No names of classes and no slider", "`dvc pull` brings the images")
    if not views:
        return absent("No pictures", "`dvc repro` makes them")
    steps = sorted(Path(history).glob("*.png"))
    grids = [uri(path) for path in [*views.values(), *steps]]
    with Image.open(next(iter(views.values()))) as opened:
        width, height = opened.size
    shown = f'<image id="grid" width="{width}" height="{height}" href="{grids[0]}"/>'
    return (
        controls(views, [int(path.stem) for path in steps])
        + f'<svg width="0" height="0" aria-hidden="true"><defs>{shown}</defs></svg>{classes(imageset.load(images), width, height)}'
        + f'<script type="application/json" id="grids">{json.dumps(grids)}</script>'
    )


def controls(views, steps):
    """A button for each view, and the slider through the iterations `steps`."""
    found = "".join(f'<label><input type="radio" name="view" value="{index}"> {text(view)}</label>' for index, view in enumerate(views))
    if steps:
        found += (
            f'<label><input type="radio" name="view" value="way"> on the way</label><label class="way"><input type="range" min="0" '
            f'max="{len(steps) - 1}" value="0" data-first="{len(views)}" data-steps="{json.dumps(steps)}" aria-label="iteration"> '
            f"<output>iteration {steps[0]}</output></label>"
        )
    return f'<form class="views">{found.replace("<input", "<input checked", 1)}</form>'


def classes(data, width, height):
    """A figure for each class of the ImageSet `data`: its name and its tiles of a grid of `width` x `height` pixels."""
    k = len(data.classes)
    each = math.ceil(len(data.images) / k)
    side, tall = (width - GAP) / k - GAP, (height - GAP) / each - GAP
    across = min(each, 10)
    found = []
    for column, name in enumerate(data.classes):
        boxes = [f"{GAP + (side + GAP) * column:g} {GAP + (tall + GAP) * row:g} {side:g} {tall:g}" for row in range(each)]
        tiles = "".join(f'<svg viewBox="{box}"><use href="#grid"/></svg>' for box in boxes)
        found.append(f'<figure role="img" aria-label="{text(name)}"><figcaption>{text(name)}</figcaption><div>{tiles}</div></figure>')
    return f'<div class="classes" style="--across: {across}">{"".join(found)}</div>'


def figure(words, path):
    """A picture as it is, with a line under it."""
    return f'<figure class="wide"><img src="{uri(path)}" alt="{text(words)}"><figcaption>{text(words)}</figcaption></figure>'


def uri(path):
    """A picture as a data: URI."""
    return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"
