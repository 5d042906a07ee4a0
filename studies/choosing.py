"""Good runs and bad ones, for docs/choosing.md: `python -m studies.choosing` runs what has no row in results/choosing.csv.

On digits. It draws docs/choosing.svg and fills the page's table; `python -m studies.choosing NAME...` runs these alone.
"""

from pathlib import Path

import matplotlib
import pandas as pd

from mtt import imageset
from mtt.params import run
from studies import runs
from studies.runs import RESULTS, ROOT, Table, parameters, words

PAGE = ROOT / "docs/choosing.md"
EVERY = 20  # iterations between rows
LONG = {"distill.iterations": 400, "distill.validate.every": EVERY}
FIVE = {**LONG, "distill.ipc": 5, "baseline.ipc": 5, "distill.lr_img": 50.0}
ONE = {**LONG, "distill.max_start_epoch": 1, "distill.validate.networks": 5}  # a single segment of each expert
RUNS = {
    "good": FIVE,
    "diverging step size": {**FIVE, "distill.lr_lr": 0.001},
    "collapsed images": {**FIVE, "distill.batch_syn": 10, "distill.batch_per": "iteration"},
    "ten experts": ONE,
    "one expert": {**ONE, "experts.count": 1},
}
PANELS = list(RUNS)[:3], list(RUNS)[3:]  # each beside the good run of its kind
COLUMNS = ["loss", "step_size", "clamped", "validation_accuracy", "likeness"]


def curves(settings, folder):
    """A row for every EVERY iterations: their mean loss, the step size after them, how often it was clamped, accuracy on validation.

    The last one has the likeness of the images as well.
    """
    with runs.inside(folder, parameters("default", settings)):
        for name in ("prepare", "experts", "buffer", "distill"):
            runs.stage(name)
        curve, scores = pd.read_csv("results/distill/curves.csv"), pd.read_csv("results/distill/validation.csv")
        several = curve.groupby(((curve.iteration - 1) // EVERY).to_numpy())
        found = several.agg({"iteration": "last", "loss": "mean", "step_size": "last", "clamped": "sum"}).merge(scores, on="iteration")
        found["likeness"] = [None] * (len(found) - 1) + [runs.likeness(imageset.load(Path("data/distilled/last.safetensors")))]
    return found.to_dict("records")


def table(kept):
    """Markdown: a row for each run; what is at the end is the mean of its last quarter."""
    rows = {}
    for name, settings in RUNS.items():
        base = next(RUNS[names[0]] for names in PANELS if name in names)
        changed = {key: value for key, value in settings.items() if base.get(key) != value} or base
        numbers = kept.of(run=name)[COLUMNS].apply(pd.to_numeric)
        end, least, most = numbers.tail(len(numbers) // 4).mean(), numbers.min(), numbers.max()
        accuracy = f"{100 * end.validation_accuracy:.1f} ({100 * least.validation_accuracy:.1f})"
        step, likeness = f"{least.step_size:.2g} to {most.step_size:.2g}", "" if pd.isna(most.likeness) else f"{most.likeness:.2f}"
        rows[name] = [f"`{words(changed)}`", f"{end.loss:.3f}", step, f"{numbers.clamped.sum():.0f}", accuracy, likeness]
    columns = ["settings", "loss", "step size", "clamped", "validation % (least)", "likeness"]
    return runs.markdown(pd.DataFrame.from_dict(rows, orient="index", columns=columns), "run")


def draw(kept, path):
    """Loss, step size and validation accuracy over iterations, a line for each run; a row of panels for those that are compared."""
    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "choosing", "font.size": 9}
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(PANELS), 3, figsize=(11.6, 5.2), sharex=True, layout="constrained")
    labels = {"loss": "matching loss", "step_size": "step size", "validation_accuracy": "accuracy on validation"}
    for row, names in zip(panels, PANELS, strict=True):
        for panel, (column, label) in zip(row, labels.items(), strict=True):
            for name in names:
                own = kept.of(run=name)
                style = {"color": f"C{list(RUNS).index(name)}", "label": name}
                panel.plot(pd.to_numeric(own.iteration), pd.to_numeric(own[column]), **style)
            panel.set(title=label, yscale="log" if column == "loss" else "linear")
            panel.grid(alpha=0.3, which="both")
        row[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for panel in panels[-1]:
        panel.set_xlabel("iteration")
    figure.savefig(path, metadata={"Date": None})


def main(*names):
    """Run what is missing of these runs, by default all."""
    kept = Table(RESULTS / "choosing.csv", ["run", "iteration"], COLUMNS)
    for name in runs.named(names, RUNS):
        if kept.of(run=name).empty:
            kept.add(*({"run": name, **row} for row in curves(RUNS[name], ROOT / ".work/studies/choosing")))
    runs.show(PAGE, {"choosing": table(kept)})
    draw(kept, ROOT / "docs/choosing.svg")


if __name__ == "__main__":
    run(main)
