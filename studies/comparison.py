"""MTT beside the other methods, under one protocol and one budget: `make comparison` runs what has no row in results/comparison.csv.

A row: one set of images (method, seed), scored on one architecture. Where a method learns its images, it is given at least the
wall-clock of MTT's distillation from experts that are there; `seconds` says what it took, so leave the machine to it.
"""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from mtt.params import run
from mtt.tables import markdown
from studies import runs
from studies.runs import RESULTS, ROOT, Table, parameters, spread

SEEDS = (0, 1, 2)
KEYS, COLUMNS = ["recipe", "ipc", "method", "architecture", "seed"], ["mean", "std", "best_mean", "best_std", "seconds"]
METHODS = ("random", "herding", "k_center", "dc", "dsa", "dm", "distilled", "whole")  # the last is the bound
# LeNet where the side is 28: an image there costs AlexNet 73 times the operations of a ConvNet of width 32.
ARCHITECTURES = {"default": ("ConvNet", "AlexNet"), "fashion-mnist-ipc1-cpu": ("ConvNet", "LeNet")}
# Differences from each recipe, for each number of images per class: the budget is stated by them.
CASES = {
    ("default", 1): {},
    ("default", 10): {  # experts, T+, steps and their size of digits-ipc10
        "experts.epochs": 13, "experts.learning_rate": 0.1,
        "distill.syn_steps": 40, "distill.max_start_epoch": 12, "distill.lr_init": 0.1, "distill.lr_img": 100.0,
        "baseline.dc.outer": 10, "baseline.dc.inner": 50, "baseline.dc.iterations": 100,
        "baseline.dsa.outer": 10, "baseline.dsa.inner": 50, "baseline.dsa.iterations": 80,
        "baseline.dm.iterations": 7500,
    },
    ("fashion-mnist-ipc1-cpu", 1): {
        "network.width": 32, "evaluate.epochs.LeNet": 300, "whole.epochs.ConvNet": 20,
        "baseline.dc.iterations": 600, "baseline.dc.batch_real": 256, "baseline.dsa.iterations": 600, "baseline.dsa.batch_real": 256,
        "baseline.dm.iterations": 1200, "baseline.dm.batch_real": 256,
    },
    ("fashion-mnist-ipc1-cpu", 10): {
        "network.width": 32, "evaluate.epochs.LeNet": 300,
        "experts.epochs": 11, "distill.max_start_epoch": 10, "distill.iterations": 100, "distill.lr_img": 1000.0,
        "baseline.dc.outer": 10, "baseline.dc.inner": 50, "baseline.dc.iterations": 40, "baseline.dc.batch_real": 256,
        "baseline.dsa.outer": 10, "baseline.dsa.inner": 50, "baseline.dsa.iterations": 40, "baseline.dsa.batch_real": 256,
        "baseline.dm.iterations": 2000, "baseline.dm.batch_real": 256,
    },
}  # fmt: skip


def one(recipe, ipc, settings, seed, folder, kept):
    """Make every set that has no row, and score it on each architecture that it has none on."""
    case = {"recipe": recipe, "ipc": ipc, "seed": seed}
    there = {(row.method, row.architecture) for row in kept.of(**case).itertuples()}
    lacking = {method: [name for name in scored_on(method, **case) if (method, name) not in there] for method in METHODS}
    if not any(lacking.values()):
        return
    seeds = {"distill.seed": seed, "baseline.seed": seed, "distill.ipc": ipc, "baseline.ipc": ipc}
    with runs.inside(folder / f"{recipe}-{ipc}", parameters(recipe, {**settings, **seeds})):
        for stage in ("prepare", "experts", "buffer"):
            runs.stage(stage)
        for method in filter(lacking.get, METHODS):
            print(f"{recipe}, {ipc} a class, {method}, seed {seed}", flush=True)
            seconds = made(method)
            for architecture in lacking[method]:
                kept.add({**case, "method": method, "architecture": architecture, **score(method, architecture), "seconds": seconds})
            runs.show(ROOT / "RESULTS.md", tables(kept))


def scored_on(method, recipe, ipc, seed):
    """Architectures; the whole set, which depends on neither number, once and on the ConvNet alone."""
    return ARCHITECTURES[recipe] if method != "whole" else ("ConvNet",) if (ipc, seed) == (1, 0) else ()


def made(method):
    """Make the set of a method with nothing kept from before; gives the seconds that it took."""
    with TemporaryDirectory() as work:
        began = time.monotonic()
        if method != "whole":
            runs.stage(*(["distill"] if method == "distilled" else ["baseline", method]), work=work)
    return round(time.monotonic() - began, 1)


def score(method, architecture):
    """The columns of a row but for the seconds."""
    runs.stage(*(["evaluate_whole", ""] if method == "whole" else ["evaluate", method]), architecture)
    cell = json.loads(Path(f"results/scores/{method}-{architecture}.json").read_text())
    return {name: cell[name] for name in ("mean", "std")} | {f"best_{name}": cell["best_rate"][name] for name in ("mean", "std")}


def tables(kept):
    """{name: Markdown} of a table for each recipe."""
    return {f"comparison: {recipe}": table(kept.of(recipe=recipe), recipe) for recipe in ARCHITECTURES}


def table(rows, recipe):
    """Markdown: mean and deviation over seeds of the mean of 5 networks, in %, a row a method; and the seconds of its sets."""
    head, body = ["method"], {method: [method] for method in METHODS} | {"best": ["distilled, at the best rate"]}
    for ipc, case in rows.groupby("ipc"):
        head += [f"{ipc} a class: {name}" for name in (*ARCHITECTURES[recipe], "seconds")]
        for method, cells in body.items():
            own = case[case.method == ("distilled" if method == "best" else method)]
            for name in ARCHITECTURES[recipe]:
                cells.append(spread(own[own.architecture == name]["best_mean" if method == "best" else "mean"]))
            seconds = own.drop_duplicates(["seed", "seconds"]).seconds  # a set's, which several architectures are scored on
            cells.append(f"{seconds.mean():.0f}" if len(own) and method not in ("best", "whole") else "")
    return markdown(head, body.values())


def main(*names):
    """Run what is missing of these recipes, by default all, seed by seed."""
    kept, names = Table(RESULTS / "comparison.csv", KEYS, COLUMNS), runs.named(names, dict.fromkeys(recipe for recipe, _ in CASES))
    for seed in SEEDS:
        for (recipe, ipc), settings in CASES.items():
            if recipe in names:
                one(recipe, ipc, settings, seed, ROOT / ".work/studies/comparison", kept)


if __name__ == "__main__":
    run(main)
