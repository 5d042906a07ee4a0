"""The buffer as distillation reads it: a folder of trajectories under one index.json, opened without reading their tensors."""

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mtt import foreign, trajectory, waypoints

SHARED = ("layout", "network", "augmentation", "set", "classes", "shape", "mean", "std", "snapshots")


class File(foreign.Schema):
    """A line of the index: one trajectory."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}\.safetensors$")]  # in the folder, nowhere else
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Index(trajectory.About):
    """The whole index."""

    snapshots: Annotated[int, Field(ge=1)]
    files: foreign.several(File, min_length=1)


class Buffer:
    """An open buffer. `index` says what all its trajectories share: layout, network, augmentation, set, classes, normalisation."""

    def __init__(self, path):
        """Open the folder `path`. Raises ValueError, naming the file, for what is missing, truncated or foreign."""
        self.path = Path(path)
        self.index = _index(self.path / "index.json")
        self.experts = [self._open(file["file"], file["bytes"]) for file in self.index["files"]]

    def _open(self, file, bytes):
        path = self.path / file
        size = path.stat().st_size if path.exists() else None
        if size != bytes:
            found = "no such file" if size is None else f"{size} bytes"
            raise ValueError(f"{path}: found {found}; wanted {bytes} bytes, as the index says: dvc pull, or dvc repro buffer")
        expert, marks = trajectory.load(path), self.index.get("waypoints")
        found, wanted = (expert.header["layout"], len(expert)), (self.index["layout"], len(marks) if marks else self.index["snapshots"])
        if found != wanted:
            raise ValueError(f"{path}: found a trajectory of another network or length; wanted {wanted[1]} snapshots of the index's layout")
        if expert.header.get("waypoints") != marks:
            raise ValueError(f"{path}: found waypoints {expert.header.get('waypoints')}; wanted {marks}, as the index says")
        if expert.dtype != self.dtype:
            raise ValueError(f"{path}: found theta of {expert.dtype}; wanted {self.dtype}, as the index says")
        return expert

    @property
    def dtype(self):
        """That all trajectories are stored in; an index that names none is of float32, as all were once."""
        return self.index.get("dtype", "float32")

    @property
    def straight(self):
        """Whether its trajectories are way-points, which are read between snapshots too."""
        return "waypoints" in self.index

    @property
    def parameters(self):
        """P, of a network."""
        return sum(trajectory.sizes(self.index["layout"]))

    def verify(self):
        """Raise ValueError unless every file has the bytes that the index names."""
        for file in self.index["files"]:
            with open(self.path / file["file"], "rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found != file["sha256"]:
                raise ValueError(f"{self.path / file['file']}: found sha256 {found}; wanted {file['sha256']}, as the index says")

    def check_set(self, path, about):
        """Raise ValueError unless the set in `path`, which is `about` that, is the one the experts were trained on."""
        keys = ("classes", "mean", "std", "shape", *({"whitening"} & self.index.keys()))
        wanted = {"name": self.index["set"], **{key: self.index[key] for key in keys}}
        if about != wanted:
            raise ValueError(f"{path}: found {about}; wanted {wanted}, as in {self.path}")

    def check(self, network, augmentation, snapshots, place="params.yaml"):
        """Raise ValueError unless the buffer was made by these parameter sections, which stand in `place`, and has so many snapshots."""
        for name, wanted in {"network": network, "augmentation": augmentation}.items():
            if self.index[name] != wanted:
                raise ValueError(f"{self.path}: found experts of {name} {self.index[name]}; wanted {wanted}, as in {place}")
        if self.index["snapshots"] < snapshots + self.straight:
            more = ", and 1 where there are way-points" if self.straight else ""
            wanted = f"distill.max_start_epoch + distill.expert_epochs = {snapshots}{more}"
            raise ValueError(f"{self.path}: found {self.index['snapshots']} snapshots; wanted {wanted}")

    def check_layout(self, layout):
        """Raise ValueError unless the experts' vectors are laid out as `layout`, that of the student."""
        if self.index["layout"] != layout:
            raise ValueError(f"{self.path}: found experts whose parameters are not those of its network, images and classes")

    def segment(self, expert, start, epochs):
        """theta*_start and theta*_{start + epochs} of one expert, each (P,) float32; only these two rows are read, or way-points around."""
        rows = self.experts[expert]
        return self._at(rows, start), self._at(rows, start + epochs)

    def every(self, epoch):
        """theta*_epoch (P,) of each expert, one at a time."""
        return (self._at(expert, epoch) for expert in self.experts)

    def _at(self, rows, epoch):
        if not self.straight:
            return rows[epoch]
        return waypoints.at(rows, rows.progress, self.index["waypoints"], trajectory.sizes(self.index["layout"]), epoch)


def _index(path):
    """The checked index in `path`."""
    try:
        with open(path, "rb") as file:
            text = file.read(foreign.LARGEST + 1)
        if len(text) > foreign.LARGEST:
            raise ValueError(f"more than {foreign.LARGEST} bytes")
        index = foreign.parsed(text)
        if missing := [key for key in (*SHARED, "files") if index.get(key) is None]:
            raise ValueError(f"no {', '.join(missing)}")
    except FileNotFoundError:
        raise ValueError(f"{path.parent}: found no index.json; wanted a buffer, as stage buffer writes it") from None
    except ValueError as error:
        raise ValueError(f"{path}: found no index ({error}); wanted one, as stage buffer writes it") from None
    about = foreign.held(path, Index, index)
    if not about.shape[0] == len(about.mean) == len(about.std):
        found = f"{about.shape[0]} channels, {len(about.mean)} means and {len(about.std)} deviations"
        raise ValueError(f"{path}: found {found}; wanted as many of each")
    if about.waypoints and about.waypoints[-1] != about.snapshots - 1:
        raise ValueError(f"{path}: found waypoints to {about.waypoints[-1]}; wanted to {about.snapshots - 1}, the last of its snapshots")
    if len({file.file for file in about.files}) < len(about.files):
        raise ValueError(f"{path}: found a file twice; wanted each once")
    return index
