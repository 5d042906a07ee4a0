"""How a run came about, as HTML: the commit, what is not as it was run, and the commands."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from report.markup import note, text
from report.parameters import read, stale

AGAIN = """git checkout {}
dvc pull      # the data, where your remote has them
dvc repro     # what is missing or has changed
"""


def html(values, lock):
    """The commit and what brings it back, then the commands of the stages from the file `lock`, dvc.lock."""
    commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    stages = read(lock)["stages"] if Path(lock).exists() else {}
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in ("torch", "dvc"))])
    found = f"<p>Commit <code>{text(commit)}</code>. This page was made with {text(versions)}.</p>"
    if changed:
        found += note(f"Not committed: {', '.join(line[3:] for line in changed.splitlines())}.")
    if other := stale(values, stages):
        found += note(f"Changed in params.yaml since it was run: {', '.join(other)}.")
    return f"{found}<pre>{text(AGAIN.format(commit))}</pre>{commands(stages)}"


def commands(stages):
    """The command lines of the stages of dvc.lock."""
    lines = {name: stage["cmd"] if isinstance(stage["cmd"], str) else "\n".join(stage["cmd"]) for name, stage in stages.items()}
    items = "".join(f"<dt>{text(name)}</dt><dd><pre>{text(found)}</pre></dd>" for name, found in lines.items())
    return f"<details><summary>The commands of the {len(stages)} stages, as dvc.lock has them</summary><dl>{items}</dl></details>"


def git(*words):
    """What git prints."""
    found = subprocess.run(["git", *words], capture_output=True, text=True)
    if found.returncode:
        raise ValueError(f"git {words[0]}: found {found.stderr.strip().splitlines()[-1]}; wanted a clone of the project")
    return found.stdout.rstrip()
