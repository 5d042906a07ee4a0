"""Trajectories -> the buffer: checked, cut to what distillation reads, rounded, indexed. The thing that people share."""

import json
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from mtt import store, trajectory, waypoints
from mtt.files import write
from mtt.params import Augmentation, Network, Section, read, run


class Buffer(Section):
    """`buffer:`"""

    snapshots: Literal["all"] | Annotated[int, Field(ge=2)]  # the first so many of each expert are kept; distillation reads T+ + M
    dtype: Literal[trajectory.DTYPES]  # that their parameters are rounded to: float32 as trained, or half the bytes; read as float32
    waypoints: Literal["none"] | Annotated[int, Field(ge=2)]  # so many of these stand for all, straightened between them (MCT: 4 of 51)
    segment: int = Field(ge=1)  # epochs of the segments whose length is plotted


TOGETHER = ("layout", "network", "augmentation", "set", "classes", "shape", "mean", "std", "normalised_by", "experts")
SOMETIMES = ("whitening",)  # together too, where they are there


def main(experts, out, plot):
    """Check the trajectories in the folder `experts`, write the buffer to `out` and a CSV of their accuracies and segments to `plot`."""
    p = read("buffer", Buffer)
    wanted = {"network": read("network", Network).model_dump(), "augmentation": read("augmentation", Augmentation).model_dump()}
    found = [trajectory.load(path) for path in sorted(Path(experts).glob("*.safetensors"))]
    if not found:
        raise ValueError(f"{experts}: found no trajectory; wanted the files of stage experts")
    for expert in found:
        check(expert, found[0], wanted, p)
    out = store.emptied(out)
    common = {key: found[0].header[key] for key in (*TOGETHER, *SOMETIMES) if key in found[0].header}
    common["snapshots"] = len(found[0]) if p.snapshots == "all" else p.snapshots
    if p.dtype != "float32":  # which stands in no index: buffers that were made before there was another keep their bytes
        common["dtype"] = p.dtype
    if p.waypoints != "none":
        common["waypoints"] = waypoints.marks(common["snapshots"], p.waypoints)
    files = [keep(expert, out / Path(expert.path).name, common["snapshots"], p.dtype, common.get("waypoints")) for expert in found]
    write(out / "index.json", json.dumps({**common, "files": files}, indent=1, sort_keys=True) + "\n")
    write(plot, epochs(found, p.segment).to_csv(index=False, float_format="%.6g"))
    stored = f"{common['snapshots']} snapshots" + (f" as {p.waypoints} way-points" if p.waypoints != "none" else "")
    print(f"{out}: {len(files)} experts, {stored} each, {p.dtype}, {sum(f['bytes'] for f in files) / 1e6:.1f} MB")


def check(expert, first, wanted, p):
    """Raise ValueError unless `expert` belongs with `first`, with params.yaml, and is long enough."""
    if missing := [key for key in (*TOGETHER, "accuracy") if key not in expert.header]:
        raise ValueError(f"{expert.path}: found a header without {', '.join(missing)}; wanted a trajectory of stage experts")
    for key in (*TOGETHER, *SOMETIMES):
        if expert.header.get(key) != first.header.get(key):
            raise ValueError(f"{expert.path}: found {key} {expert.header.get(key)}; wanted {first.header.get(key)}, as in {first.path}")
    for section, values in wanted.items():
        if expert.header[section] != values:
            raise ValueError(f"{expert.path}: found {section} {expert.header[section]}; wanted {values}, as in params.yaml")
    if expert.progress is not None:
        raise ValueError(f"{expert.path}: found way-points of a trajectory; wanted all its snapshots")
    if p.snapshots != "all" and len(expert) < p.snapshots:
        raise ValueError(f"{expert.path}: found {len(expert)} snapshots; wanted buffer.snapshots = {p.snapshots} (more experts.epochs)")
    if len(expert) != len(first):
        raise ValueError(f"{expert.path}: found {len(expert)} snapshots; wanted {len(first)}, as in {first.path}")


def keep(expert, path, snapshots, dtype, marks=None):
    """Put the first `snapshots` of a trajectory at `path`, its own bytes where nothing is changed; gives its line of the index.

    `marks`: those snapshots alone, as way-points.
    """
    if (snapshots, dtype, marks) == (len(expert), expert.dtype, None):
        store.link(expert.path, path)
    else:
        header = {key: value for key, value in expert.header.items() if key != "kind"}
        theta, header["accuracy"], progress = expert[:snapshots], header["accuracy"][:snapshots], None
        if marks:
            theta, progress = waypoints.straighten(theta, trajectory.sizes(header["layout"]), marks)
            header |= {"waypoints": marks, "accuracy": [header["accuracy"][mark] for mark in marks]}
        trajectory.save(path, list(rounded(expert.path, theta, getattr(torch, dtype))), header, progress)
    return {"file": path.name, "sha256": store.digest(path), "bytes": path.stat().st_size}


def rounded(path, theta, dtype):
    """Parameters (n, P) of the trajectory in `path`, in `dtype`. Raises ValueError where one is past its largest number."""
    kept = theta.to(dtype)
    if not kept.isfinite().all():
        found = f"a parameter of {float(theta.abs().max()):g}"
        raise ValueError(f"{path}: found {found}; wanted at most {torch.finfo(dtype).max:g}, or another buffer.dtype")
    return kept


def epochs(found, segment):
    """Rows expert, epoch, accuracy (validation), length: ||theta*_t - theta*_{t+M}|| with M = `segment`, empty past the last."""
    import pandas as pd  # here: every stage loads this module, to check, and pandas takes a quarter as long as PyTorch

    rows = []
    for number, expert in enumerate(found):
        pairs = ((expert[first], expert[first + segment]) for first in range(len(expert) - segment))  # of all that are read, two at a time
        lengths = [float((start - end).norm()) for start, end in pairs]
        for epoch, accuracy in enumerate(expert.header["accuracy"]):
            length = lengths[epoch] if epoch < len(lengths) else None
            rows.append({"expert": number, "epoch": epoch, "accuracy": accuracy, "length": length})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    run(main)
