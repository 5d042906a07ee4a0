"""Write params.yaml: recipes/default.yaml, comments and all, with the differences of recipes/NAME.yaml (after those of its `base`)."""

import io
import sys
from itertools import takewhile
from pathlib import Path

from ruamel.yaml import YAML

HERE = Path(__file__).parent
NAMES = ("evaluate.epochs.", "whole.epochs.")  # by architecture: a recipe may name others than the default does


def merged(name):
    """The mapping of a recipe. Raises ValueError for a recipe or a key that there is not."""
    known = sorted(path.stem for path in HERE.glob("*.yaml"))
    if name not in known:
        raise ValueError(f"found NAME={name}; wanted one of {', '.join(known)}")
    values = YAML().load(HERE / f"{name}.yaml")
    if name == "default":
        return values
    base = merged(values.pop("base", "default"))
    update(base, values, f"recipes/{name}.yaml: ")
    return base


def comment(values, key):
    """The words after `#` on the line of a key, empty where there are none."""
    tokens = values.ca.items.get(key, ()) if hasattr(values, "ca") else ()
    found = [token.value for token in tokens if hasattr(token, "value")]
    return found[0].split("\n")[0].lstrip("# ").strip() if found else ""


def heading(name):
    """The comment that a recipe opens with: what it reproduces, and what it costs."""
    with open(HERE / f"{name}.yaml") as lines:
        return "".join(takewhile(lambda line: line.startswith("#"), lines))


def update(values, changes, place):
    """Put `changes` into `values`, section by section."""
    for key, change in changes.items():
        if key not in values and (isinstance(change, dict) or not place.endswith(NAMES)):
            raise ValueError(f"{place}{key}: unknown key")
        if isinstance(change, dict):
            update(values[key], change, f"{place}{key}.")
        else:
            values[key] = change


def write(name):
    """Write params.yaml: the default as it stands, any other recipe merged, under its own heading."""
    values = merged(name)
    if name == "default":
        Path("params.yaml").write_bytes((HERE / "default.yaml").read_bytes())
    else:
        yaml, text = YAML(), io.StringIO()
        yaml.width = 1000
        yaml.dump(values, text)
        _, _, rest = text.getvalue().partition("\n\n")  # after what the default says of itself
        Path("params.yaml").write_text(f"{heading(name)}# So much of the recipe; changes of it, below or by -S, are not counted.\n\n{rest}")


if __name__ == "__main__":
    try:
        write("".join(sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
