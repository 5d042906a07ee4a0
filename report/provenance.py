"""How a run came about, as HTML: the commit, what is not as it was run, and the commands."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from report.markup import note, text
from report.parameters import read, stale

AGAIN = """git checkout {}
dvc pull      # the data, where your remote has them
dvc repro     # what is missing or has changed
"""


def current():
    """({name: lines of dvc.lock} of the stages that dvc.yaml and params.yaml make now, not those of runs before that DVC leaves there;
    the names of those that were run with something else than stands here, where it does). Raises ValueError where DVC fails.
    """
    try:
        repo = Repo()
        names, changed = [stage.addressing for stage in repo.index.stages], repo.status()
    except DvcException as error:
        raise ValueError(f"dvc: found {' '.join(str(error).split())}; wanted a clone of the project") from None
    locked = read("dvc.lock")["stages"] if Path("dvc.lock").exists() else {}
    return {name: locked[name] for name in names if name in locked}, [name for name in names if others(changed.get(name, []))]


def others(found):
    """What `dvc status` says of one stage's inputs, but for files that are not here."""
    deps = [each["changed deps"] for each in found if isinstance(each, dict) and "changed deps" in each]
    return [path for each in deps for path, what in each.items() if what != "deleted"]


def html(values, stages):
    """The commit and what brings it back, then the commands of the `stages` of dvc.lock."""
    commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
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
