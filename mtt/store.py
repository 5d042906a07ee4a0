"""The work store: finished and half-finished work, outside DVC, under a key of all that decides its bytes.

DVC removes a stage's outs before it runs the stage, and keeps nothing of a stage that was killed. So experts and
checkpoints are put here first, whole or not at all, and are linked from here into the stage's outs.
It lies in $MTT_WORK, by default `.work` of the repository, also where DVC runs in a copy of it (--temp, --queue).
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

# Modules of the project that are not in `deps:` and not in a key, each with a test of why: they cannot change a result, or
# (compiling, ranks) only its rounding, as the number of threads does.
MACHINERY = {"mtt", "stages", "mtt.params", "mtt.store", "mtt.workers", "mtt.progress", "mtt.compiling", "mtt.ranks", "stages.check"}


def folder(name, files, settings):
    """The store's folder for work determined by the bytes of `files`, by `settings` and by the code now loaded."""
    root = os.environ.get("MTT_WORK") or Path(os.environ.get("DVC_ROOT", "."), ".work")
    parts = [name, settings, {str(i): sha256(path) for i, path in enumerate(files)}, code()]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
    path = Path(root, name, key)
    path.mkdir(parents=True, exist_ok=True)
    return path


def code():
    """{module: sha256} of the project's loaded modules that decide bytes: the import closure of the running stage."""
    found = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        name = module.__spec__.name if name == "__main__" and getattr(module, "__spec__", None) else name
        if file and name.split(".")[0] in ("mtt", "stages") and name not in MACHINERY:
            found[name] = sha256(file)
    return found


def sha256(path):
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def held(path):
    """Hold the store's folder against a second run of the same work; wait where another run holds it. Gives the folder."""
    with open(Path(path, "lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another run is at the same work; waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


def link(source, destination):
    """Make `destination` the same file as `source`, hard-linked where the file system can, else copied."""
    Path(destination).unlink(missing_ok=True)
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)


def emptied(path):
    """The folder `path`, made where missing, without the files of this project that an earlier run left in it."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    for old in [*path.glob("*.safetensors"), *path.glob("index.json")]:
        old.unlink()
    return path
