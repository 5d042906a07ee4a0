"""What a student does on the way, on the default's digits: `python -m studies.probes` writes results/drift.csv and results/layers.csv.

drift   from an expert's start, along training on each method's set: how far the student is from where the expert ended, and its accuracy
layers  Equation 2 of each tensor of parameters on its own, after N steps without augmentation, for images learned by `match` and by `raw`
"""

import pandas as pd
import torch

from mtt import imageset, objectives
from mtt.buffer import Buffer
from mtt.convnet import ConvNet
from mtt.functional import as_function, set_parameters
from mtt.params import run
from mtt.training import accuracy
from mtt.unroll import Step, distance
from studies import runs
from studies.ablations import PAGE, SEEDS
from studies.runs import RESULTS, ROOT, Table, parameters

METHODS = ("random", "dm", "dsa", "distilled")
MARKS = (0, 5, 10, 20, 40, 80, 160, 320)  # steps after which the student is looked at
RATE = 0.02  # of sets that have learned no step size of their own: the one that the distilled set's starts from
LOSSES = {"match": {}, "raw": {"distill.loss": "raw", "distill.lr_img": 100.0}}
FOLDER = ROOT / ".work/studies/probes"


def student():
    """(the Buffer that is here, the Step of its network, the network)."""
    buffer = Buffer("data/buffer")
    index = buffer.index
    net = ConvNet(*index["shape"][:2], len(index["classes"]), **index["network"])
    return buffer, Step(as_function(net)), net


def walked(step, theta, found, rate, steps):
    """theta_0 .. theta_steps of plain SGD on all images of a set, without augmentation."""
    x, y = found.normalised(), found.labels
    yield theta
    for _ in range(steps):
        theta = theta - rate * step.gradient(theta, x, y)
        yield theta


def drift(method, seed, kept):
    """Add a row for each of MARKS: over all experts, the mean distance to their ends (Equation 2's) and the mean accuracy on validation."""
    buffer, step, net = student()
    held_out, found = imageset.load("data/prepared/validation.safetensors"), imageset.load(f"data/{method}/set.safetensors")
    x, y, looked = held_out.normalised(), held_out.labels, {mark: [] for mark in MARKS}
    for expert in range(len(buffer.experts)):
        start, target = buffer.segment(expert, 0, buffer.index["snapshots"] - 1)
        for number, theta in enumerate(walked(step, start, found, found.learning_rate or RATE, max(MARKS))):
            if number in looked:
                looked[number].append((float(distance(theta, start, target)[0]), accuracy(set_parameters(net, theta), x, y)))
    means = {mark: torch.tensor(pairs).mean(0).tolist() for mark, pairs in looked.items()}
    kept.add(*({"method": method, "seed": seed, "steps": mark, "distance": far, "accuracy": right} for mark, (far, right) in means.items()))


def layers(loss, seed, kept):
    """Add a row for each tensor of parameters and start epoch: Equation 2 of it alone, the mean over experts."""
    buffer, step, _ = student()
    found, n, rows = imageset.load("data/distilled/set.safetensors"), 20, []
    names, sizes = zip(*[(name, torch.Size(shape).numel()) for name, shape in buffer.index["layout"]], strict=True)
    for epoch in range(8):
        each = []
        for expert in range(len(buffer.experts)):
            start, target = buffer.segment(expert, epoch, 2)
            *_, theta = walked(step, start, found, found.learning_rate, n)
            each.append(objectives.by_layer(theta, start, target, sizes))
        for name, value in zip(names, torch.stack(each).mean(0).tolist(), strict=True):
            rows.append({"loss": loss, "seed": seed, "start_epoch": epoch, "layer": name, "distance": value})
    kept.add(*rows)


def tables(drifts, parts):
    """{name: Markdown} of both, over seeds: a row a method or loss, a column a step or tensor of parameters.

    Tensors that an expert leaves where they were have no share of its way: biases that an instance norm takes out again.
    """
    parts = parts.assign(distance=pd.to_numeric(parts.distance))
    parts = parts.groupby("layer").filter(lambda rows: rows.distance.notna().all())
    means = drifts.groupby(["method", "steps"])[["distance", "accuracy"]].mean().reset_index()
    means["cell"] = [f"{row.distance:.2f}, {100 * row.accuracy:.0f} %" for row in means.itertuples()]
    return {
        "drift": runs.markdown(means.pivot(index="method", columns="steps", values="cell"), "steps"),
        "layers": runs.markdown(parts.pivot_table("distance", "loss", "layer", sort=False).map("{:.2f}".format), "loss"),
    }


def main():
    """Measure what has no row."""
    drifts = Table(RESULTS / "drift.csv", ["method", "seed", "steps"], ["distance", "accuracy"])
    parts = Table(RESULTS / "layers.csv", ["loss", "seed", "start_epoch", "layer"], ["distance"])
    for seed in SEEDS:
        for loss, settings in LOSSES.items():
            apart = parts.of(loss=loss, seed=seed).empty
            lacking = [method for method in METHODS if loss == "match" and drifts.of(method=method, seed=seed).empty]
            if not (apart or lacking):
                continue
            with runs.inside(FOLDER, parameters("default", {**settings, "distill.seed": seed, "baseline.seed": seed})):
                for stage in ("prepare", "experts", "buffer", "distill"):
                    runs.stage(stage)
                if apart:
                    layers(loss, seed, parts)
                for method in lacking:
                    runs.stage("baseline", method) if method != "distilled" else None
                    drift(method, seed, drifts)
    runs.show(PAGE, tables(drifts.rows, parts.rows))


if __name__ == "__main__":
    run(main)
