"""Ablations of the paper on the default, digits at 1 image per class: `make ablations` runs what has no row in results/ablations.csv.

docs/ablations.md has a table for each study and what it says; `python -m studies.ablations NAME...` runs these alone.
"""

from mtt.params import run
from studies import runs
from studies.runs import RESULTS, ROOT, Table, words

SEEDS = (0, 1, 2)
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
    "selection": [{}, {"distill.validate.every": 0}],
}  # fmt: skip


def table(name, kept):
    """The Markdown table of one study."""
    names = [f"`{words(settings)}`" if settings else "the default" for settings in STUDIES[name]]
    return runs.table({name: kept.of(settings=words(settings)) for name, settings in zip(names, STUDIES[name], strict=True)}, "settings")


def tables(kept):
    """{study: its Markdown}."""
    return {name: table(name, kept) for name in STUDIES}


def main(*names):
    """Run what is missing of these studies, by default all, seed by seed; each row is written when it is there."""
    kept = Table(RESULTS / "ablations.csv", ["settings", "seed"], runs.COLUMNS)
    for seed in SEEDS:
        for settings in [settings for name in runs.named(names, STUDIES) for settings in STUDIES[name]]:
            if kept.of(settings=words(settings), seed=seed).empty:
                print(f"{words(settings) or 'the default'}, seed {seed}", flush=True)
                found = runs.score("default", settings, seed, ROOT / ".work/studies/ablations")
                kept.add({"settings": words(settings), "seed": seed, **found})
                runs.show(PAGE, tables(kept))


if __name__ == "__main__":
    run(main)
