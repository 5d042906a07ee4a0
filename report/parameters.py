"""params.yaml as HTML: a card for each section, with the words beside each key; and what is not as it was run."""

from pathlib import Path

import numpy as np
from ruamel.yaml import YAML, YAMLError

from recipes.__main__ import comment
from report.markup import marked, text


def read(path):
    """A YAML file with its comments. Numbers are those of YAML 1.2: dvc.lock has 1e-05, which PyYAML takes for a word."""
    try:
        return YAML().load(Path(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run this in the repository: `make report`") from None
    except YAMLError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def title(values):
    """What is distilled into how much; a set of one's own is called as its folder."""
    prepare, ipc = values["prepare"], values["distill"]["ipc"]
    name = Path(prepare["raw"]).name if prepare["set"] in ("folder", "csv") else prepare["set"]
    return text(f"{name}, {ipc} image{'s' if ipc > 1 else ''} per class")


def cards(values):
    """All of params.yaml: each section, then the lists that stand alone."""
    sections = {name: value for name, value in values.items() if isinstance(value, dict)}
    alone = [row for row in rows(values) if row[0] in values and row[0] not in sections]
    found = [card(name, comment(values, name), rows(value)) for name, value in sections.items()]
    return "".join(found) + card("what is compared", "", alone)


def card(name, words, found):
    """A section of params.yaml, with the words beside its name."""
    items = "".join(f"<div><dt>{text(key)}</dt><dd>{text(value)}</dd><dd>{marked(beside)}</dd></div>" for key, value, beside in found)
    return f"<section><h3>{text(name)}</h3><p>{marked(words)}</p><dl>{items}</dl></section>"


def rows(values, place=""):
    """(key, value, comment) of every key of a mapping, one after another; keys of mappings in it are dotted."""
    for key, value in values.items():
        words = comment(values, key)
        if isinstance(value, dict):
            if words or not value:
                yield f"{place}{key}", "", words
            yield from rows(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", plain(value), words


def plain(value):
    """A value as params.yaml has it: 0.00001, not 1e-05; a list without brackets."""
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return np.format_float_positional(value, trim="0") if isinstance(value, float) else str(value)


def stale(values, stages):
    """The keys of params.yaml, dotted, that are not as the stages of dvc.lock were run with."""
    found = {}
    for stage in stages.values():
        for name, old in stage.get("params", {}).get("params.yaml", {}).items():
            new = values
            for key in name.split("."):
                new = new.get(key, {})
            was, now = [{key: value for key, value, _ in rows({name: side}) if value} for side in (old, new)]
            found |= {key: None for key in was | now if was.get(key) != now.get(key)}
    return list(found)
