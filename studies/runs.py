"""One run of the pipeline's stages in a folder of its own, and the table that keeps what came of it.

A run is its settings, {"distill.syn_steps": 5}: what `dvc exp run` is told by -S, differences from the recipe that a study starts from.
Stages run by DVC's own commands but without DVC; experts and checkpoints are shared through the work store.
"""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import yaml
from ruamel.yaml import YAML

from mtt import imageset, store, tables
from mtt.files import write
from mtt.params import DIVERGED
from recipes.__main__ import merged, update
from stages.baseline import METHODS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
COLUMNS = ["test", "test_best_rate", "validation", "loss", "step_size", "likeness"]  # of a distilled set


def named(names, known):
    """What is to be run: these names, by default all that are known. Raises ValueError for one that is not."""
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"found NAME={unknown[0]}; wanted some of {'; '.join(known)}")
    return names or list(known)


def parameters(recipe, settings):
    """All of params.yaml: the recipe with the settings. Raises ValueError for a key that there is not."""
    text = io.StringIO()
    YAML().dump(merged(recipe), text)  # and read again, into plain types
    values = yaml.safe_load(text.getvalue())
    for key, value in settings.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        update(values, value, "")
    return values


def starting_from(method):
    """The settings by which a distillation starts from the set of a comparison method."""
    return {"distill.images": f"data/{method}/set.safetensors", "baselines": ["random", method]}


def words(settings):
    """The settings as `-S` takes them, in one order: the name of a row."""
    plain = {key: value if isinstance(value, str) else json.dumps(value, separators=(",", ":")) for key, value in settings.items()}
    return " ".join(f"{key}={value}" for key, value in sorted(plain.items()))


@contextmanager
def inside(folder, values):
    """Go to `folder`, made with its params.yaml, and hold it against a second study."""
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    with store.held(folder):
        (folder / "params.yaml").write_text(yaml.safe_dump(values))
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def stage(name, method="distilled", architecture="ConvNet", work=None):
    """Run a stage here, as dvc.yaml calls it, in a process of its own, which knows nothing of runs before. Raises CalledProcessError."""
    line = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]["cmd"]
    values = yaml.safe_load(Path("params.yaml").read_text())
    known = {"prepare.raw": ROOT / "data/raw", "distill.images": values["distill"]["images"]}
    known |= {"item.method": method, "item.architecture": architecture}
    for key, value in known.items():
        line = line.replace(f"${{{key}}}", str(value))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MTT_WORK": str(work or os.environ.get("MTT_WORK") or ROOT / ".work")}
    subprocess.run([sys.executable, *shlex.split(line)[2:]], env=environment, check=True)


def score(recipe, settings, seed, folder):
    """Distil by this recipe, settings and seed, and give what is in COLUMNS; nothing where the loss was no longer finite."""
    seeds = {"distill.seed": seed, "baseline.seed": seed}  # the latter of images to start from
    values = parameters(recipe, {**settings, **seeds})
    with inside(folder, values):
        for name in ("prepare", "experts", "buffer"):
            stage(name)
        if (method := Path(values["distill"]["images"]).parent.name) in METHODS:  # of that method's images
            stage("baseline", method)
        try:
            stage("distill")
        except subprocess.CalledProcessError as error:
            if error.returncode != DIVERGED:  # killed, refused, out of space: no result
                raise
            return {}
        stage("evaluate")
        cell = json.loads(Path("results/scores/distilled-ConvNet.json").read_text())
        metrics = json.loads(Path("results/distill/metrics.json").read_text())
        found = {"test": cell["mean"], "test_best_rate": cell["best_rate"]["mean"], "validation": metrics.get("validation_accuracy")}
        found |= {key: metrics[key] for key in ("loss", "step_size")}
        return found | {"likeness": likeness(imageset.load("data/distilled/set.safetensors"))}


def likeness(found):
    """The mean correlation of two images of one class, over all pairs and classes; None at one image per class."""
    pairs = []
    for several in found.images.flatten(1).chunk(len(found.classes)):  # class by class, as a distillation begins them
        if len(several) > 1:
            pairs.append(several.corrcoef()[*torch.triu_indices(len(several), len(several), 1)])
    return float(torch.cat(pairs).mean()) if pairs else None


def table(named, head):
    """Markdown of {name: its rows}: mean and deviation over seeds of the mean over networks."""
    lines = []
    for name, rows in named.items():
        means = [pd.to_numeric(rows[column]).mean() for column in COLUMNS[3:]]
        lines.append([name, *(spread(rows[column]) for column in COLUMNS[:3]), *("" if pd.isna(mean) else f"{mean:.3g}" for mean in means)])
    return tables.markdown([head, "test %", "at the best rate", "validation %", "loss", "step size", "likeness"], lines)


class Table:
    """The rows of finished runs in a CSV file: what names a run in the columns `keys`, what came of it in `columns`."""

    def __init__(self, path, keys, columns):
        self.path, self.keys, self.columns = path, keys, [*keys, *columns, "commit"]
        as_words = {"commit": str}  # some are all digits
        self.rows = pd.read_csv(path, keep_default_na=False, dtype=as_words) if path.exists() else pd.DataFrame(columns=self.columns)

    def of(self, **wanted):
        """The rows that have these values in their columns."""
        return self.rows[(self.rows[list(wanted)] == pd.Series(wanted)).all(axis=1)]

    def add(self, *rows):
        """Add rows, {column: value}, their numbers at six digits, and write the file, whole or not at all."""
        now = commit()
        rows = [{name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in row.items()} for row in rows]
        self.rows = pd.DataFrame([*self.rows.to_dict("records"), *({**row, "commit": now} for row in rows)], columns=self.columns)
        self.rows = self.rows.sort_values(self.keys, ignore_index=True)
        write(self.path, self.rows.to_csv(index=False, float_format="%.6g"))


def spread(means):
    """Mean, deviation and number of some accuracies, in %; one has no deviation, none is empty, as is a run that was not finished."""
    means = 100 * pd.to_numeric(means).dropna()
    deviation = f" +- {means.std(ddof=0):.1f}" if len(means) > 1 else ""
    return f"{means.mean():.1f}{deviation} ({len(means)})" if len(means) else ""


def markdown(frame, head):
    """A data frame of words in Markdown, its index under `head`."""
    lines = [[str(name), *row] for name, row in zip(frame.index, frame.values.tolist(), strict=True)]
    return tables.markdown([head, *map(str, frame.columns)], lines)


def shown(text, tables):
    """`text` with each table, {name: Markdown}, between its marks."""
    for name, table in tables.items():
        marks = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        text = re.sub(f"{marks[0]}.*?{marks[1]}", lambda _, marks=marks, table=table: marks[0] + table + marks[1], text, flags=re.DOTALL)
    return text


def show(page, tables):
    """Write the tables into the file `page`."""
    write(page, shown(page.read_text(), tables))


def commit():
    """The commit that runs, with a + where the code that decides results differs from it."""
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    changed = git(["git", "status", "--porcelain", "--", "mtt", "stages", "recipes", "studies", "dvc.yaml"]).stdout
    return git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip() + ("+" if changed else "")
