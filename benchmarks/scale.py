"""A thousand simulated experts through stage buffer, push, a partial pull and distill, in clones of this repository.

`python -m benchmarks.scale` writes the seconds of each step, with ten experts and with a thousand, to results/benchmarks/scale.json.
Simulated: random walks from a network's initialisation, under the headers that stage experts writes. Real: all else, DVC too.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
import yaml

from benchmarks import harness
from mtt import imageset, tables, trajectory
from mtt.buffer import Buffer
from mtt.params import Augmentation, Network
from mtt.seeds import generator
from mtt.training import initialise
from recipes.__main__ import update
from stages import distill
from stages import experts as stage

EXPERTS, SNAPSHOTS = (10, 1000), 51
ONE = "0007.safetensors"
OUTS = distill.Outs._fields
TRAIN, VALIDATION = "data/prepared/train.safetensors", "data/prepared/validation.safetensors"


def parameters(count, snapshots):
    """Differences from the default: a small network, so many experts, few iterations that need no real image."""
    distill = {"start": "noise", "iterations": 10, "validate": {"every": 0}}
    return {"network": {"width": 8}, "experts": {"count": count, "epochs": snapshots - 1}, "distill": distill}


def run(folder, *words, **environment):
    """Run a command beside this Python in `folder`, quietly. Raises ChildProcessError with what it said."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    who = {f"GIT_{role}_{what}": "scale" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **who, "PATH": path, "MTT_WORK": "", **environment}
    done = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise ChildProcessError(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stdout}")


def prepare(clone, remote, count, snapshots):
    """A clone with the parameters, prepared images, the simulated experts and an empty remote."""
    run(clone.parent, "git", "clone", "--quiet", str(harness.ROOT), clone.name)
    values = yaml.safe_load((clone / "recipes/default.yaml").read_text())
    update(values, parameters(count, snapshots), "")
    (clone / "params.yaml").write_text(yaml.safe_dump(values))
    run(clone, "dvc", "remote", "add", "--default", "simulated", str(remote))
    run(clone, "dvc", "repro", "prepare")
    simulate(clone, values, count, snapshots)


def simulate(clone, values, count, snapshots):
    """Write data/experts."""
    data, network = imageset.load(clone / TRAIN), Network(**values["network"])
    net = stage.convnet(data, network)
    header = stage.about(net, data, network, Augmentation(**values["augmentation"]), stage.Experts(**values["experts"]))
    for index in range(count):
        draws = generator("simulated", index)
        theta = trajectory.vector(initialise(net, draws))
        steps = 0.01 * torch.randn(snapshots - 1, len(theta), generator=draws)
        path = torch.cat([theta[None], theta + steps.cumsum(0)])
        about = {**header, "index": index, "accuracy": [0.1] * snapshots}
        trajectory.save(clone / "data/experts" / stage.name(index), list(path), about)


def steps(clone, other):
    """{step: function()}, to be called in this order; `other` is a fresh clone of `clone` that has nothing but the remote."""
    paths = [TRAIN, VALIDATION, *(f"out/{name}" for name in OUTS)]
    opened = []
    return {
        "`dvc commit experts`: hashed, cached, linked": partial(run, clone, "dvc", "commit", "--force", "experts"),
        "stage buffer alone": partial(run, clone, "python", "-m", "stages.buffer", "data/experts", "alone", "alone.csv"),
        "`dvc repro --single-item buffer`": partial(run, clone, "dvc", "repro", "--single-item", "buffer"),
        "`dvc repro --single-item buffer`, up to date": partial(run, clone, "dvc", "repro", "--single-item", "buffer"),
        "`dvc push data/buffer`, to a folder": partial(run, clone, "dvc", "push", "data/buffer"),
        "`dvc push data/buffer`, nothing to do": partial(run, clone, "dvc", "push", "data/buffer"),
        "fresh clone": partial(fresh, clone, other),
        "there, `dvc pull` of one file": partial(pull_one, other),
        "there, `dvc pull data/buffer`": partial(run, other, "dvc", "pull", "data/buffer"),
        "there, the buffer opened": lambda: opened.append(Buffer(other / "data/buffer")),
        "there, its digests verified": lambda: opened[0].verify(),
        "there, stage distill, 10 iterations": partial(run, other, "python", "-m", "stages.distill", "data/buffer", *paths),
    }


def fresh(clone, other):
    """Commit what the lock and the parameters say, and clone it."""
    run(clone, "git", "commit", "--quiet", "--all", "--message", "simulated")
    run(clone.parent, "git", "clone", "--quiet", str(clone), other.name)


def pull_one(other):
    """A partial pull: of the buffer's files one, no other."""
    run(other, "dvc", "pull", f"data/buffer/{ONE}")
    assert [path.name for path in (other / "data/buffer").iterdir()] == [ONE]


def measure(count, snapshots=SNAPSHOTS):
    """{step: seconds} for so many experts, and what they are."""
    with harness.scratch() as folder:
        clone, other, remote = [Path(folder, name) for name in ("clone", "other", "remote")]
        prepare(clone, remote, count, snapshots)
        found = {name: harness.seconds(step) for name, step in steps(clone, other).items()}
        sizes = [path.stat().st_size for path in remote.rglob("*") if path.is_file()]
        about = {"experts": count, "snapshots": snapshots, "parameters": Buffer(other / "data/buffer").experts[0].shape[1]}
        times = {name: float(f"{value:.3g}") for name, value in found.items()}
        return {**about, "bytes": sum(sizes), "objects": len(sizes), "seconds": times}


def markdown(records):
    """The table of RESULTS.md."""
    head = ["seconds", *(f"{record['experts']:,} experts, {record['bytes'] / 1e6:.3g} MB" for record in records)]
    lines = [[name, *(f"{record['seconds'][name]:.2f}" for record in records)] for name in records[0]["seconds"]]
    return tables.markdown(head, lines)


def main():
    """Measure and write results/benchmarks/scale.json."""
    records = [measure(count) for count in EXPERTS]
    (harness.RESULTS / "scale.json").write_text(json.dumps(records, indent=1) + "\n")
    print(markdown(records))


if __name__ == "__main__":
    main()
