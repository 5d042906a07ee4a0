"""The buffer as distillation reads it: a folder of trajectories under one index.json, opened without reading their tensors."""

import hashlib
import json
from pathlib import Path

from mtt import trajectory

SHARED = ("layout", "network", "augmentation", "set", "classes", "shape", "mean", "std", "snapshots")


class Buffer:
    """An open buffer. `index` says what all its trajectories share: layout, network, augmentation, set, classes, normalisation."""

    def __init__(self, path):
        """Open the folder `path`. Raises ValueError, naming the file, for what is missing, truncated or foreign."""
        self.path = Path(path)
        try:
            self.index = json.loads((self.path / "index.json").read_text())
            files = self.index["files"]
            missing = [key for key in SHARED if key not in self.index]
            if missing or not files or any({"file", "sha256", "bytes"} - set(file) for file in files):
                raise KeyError
        except FileNotFoundError:
            raise ValueError(f"{self.path}: found no index.json; wanted a buffer, as stage buffer writes it") from None
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f"{self.path / 'index.json'}: found no index; wanted one, as stage buffer writes it") from None
        self.experts = [self._open(**file) for file in files]

    def _open(self, file, bytes, **_):
        path = self.path / file
        size = path.stat().st_size if path.exists() else None
        if size != bytes:
            found = "no such file" if size is None else f"{size} bytes"
            raise ValueError(f"{path}: found {found}; wanted {bytes} bytes, as the index says")
        expert = trajectory.load(path)
        found, wanted = (expert.header["layout"], len(expert)), (self.index["layout"], self.index["snapshots"])
        if found != wanted:
            raise ValueError(f"{path}: found a trajectory of another network or length; wanted {wanted[1]} snapshots of the index's layout")
        if expert.dtype != self.dtype:
            raise ValueError(f"{path}: found theta of {expert.dtype}; wanted {self.dtype}, as the index says")
        return expert

    @property
    def dtype(self):
        """That all trajectories are stored in; an index that names none is of float32, as all were once."""
        return self.index.get("dtype", "float32")

    def verify(self):
        """Raise ValueError unless every file has the bytes that the index names."""
        for file in self.index["files"]:
            with open(self.path / file["file"], "rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found != file["sha256"]:
                raise ValueError(f"{self.path / file['file']}: found sha256 {found}; wanted {file['sha256']}, as the index says")

    def check_set(self, path, about):
        """Raise ValueError unless the set in `path`, which is `about` that, is the one the experts were trained on."""
        wanted = {"name": self.index["set"], **{key: self.index[key] for key in ("classes", "mean", "std", "shape")}}
        if about != wanted:
            raise ValueError(f"{path}: found {about}; wanted {wanted}, as in {self.path}")

    def check(self, network, augmentation, snapshots):
        """Raise ValueError unless the buffer was made by these parameter sections and has so many snapshots."""
        for name, wanted in {"network": network, "augmentation": augmentation}.items():
            if self.index[name] != wanted:
                raise ValueError(f"{self.path}: found experts of {name} {self.index[name]}; wanted {wanted}, as in params.yaml")
        if self.index["snapshots"] < snapshots:
            wanted = f"distill.max_start_epoch + distill.expert_epochs = {snapshots}"
            raise ValueError(f"{self.path}: found {self.index['snapshots']} snapshots; wanted {wanted}")

    def segment(self, expert, start, epochs):
        """theta*_start and theta*_{start + epochs} of one expert, each (P,) float32; only these two rows are read."""
        rows = self.experts[expert]
        return rows[start], rows[start + epochs]
