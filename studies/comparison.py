"""MTT beside the other methods, under one protocol and one budget: `make comparison` runs what has no row in results/comparison.csv.

A row: one set of images (method, seed), scored on one architecture. Where a method learns its images, it is given at least the
wall-clock of MTT's distillation from experts that are there, alone on the machine in the same way; `seconds` says what it took.
"""

import json
import sys
import time
from pathlib import Path

from studies import runs
from studies.runs import RESULTS, ROOT, Table, parameters

SEEDS = (0, 1, 2)
KEYS, COLUMNS = ["recipe", "ipc", "method", "architecture", "seed"], ["mean", "std", "best_mean", "best_std", "seconds"]
METHODS = ("random", "herding", "k_center", "dc", "dsa", "dm", "distilled")
ARCHITECTURES = ("ConvNet", "AlexNet")
WHOLE = "whole"  # the bound: the same at any number of images
# Differences from each recipe, for each number of images per class: the budget is stated by them.
CASES = {
    ("default", 1): {},
    ("default", 10): {"distill.iterations": 200, "distill.lr_img": 100.0},
}  # fmt: skip


def one(recipe, ipc, settings, seed, folder, kept):
    """Make every set that has no row, and score it on each architecture that it has none on."""
    seeds = {"distill.seed": seed, "baseline.seed": seed, "distill.ipc": ipc, "baseline.ipc": ipc}
    with runs.inside(folder / f"{recipe}-{ipc}", parameters(recipe, {**settings, **seeds})):
        for stage in ("prepare", "experts", "buffer"):
            runs.stage(stage)
        for method in METHODS:
            key = {"recipe": recipe, "ipc": ipc, "method": method, "seed": seed}
            lacking = [name for name in ARCHITECTURES if kept.of(**key, architecture=name).empty]
            if not lacking:
                continue
            print(f"{recipe}, {ipc} a class, {method}, seed {seed}", flush=True)
            began = time.monotonic()
            runs.stage(*(["distill"] if method == "distilled" else ["baseline", method]))
            seconds = round(time.monotonic() - began, 1)
            for architecture in lacking:
                runs.stage("evaluate", method, architecture)
                cell = json.loads(Path(f"results/scores/{method}-{architecture}.json").read_text())
                best = {f"best_{name}": cell["best_rate"][name] for name in ("mean", "std")}
                kept.add(**key, architecture=architecture, mean=cell["mean"], std=cell["std"], **best, seconds=seconds)


def main(*names):
    """Run what is missing of these recipes, by default all, seed by seed."""
    kept = Table(RESULTS / "comparison.csv", KEYS, COLUMNS)
    for seed in SEEDS:
        for (recipe, ipc), settings in CASES.items():
            if not names or recipe in names:
                one(recipe, ipc, settings, seed, ROOT / ".work/studies/comparison", kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
