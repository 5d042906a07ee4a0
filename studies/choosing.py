"""A good run and three bad ones, for docs/choosing.md: `python -m studies.choosing` runs what has no row in results/choosing.csv.

Digits at 5 images per class. It draws docs/choosing.svg and fills the page's table; `python -m studies.choosing NAME...` runs these alone.
"""

import sys
from pathlib import Path

import matplotlib
import pandas as pd

from mtt import imageset
from studies import runs
from studies.runs import RESULTS, ROOT, Table, parameters, words

PAGE = ROOT / "docs/choosing.md"
EVERY = 20  # iterations between rows
BASE = {"distill.ipc": 5, "baseline.ipc": 5, "distill.lr_img": 50.0, "distill.iterations": 400, "distill.validate.every": EVERY}
RUNS = {
    "good": {},
    "diverging step size": {"distill.lr_lr": 0.001},
    "collapsed images": {"distill.batch_syn": 10, "distill.batch_per": "iteration"},
    "too few experts": {"experts.count": 1},
}
COLUMNS = ["loss", "step_size", "clamped", "validation_accuracy", "likeness"]


def curves(settings, folder):
    """A row for every EVERY iterations: their mean loss, the step size after them, how often it was clamped, accuracy on validation.

    The last one has the likeness of the images as well.
    """
    with runs.inside(folder, parameters("default", {**BASE, **settings})):
        for name in ("prepare", "experts", "buffer", "distill"):
            runs.stage(name)
        curve, scores = pd.read_csv("results/distill/curves.csv"), pd.read_csv("results/distill/validation.csv")
        several = curve.groupby(((curve.iteration - 1) // EVERY).to_numpy())
        found = several.agg({"iteration": "last", "loss": "mean", "step_size": "last", "clamped": "sum"}).merge(scores, on="iteration")
        found["likeness"] = [None] * (len(found) - 1) + [runs.likeness(imageset.load(Path("data/distilled/last.safetensors")))]
    return found.to_dict("records")


def table(kept):
    """Markdown: a row for each run."""
    rows = {}
    for name, settings in RUNS.items():
        numbers = kept.of(run=name)[COLUMNS].apply(pd.to_numeric)
        last = numbers.tail(5).mean()  # the last quarter
        step = f"{numbers.step_size.min():.3g} to {numbers.step_size.max():.3g}"
        accuracy = f"{100 * last.validation_accuracy:.1f}, once {100 * numbers.validation_accuracy.min():.1f}"
        rows[name] = [f"`{words(settings)}`" if settings else "", f"{last.loss:.3f}", step, f"{numbers.clamped.sum():.0f}", accuracy]
        rows[name].append(f"{numbers.likeness.dropna().iloc[-1]:.2f}")
    columns = ["changed", "loss, at the end", "step size", "clamped", "validation %, at the end and at worst", "likeness"]
    return runs.markdown(pd.DataFrame.from_dict(rows, orient="index", columns=columns), "run")


def draw(kept, path):
    """Loss, step size and validation accuracy over iterations, a line for each run."""
    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "choosing", "font.size": 9}
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(10.2, 3.2), layout="constrained")
    labels = {"loss": "matching loss", "step_size": "step size", "validation_accuracy": "accuracy on validation"}
    for panel, (column, label) in zip(panels, labels.items(), strict=True):
        for number, name in enumerate(RUNS):
            own = kept.of(run=name)
            panel.plot(pd.to_numeric(own.iteration), pd.to_numeric(own[column]), color=f"C{number}", label=name)
        panel.set(xlabel="iteration", title=label)
        panel.grid(alpha=0.3)
    panels[0].set_yscale("log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(RUNS), frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main(*names):
    """Run what is missing of these runs, by default all."""
    kept = Table(RESULTS / "choosing.csv", ["run", "iteration"], COLUMNS)
    for name in names or RUNS:
        if kept.of(run=name).empty:
            kept.add(*({"run": name, **row} for row in curves(RUNS[name], ROOT / ".work/studies/choosing")))
    runs.show(PAGE, {"choosing": table(kept)})
    draw(kept, ROOT / "docs/choosing.svg")


if __name__ == "__main__":
    main(*sys.argv[1:])
