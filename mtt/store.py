"""The work store: finished and half-finished work, outside DVC, under a key of all that decides its bytes.

DVC removes a stage's outs before it runs the stage, and keeps nothing of a stage that was killed. So experts and
checkpoints are put here first, whole or not at all, and are linked from here into the stage's outs.
It lies in $MTT_WORK, by default `.work` of the repository, also where DVC runs in a copy of it (--temp, --queue).
Each entry says in ABOUT what it was made of, in the words of a lock file, so that mtt.prune can tell whether one needs it.
"""

import ast
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from mtt.files import write

ABOUT = "about.json"

# Modules of the project that are not in `deps:` and not in a key, each with a test of why: they cannot change a result, or
# (compiling, ranks) only its rounding, as the number of threads does.
MACHINERY = {"mtt", "stages", "stages.check"} | {
    f"mtt.{name}"
    for name in (
        "params",
        "store",
        "workers",
        "progress",
        "files",
        "compiling",
        "ranks",
        "cluster",
        "slurm",
        "job",
        "errors",
        "memory",
        "environment",
    )
}


def root():
    """Where the store lies."""
    return Path(os.environ.get("MTT_WORK") or Path(os.environ.get("DVC_ROOT", "."), ".work"))


def folder(stage, files, settings):
    """The store's folder for what a `stage` or `stage@item` makes of the bytes of `files` and `settings` {section: values} by its code."""
    modules = code(f"stages.{stage.partition('@')[0]}")
    decides = {name: digest(file) for name, file in modules.items()}
    parts = [stage, settings, {str(i): digest(path) for i, path in enumerate(files)}, decides]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
    path = root() / stage / key
    used = {str(file): file for file in files} | {f"{name.replace('.', '/')}.py": file for name, file in modules.items()}
    about = {"stage": stage, "params": settings, "md5": {name: digest(file, "md5") for name, file in used.items()}}
    write(path / ABOUT, json.dumps(about, indent=1) + "\n")
    return path


def code(module):
    """{module: file} of the project's modules that decide what one of them gives: it, and all that it imports, directly or not."""
    found, new = {}, {module}
    while new:
        found |= {name: source(name) for name in new}
        new = {name for known in new for name in imported(known)} - found.keys() - MACHINERY
    return found


@cache
def imported(module):
    """The project's modules that the text of one names; what stands in mtt/ under `__main__` is for other commands and no stage's."""
    found, tree = set(), ast.parse(source(module).read_text(encoding="utf-8"))
    if module.startswith("mtt."):
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("mtt", "stages") and source(name).is_file()}


def source(module):
    """The file of a module of the project."""
    return Path(__file__).parents[1] / f"{module.replace('.', '/')}.py"


def digest(path, kind="sha256"):
    """Hex digest of a file; md5 is what lock files name."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def due(saved):
    """Whether a checkpoint is to be written, the last one being of time.monotonic() = `saved`: every $MTT_SAVE_EVERY seconds."""
    every = os.environ.get("MTT_SAVE_EVERY") or "20"
    try:
        return time.monotonic() - saved > float(every)
    except ValueError:
        raise ValueError(f"MTT_SAVE_EVERY: found {every}; wanted seconds") from None


@contextmanager
def held(path):
    """Hold the store's folder against a second run of the same work; wait where another run holds it. Gives the folder."""
    with open(Path(path, "lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another run is at the same work; waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in Path(path).glob("*.tmp"):  # of a run that was killed while it wrote
            if not left.name.startswith(ABOUT):  # which another run may be writing: it is written before the folder is held
                left.unlink()
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
    for old in [*path.glob("*.safetensors"), *path.glob("index.json"), *path.glob("*.png")]:
        old.unlink()
    return path
