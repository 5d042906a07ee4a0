"""What networks reach that were trained on the images, as HTML: from the CSVs of stages/report.py."""

import json
from pathlib import Path

import pandas as pd

from report.markup import absent, note, text
from stages.report import ROBUST, pivot


def metrics(path):
    """The numbers of the distillation, as a list."""
    if not Path(path).exists():
        return ""
    numbers = json.loads(Path(path).read_text())
    items = "".join(f"<div><dt>{text(name.replace('_', ' '))}</dt><dd>{value:.4g}</dd></div>" for name, value in numbers.items())
    return f'<dl class="metrics">{items}</dl>'


def scores(path, changed):
    """The table of scores: a row for each method, a column for each architecture. `changed`: the stages that are to be run for it again."""
    if not Path(path).exists():
        return absent("No scores", "`dvc repro` makes them")
    names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    old = note(f"Not of what stands here: {names}, as they were run before it. `dvc repro` runs them again.") if changed else ""
    return old + table(pivot(pd.read_csv(path)).map(score))


def score(cell):
    """A cell `mean +- std (n)` of the table, its mean before the rest."""
    mean, _, rest = cell.partition(" +- ")
    return f"<b>{mean}</b> <small>± {rest}</small>" if cell else ""


def robustness(path):
    """The table of DD-Ranking's scores, less the columns that are empty; nothing where all are."""
    if not Path(path).exists():
        return ""
    found = pd.read_csv(path).set_index(ROBUST[:2]).dropna(axis=1, how="all")
    if found.empty:
        return ""
    found = found.map(lambda value: f"{100 * value:.1f}" if pd.notna(value) else "")
    return f"<h3>Robustness, in the terms of DD-Ranking, in %</h3>{table(found)}"


def table(found):
    """A DataFrame of HTML as a table that scrolls by itself where it is wider than the page."""
    found = found.rename(index=text, columns=text)
    return f'<div class="wide">{found.to_html(border=0, escape=False, index_names=False)}</div>'
