"""What a smaller buffer costs: `python -m benchmarks.small [SET...]` distils from buffers of fewer bytes, and scores what comes out.

Experts are trained once for each set, and each buffer is matched with the same distillation seeds. The work store keeps
experts and distillations, so that what was killed goes on. Writes results/benchmarks/small.json.
"""

import json
import statistics
from pathlib import Path

from benchmarks import estimate, harness
from benchmarks.estimate import size_of
from mtt import tables
from mtt.buffer import Buffer
from mtt.params import run
from studies import runs
from studies.runs import ROOT, parameters

SEEDS = (0, 1, 2)
# Differences from the default: as many snapshots as published for the digits; Fashion-MNIST at what two cores do in minutes.
SETS = {
    "digits": {"experts.epochs": 50},
    "FashionMNIST": {
        "prepare.set": "FashionMNIST", "network.depth": 3, "augmentation.families": ["color", "crop", "cutout", "flip", "scale", "rotate"],
        "experts.count": 4, "experts.epochs": 5, "experts.batch": 256,
        "distill.iterations": 100, "distill.max_start_epoch": 3, "distill.lr_img": 300.0, "distill.lr_init": 0.01,
        "distill.validate.every": 0, "evaluate.learning_rates": [0.01],
    },
}  # fmt: skip
WHOLE = ("float32", "all")
BUFFERS = (WHOLE, ("float32", "read"), ("bfloat16", "read"), ("float16", "read"))
FOLDER = ROOT / ".work/studies/small"


def made(name, dtype, snapshots):
    """One of BUFFERS, open, in a folder of its own; and the settings that it is made by."""
    distill = parameters("default", SETS[name])["distill"]
    read = distill["max_start_epoch"] + distill["expert_epochs"]
    settings = SETS[name] | {"buffer.dtype": dtype, "buffer.snapshots": read if snapshots == "read" else snapshots}
    with runs.inside(FOLDER / f"{name}-{dtype}-{snapshots}", parameters("default", settings)):
        for stage in ("prepare", "experts", "buffer"):
            runs.stage(stage)
        return Buffer(Path("data/buffer").resolve()), settings


def measure(name):
    """The records of one set, one for each buffer."""
    distill, found, exact = parameters("default", SETS[name])["distill"], [], None
    for dtype, snapshots in BUFFERS:
        opened, settings = made(name, dtype, snapshots)
        exact = exact or opened
        off = error(exact, opened, distill["max_start_epoch"], distill["expert_epochs"])
        record = {"set": name, "dtype": dtype, "snapshots": opened.index["snapshots"], "experts": len(opened.experts)}
        record |= {"bytes": sum(file["bytes"] for file in opened.index["files"]), "error": harness.rounded(off)}
        if (dtype, snapshots) != WHOLE:  # of which distillation reads the same rows as of the one that is cut
            scores = [runs.score("default", settings, seed, FOLDER / "runs") for seed in SEEDS]
            if not all(scores):
                raise ArithmeticError(f"{name}, {dtype}: a loss was no longer finite")
            for key, column in {"losses": "loss", "accuracies": "test"}.items():
                record[key] = [harness.rounded(score[column]) for score in scores]
        found.append(record)
    return found


def error(exact, opened, starts, epochs):
    """By how much rounding moves a segment's end from its start, in lengths of the segment: the mean over all experts and start epochs."""
    found = []
    for expert in range(len(exact.experts)):
        for start in range(starts):
            (a, b), (c, d) = [each.segment(expert, start, epochs) for each in (exact, opened)]
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


def main(*names):
    """Measure these sets, by default all, and store them beside what is there of others."""
    path = harness.RESULTS / "small.json"
    kept = json.loads(path.read_text()) if path.exists() else []
    found = {name: [record for record in kept if record["set"] == name] for name in SETS}
    for name in runs.named(names, SETS):
        found[name] = measure(name)
    records = [record for name in SETS for record in found[name]]
    path.write_text("[\n" + ",\n".join(" " + json.dumps(record) for record in records) + "\n]\n")
    print(markdown(records))


if __name__ == "__main__":
    run(main)
