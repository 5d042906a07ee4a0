"""Ablations of the paper on the default, digits at 1 image per class: `make ablations` runs what has no row in results/ablations.csv.

docs/ablations.md has a table for each study and what it says; `python -m studies.ablations NAME...` runs these alone.
"""

import json
import sys
from pathlib import Path
from subprocess import CalledProcessError

import pandas as pd
import torch

from mtt import imageset
from studies import runs
from studies.runs import RESULTS, ROOT, Table, parameters, spread, words

SEEDS = (0, 1, 2)
COLUMNS = ["test", "test_best_rate", "validation", "loss", "step_size", "likeness"]
PAGE = ROOT / "docs/ablations.md"
TEN = {"distill.ipc": 10, "baseline.ipc": 10, "distill.lr_img": 100.0}

STUDIES = {
    "range": [{"distill.syn_steps": n} for n in (1, 5, 10)] + [{}] + [{"distill.syn_steps": n} for n in (40, 80)],
    "expert-epochs": [{"distill.expert_epochs": m, "experts.epochs": 7 + m} for m in (1, 3, 5)] + [{}],
    "max-start-epoch": [{"distill.max_start_epoch": t, "experts.epochs": t + 1} for t in (1, 2, 4, 16)] + [{}],
    "experts": [{"experts.count": count} for count in (1, 2, 5, 20)] + [{}],
    "step-size": [{"distill.lr_lr": 0.0, "distill.lr_init": rate} for rate in (0.005, 0.01, 0.02, 0.04)] + [{}],
    "normalised": [{}] + [{"distill.loss": "raw", "distill.lr_img": rate} for rate in (10.0, 100.0, 1000.0)],
    "distance": [{}]
    + [{"distill.loss": "cosine", "distill.lr_img": rate} for rate in (10.0, 100.0)]
    + [{"distill.loss": "logits", "distill.lr_img": rate} for rate in (0.1, 1.0, 10.0)],
    "whole-process": [{}] + [{"distill.loss": "task", "distill.lr_img": rate} for rate in (1.0, 10.0, 100.0)],
    "batches": [{**TEN}] + [{**TEN, "distill.batch_syn": 20, "distill.batch_per": per} for per in ("step", "iteration")],
    "augmentation": [{}, {"augmentation.families": []}],
    "start": [{}, {"distill.start": "noise"}],
}  # fmt: skip


def score(settings, seed, folder):
    """Distil with these settings and seed, and give the row's columns; none of them where the loss was no longer finite."""
    with runs.inside(folder, parameters("default", {**settings, "distill.seed": seed})):
        for stage in ("prepare", "experts", "buffer"):
            runs.stage(stage)
        try:
            runs.stage("distill")
        except CalledProcessError as error:
            if error.returncode != 1:  # killed or interrupted: no result; a stage that refuses says why and ends with 1
                raise
            return {}
        runs.stage("evaluate")
        cell = json.loads(Path("results/scores/distilled-ConvNet.json").read_text())
        metrics = json.loads(Path("results/distill/metrics.json").read_text())
        found = {"test": cell["mean"], "test_best_rate": cell["best_rate"]["mean"], "validation": metrics["validation_accuracy"]}
        found |= {key: metrics[key] for key in ("loss", "step_size")}
        return found | {"likeness": likeness(imageset.load("data/distilled/set.safetensors"))}


def likeness(found):
    """The mean correlation of two images of one class, over all pairs and classes; None at one image per class."""
    pairs = []
    for label in range(len(found.classes)):
        several = found.images[found.of_class(label)].flatten(1)
        if len(several) > 1:
            pairs.append(several.corrcoef()[*torch.triu_indices(len(several), len(several), 1)])
    return float(torch.cat(pairs).mean()) if pairs else None


def table(name, kept):
    """The Markdown table of one study: mean and deviation over seeds of the mean over networks."""
    lines = [["settings", "test %", "at the best rate", "validation %", "loss", "step size", "likeness"]]
    lines.append(["---"] * len(lines[0]))
    for settings in STUDIES[name]:
        rows = kept.of(settings=words(settings))
        cells = [spread(rows[column]) for column in COLUMNS[:3]]
        means = [pd.to_numeric(rows[column]).mean() for column in COLUMNS[3:]]
        cells += ["" if pd.isna(mean) else f"{mean:.3g}" for mean in means]
        lines.append([f"`{words(settings)}`" if settings else "the default", *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables(kept):
    """{study: its Markdown}."""
    return {name: table(name, kept) for name in STUDIES}


def main(*names):
    """Run what is missing of these studies, by default all, seed by seed; each row is written when it is there."""
    kept = Table(RESULTS / "ablations.csv", ["settings", "seed"], COLUMNS)
    for seed in SEEDS:
        for settings in [settings for name in names or STUDIES for settings in STUDIES[name]]:
            if kept.of(settings=words(settings), seed=seed).empty:
                print(f"{words(settings) or 'the default'}, seed {seed}", flush=True)
                kept.add({"settings": words(settings), "seed": seed, **score(settings, seed, ROOT / ".work/studies/ablations")})
                runs.show(PAGE, tables(kept))


if __name__ == "__main__":
    main(*sys.argv[1:])
