"""Which entries of the work store no lock file needs: `python -m mtt.prune` removes them, with --dry it only lists them.

An entry is needed by a lock file that names its stage with the same code, inputs and parameters (but for those that the
entry serves any value of, such as the number of experts). Looked at are the dvc.lock of every ref of git, branches, tags and DVC's
experiments, and the working tree, as it is locked and as it stands: what a killed run left is needed there. An entry in use is kept.
"""

import fcntl
import json
import shutil
import subprocess
from pathlib import Path

from ruamel.yaml import YAML

from mtt import store
from mtt.params import read_all, run


def main(*options):
    """List every entry with its size and who needs it; remove those that nobody does."""
    if set(options) - {"--dry"}:
        raise ValueError(f"prune: found {' '.join(options)}; wanted nothing or --dry")
    known, freed = locks(), 0
    for about in sorted(store.root().glob(f"*/*/{store.ABOUT}")):
        entry, size = about.parent, sum(path.stat().st_size for path in about.parent.rglob("*") if path.is_file())
        with open(entry / "lock", "a") as lock:
            why = needed(json.loads(about.read_text()), known) or in_use(lock)
            freed += 0 if why else size
            print(f"{'keep  ' if why else 'remove'}  {entry}  {size / 1e6:9.1f} MB  {why or 'needed by no lock file'}")
            if not why and not options:
                shutil.rmtree(entry)
    print(f"{freed / 1e6:.1f} MB {'would be freed' if options else 'freed'}")


def locks():
    """{where: the stages of its dvc.lock} of the working tree and of every ref of git, in the YAML 1.2 of DVC."""
    found = {"the working tree's dvc.lock": Path("dvc.lock").read_text() if Path("dvc.lock").exists() else ""}
    for ref in git("for-each-ref", "--format=%(refname)").split():
        found[ref] = git("show", f"{ref}:dvc.lock")
    return {where: (YAML(typ="safe").load(text) or {}).get("stages", {}) for where, text in found.items()}


def git(*words):
    """What git prints; nothing where it fails, as for a ref without the file or outside of a repository."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout


def needed(about, known):
    """Who needs the entry: a ref, the working tree, or None."""
    for where, stages in known.items():
        lock = stages.get(about["stage"])
        if lock and agrees(about, {dep["path"]: dep["md5"] for dep in lock["deps"]}, lock.get("params", {}).get("params.yaml", {})):
            return f"needed by {where}"
    standing = {path: store.digest(path, "md5") for path in about["md5"] if Path(path).is_file()}
    return "needed by the working tree" if agrees(about, standing, read_all()) else None


def agrees(about, md5, params):
    """Whether the entry was made of this: what both name is equal, and no code is named by one alone.

    Inputs that a lock names only as part of a folder (the buffer) are not compared: so rather too much is kept.
    """
    code = [{path for path in names if path.endswith(".py")} for names in (about["md5"], md5)]
    files = all(md5.get(path, found) == found for path, found in about["md5"].items())
    return code[0] == code[1] and files and says(nested(params), about["params"])


def nested(params):
    """The sections of a lock, where a key in a section may stand alone: baseline.seed."""
    found = {}
    for name, value in params.items():
        *sections, key = name.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return found


def says(whole, part):
    """Whether the mapping `whole` says all that `part` says; it may say more."""
    if not isinstance(whole, dict) or not isinstance(part, dict):
        return whole == part
    return all(key in whole and says(whole[key], value) for key, value in part.items())


def in_use(lock):
    """Says so where a run holds the entry."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "in use"
    return None


if __name__ == "__main__":
    run(main)
