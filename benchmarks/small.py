"""What a smaller buffer costs: `python -m benchmarks.small FOLDER [SET...]` distils from buffers of fewer bytes, and scores what comes out.

Experts are trained once for each set, and each buffer is matched with the same distillation seeds. FOLDER keeps the runs, so that
what was killed goes on; Fashion-MNIST's files lie in FOLDER/raw as data/raw/README.md says. Writes results/benchmarks/small.json.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks import estimate, harness
from benchmarks.estimate import size_of
from benchmarks.scale import OUTS
from mtt import tables
from mtt.buffer import Buffer
from recipes.__main__ import update

SEEDS = (0, 1, 2)
# Differences from the default: as many snapshots as published for the digits; Fashion-MNIST at what two cores do in minutes.
SETS = {
    "digits": {"experts": {"epochs": 50}},
    "FashionMNIST": {
        "prepare": {"set": "FashionMNIST"},
        "network": {"depth": 3},
        "augmentation": {"families": ["color", "crop", "cutout", "flip", "scale", "rotate"]},
        "experts": {"count": 4, "epochs": 5, "batch": 256},
        "distill": {"iterations": 100, "max_start_epoch": 3, "lr_img": 300.0, "lr_init": 0.01, "validate": {"every": 0}},
        "evaluate": {"learning_rates": [0.01]},
    },
}
WHOLE = ("float32", "all")
BUFFERS = (WHOLE, ("float32", "read"), ("bfloat16", "read"), ("float16", "read"))
PREPARED = [f"prepared/{part}.safetensors" for part in ("train", "validation", "test")]


class Runs:
    """A folder in which stages run with the parameters of one set."""

    def __init__(self, folder, name):
        self.folder, self.raw = Path(folder, name), Path(folder, "raw").resolve()
        self.values = yaml.safe_load((harness.ROOT / "recipes/default.yaml").read_text())
        self.folder.mkdir(parents=True, exist_ok=True)
        self.set(SETS[name])

    def set(self, changes):
        """Change the parameters."""
        update(self.values, changes, "")
        (self.folder / "params.yaml").write_text(yaml.safe_dump(self.values))

    def stage(self, name, *paths, made):
        """Run a stage there, unless the file that it ends with is `made`. Raises CalledProcessError."""
        if (self.folder / made).exists():
            return
        environment = {**os.environ, "PYTHONPATH": str(harness.ROOT), "MTT_WORK": str(self.folder.resolve() / "work")}
        subprocess.run([sys.executable, "-m", f"stages.{name}", *paths], cwd=self.folder, env=environment, check=True)

    @property
    def read(self):
        """Snapshots that distillation reads: T+ + M."""
        return self.values["distill"]["max_start_epoch"] + self.values["distill"]["expert_epochs"]

    def buffer(self, dtype, snapshots):
        """Make one of BUFFERS; gives its folder."""
        self.set({"buffer": {"dtype": dtype, "snapshots": self.read if snapshots == "read" else snapshots}})
        out = f"{dtype}-{snapshots}"
        self.stage("buffer", "experts", f"{out}/buffer", f"{out}/experts.csv", made=f"{out}/experts.csv")
        return out

    def score(self, out, seed):
        """(matching loss over the last tenth of the iterations, mean test accuracy of the networks) of one distillation."""
        self.set({"distill": {"seed": seed}})
        to = f"{out}/{seed}"
        files = [f"{to}/{name}" for name in OUTS]
        self.stage("distill", f"{out}/buffer", *PREPARED[:2], *files, made=files[-1])
        self.stage("evaluate", "distilled", "ConvNet", "evaluate", files[0], *PREPARED[1:], f"{to}/score.json", made=f"{to}/score.json")
        metrics, score = [json.loads((self.folder / to / name).read_text()) for name in ("metrics.json", "score.json")]
        return metrics["loss"], score["mean"]


def measure(folder, name):
    """The records of one set, one for each buffer."""
    runs, found = Runs(folder, name), []
    runs.stage("prepare", str(runs.raw), *PREPARED, made=PREPARED[-1])
    runs.stage("experts", *PREPARED[:2], "experts", made=f"experts/{runs.values['experts']['count'] - 1:04d}.safetensors")
    exact = Buffer(runs.folder / runs.buffer(*WHOLE) / "buffer")
    for dtype, snapshots in BUFFERS:
        out = runs.buffer(dtype, snapshots)
        opened = Buffer(runs.folder / out / "buffer")
        record = {"set": name, "dtype": dtype, "snapshots": opened.index["snapshots"], "experts": len(opened.experts)}
        record |= {"bytes": sum(file["bytes"] for file in opened.index["files"]), "error": harness.rounded(error(exact, opened, runs))}
        if (dtype, snapshots) != WHOLE:  # of which distillation reads the same rows as of the one that is cut
            losses, accuracies = zip(*[runs.score(out, seed) for seed in SEEDS], strict=True)
            record |= {"losses": list(map(harness.rounded, losses)), "accuracies": list(map(harness.rounded, accuracies))}
        found.append(record)
    return found


def error(exact, opened, runs):
    """By how much rounding moves a segment's end from its start, in lengths of the segment: the mean over all experts and start epochs."""
    found = []
    for expert in range(len(exact.experts)):
        for start in range(runs.values["distill"]["max_start_epoch"]):
            (a, b), (c, d) = [each.segment(expert, start, runs.values["distill"]["expert_epochs"]) for each in (exact, opened)]
            found.append(float(((d - c) - (b - a)).norm() / (b - a).norm()))
    return statistics.fmean(found)


def markdown(records):
    """The table of RESULTS.md; the bytes of the first column are computed, the others measured."""
    names = list(dict.fromkeys(record["set"] for record in records))
    head = [
        "buffer",
        "CIFAR-10, 100 experts: bytes",
        *(f"{name}: {what}" for name in names for what in ("bytes", "error", "loss", "test %")),
    ]
    lines = []
    for number, (dtype, snapshots) in enumerate(BUFFERS):
        each = [[record for record in records if record["set"] == name][number] for name in names]
        cells = [f"{dtype}, {'all snapshots' if snapshots == 'all' else 'T+ + M snapshots'}", size_of(cifar10(dtype, snapshots))]
        cut = [[record for record in records if record["set"] == name][1] for name in names]
        lines.append(cells + [cell for record, exact in zip(each, cut, strict=True) for cell in row(record, exact)])
    return tables.markdown(head, lines)


def row(record, exact):
    """What is said of one set; a loss relative to that of `exact`, seed by seed."""
    if "losses" not in record:
        return [size_of(record["bytes"]), "0", "as below", "as below"]
    ratio = statistics.fmean(a / b for a, b in zip(record["losses"], exact["losses"], strict=True))
    mean, std = [100 * statistic(record["accuracies"]) for statistic in (statistics.fmean, statistics.pstdev)]
    return [size_of(record["bytes"]), f"{record['error']:.2g}", f"{ratio:.3f}", f"{mean:.1f} +- {std:.1f} ({len(record['accuracies'])})"]


def cifar10(dtype, snapshots):
    """Bytes of the paper's buffer for CIFAR-10 at 1 image per class, in this form."""
    case = estimate.CASES[0]
    return estimate.EXPERTS * case.file(estimate.SNAPSHOTS if snapshots == "all" else case.read, 4 if dtype == "float32" else 2)


def main(folder, *names):
    """Measure these sets, by default all, and store them beside what is there of others."""
    path = harness.RESULTS / "small.json"
    kept = json.loads(path.read_text()) if path.exists() else []
    found = {name: [record for record in kept if record["set"] == name] for name in SETS}
    for name in names or SETS:
        found[name] = measure(folder, name)
    records = [record for name in SETS for record in found[name]]
    path.write_text("[\n" + ",\n".join(" " + json.dumps(record) for record in records) + "\n]\n")
    print(markdown(records))


if __name__ == "__main__":
    main(*sys.argv[1:])
