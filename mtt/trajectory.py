"""A trajectory: one expert's parameters after every epoch, theta (snapshots, P), in one file that is opened lazily.

Stored in float32, or rounded to bfloat16 or float16 (2 bytes instead of 4); read as float32. Or as a few way-points
(mtt/waypoints.py), the header's `waypoints` saying which snapshots they stand for, with their `progress` (snapshots, tensors).
"""

import math
import reprlib
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, Strict

from mtt import foreign, tensorfile

DTYPES = ("float32", "bfloat16", "float16")


def vector(network):
    """A copy (P,) of a network's parameters, in the order of `named_parameters`. torch.cat always copies."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def layout(network):
    """[[name, shape], ...] of a network's parameters: what a vector of them means."""
    return [[name, list(parameter.shape)] for name, parameter in network.named_parameters()]


def sizes(layout):
    """The number of parameters of each tensor in a layout."""
    return [math.prod(shape) for _, shape in layout]


def save(path, snapshots, header, progress=None):
    """Write the list of vectors (P,) in `snapshots` and `header`: layout, network, set, augmentation, seed, accuracy per epoch."""
    tensors = {"theta": torch.stack(snapshots)} | ({} if progress is None else {"progress": progress})
    tensorfile.save(path, tensors, {"kind": "trajectory", **header})


@dataclass
class Trajectory:
    """An open trajectory: `header` is read, rows of theta are read when asked for."""

    path: str
    header: dict
    place: tuple  # of theta in the file
    progress: torch.Tensor = None  # of way-points

    @property
    def shape(self):
        """(snapshots, P)."""
        return self.place[1]

    @property
    def dtype(self):
        """That theta is stored in, one of DTYPES."""
        return str(self.place[0]).removeprefix("torch.")

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        """One snapshot (P,), or several (k, P) for a slice, float32; only these rows are read."""
        first, last, step = (index if isinstance(index, slice) else slice(index, index + 1 or None)).indices(len(self))
        if step != 1:
            raise IndexError(f"{self.path}: found rows by steps of {step}; wanted neighbours")
        if last <= first and not isinstance(index, slice):
            raise IndexError(f"{self.path}: found no snapshot {index}; wanted one of {len(self)}")
        rows = tensorfile.read_rows(self.path, self.place, first, max(first, last)).float()
        return rows if isinstance(index, slice) else rows[0]


class About(foreign.Schema):
    """What a trajectory's header and a buffer's index say of experts, where they say it."""

    layout: foreign.several(Annotated[tuple[foreign.Word, foreign.Shape], Strict(False)], min_length=1)
    network: dict = None
    augmentation: dict = None
    set: foreign.Word = None
    classes: foreign.several(str, min_length=1) = None
    shape: foreign.several(Annotated[int, Field(ge=1, le=1 << 16)], min_length=3, max_length=3) = None  # of an image
    mean: foreign.several(float) = None
    std: foreign.several(Annotated[float, Field(gt=0)]) = None
    whitening: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = None  # its digest, where the set is whitened
    waypoints: foreign.several(Annotated[int, Field(ge=0, le=1 << 24)], min_length=2) = None  # the snapshots that they stand for
    accuracy: foreign.several(Annotated[float, Field(ge=0, le=1)] | None) = None  # of each snapshot; null: not known


def load(path):
    """The Trajectory in `path`. Raises ValueError, naming the path, for a file of another layout."""
    header, places = tensorfile.read_header(path, "trajectory")
    if "theta" not in places:
        raise ValueError(f"{path}: found tensors {reprlib.repr(list(places))}; wanted theta")
    about, shape = foreign.held(path, About, header), places["theta"][1]
    wanted = sum(sizes(about.layout))
    if len(shape) != 2 or shape[1] != wanted or not shape[0]:
        raise ValueError(f"{path}: found theta of shape {shape}; wanted (snapshots, {wanted}), as its header says")
    if about.accuracy and len(about.accuracy) != shape[0]:
        raise ValueError(f"{path}: found {len(about.accuracy)} accuracies; wanted one for each of {shape[0]} snapshots")
    found = Trajectory(str(path), header, places["theta"], _progress(path, about, places))
    if found.dtype not in DTYPES:
        raise ValueError(f"{path}: found theta of {found.dtype}; wanted {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    return found


def _progress(path, about, places):
    """The way-points' progress, checked, or None where there are none."""
    if about.waypoints is None:
        return None
    wanted = (about.waypoints[-1] + 1, len(about.layout))
    if about.waypoints != sorted({0, *about.waypoints}) or len(about.waypoints) != places["theta"][1][0]:
        raise ValueError(f"{path}: found waypoints {reprlib.repr(about.waypoints)}; wanted one for each row of theta, from 0 on, in order")
    if "progress" not in places or places["progress"][:2] != (torch.float32, wanted):
        raise ValueError(f"{path}: found way-points without their progress; wanted a tensor of that name, float32 {wanted}")
    found = tensorfile.read_rows(path, places["progress"], 0, wanted[0])
    evenly = torch.arange(len(about.waypoints), dtype=torch.float32)[:, None].expand(-1, wanted[1])
    if not ((found.diff(dim=0) >= 0).all() and torch.equal(found[about.waypoints], evenly)):
        raise ValueError(f"{path}: found progress that is not from way-point to way-point; wanted it rising, and whole at each")
    return found


if __name__ == "__main__":  # no stage comes here, so what it imports is in no stage's deps
    from mtt import importing, params

    params.run(importing.trajectories)
