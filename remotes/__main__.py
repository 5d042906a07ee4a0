"""`dvc push` and `dvc pull`, and what they leave out: does the remote answer, and is all of it there?

DVC waits minutes for a remote that is silent, sends nothing from an empty cache and calls that a success, takes a folder for
complete where its listing is there, and believes a listing that was altered. So the remote is asked first and now and then,
and afterwards `dvc data status` says what is missing.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress

PATIENCE = float(os.environ.get("MTT_PATIENCE") or 30)  # seconds that a remote may take to answer
HOW = "docs/remotes.md"


def push(remote):
    """Send what dvc.lock names to `remote`. Raises ValueError unless all of it is there afterwards."""
    if remote in ("", "published"):
        raise ValueError(f"remote: found {remote or 'none'}; wanted one of your own: dvc remote add -d NAME URL ({HOW})")
    code = watched(remote, "push")
    if lacking := status("--granular", "--not-in-remote", "--remote", remote).get("not_in_remote"):
        raise ValueError(f"{remote}: found no {listed(lacking)}; wanted all that dvc.lock names ({HOW}, Faults)")
    if code:
        raise ValueError(f"{remote}: found dvc push failing, as above; wanted it to succeed")


def pull(remote):
    """Bring what dvc.lock names from `remote`. Raises ValueError, naming what did not come whole; the rest has come."""
    if watched(remote, "pull"):
        for out in unlike():  # one by one: DVC brings nothing where one listing is harmed
            watched(remote, "pull", "--quiet", out, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if lacking := unlike("--granular"):
        raise ValueError(f"{remote}: found no whole {listed(lacking)}; wanted the bytes that dvc.lock names ({HOW}, Faults)")


def unlike(*words):
    """The paths that are not as dvc.lock names them in the cache; where it has all, those in the workspace."""
    found = status(*words)
    changed = found.get("uncommitted", {})
    return found.get("not_in_cache") or [*changed.get("modified", ()), *changed.get("deleted", ())]


def status(*words):
    """What `dvc data status` says. It reads HEAD's configuration too, and fails where a remote with --local settings is not committed."""
    found = subprocess.run(["dvc", "data", "status", "--json", *words], stdout=subprocess.PIPE)
    if found.returncode:
        raise ValueError(".dvc/config: found dvc data status failing, as above; wanted it committed to git, with every remote in it")
    return json.loads(found.stdout)


def listed(paths):
    """Paths in one line, less those in a folder that is named itself."""
    folders = tuple(path for path in paths if path.endswith("/"))
    paths = sorted(path for path in paths if path in folders or not path.startswith(folders))
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def watched(remote, *words, **streams):
    """Run `dvc WORDS`; gives its exit status. Raises ValueError, and ends it, where the remote does not answer two times in a row."""
    ask(remote)
    with subprocess.Popen(["dvc", *words, "--remote", remote], **streams) as process:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=PATIENCE)
            with suppress(ValueError):  # a push of hours is not ended for one answer
                ask(remote)
                continue
            try:
                ask(remote)
            except ValueError:
                process.kill()
                raise


def ask(remote):
    """Raise ValueError unless the remote answers, in a process of its own: no setting of DVC's bounds the time of all its attempts."""
    try:
        found = subprocess.run([sys.executable, "-m", "remotes", "look", remote], stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{remote}: found no answer in {PATIENCE:g} s; wanted a server's") from None
    if found.returncode:
        name, _, reason = found.stderr.strip().splitlines()[-1].partition(": ")  # of the exception
        if name.endswith("RemoteNotFoundError"):
            raise ValueError(f"remote: found no {remote} in .dvc/config; wanted one of `dvc remote list`: dvc remote add NAME URL ({HOW})")
        raise ValueError(f"{remote}: found no answer but {reason}; wanted a server's")


def look(remote):
    """Ask the remote for its folder, there or not; raises what DVC's file system raises where there is no answer."""
    from dvc.repo import Repo

    odb = Repo().cloud.get_remote_odb(remote)
    if not odb.fs.protocol.startswith("http"):
        odb.fs.exists(odb.path)
        return
    from aiohttp import ClientResponseError

    try:
        odb.fs.fs.cat_file(odb.path)  # exists() takes no answer for a no
    except FileNotFoundError:
        pass
    except ClientResponseError as error:
        if error.status == 401:
            raise


def default():
    """The name of the default remote, empty where there is none."""
    return subprocess.run(["dvc", "config", "core.remote"], stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    try:
        {"push": push, "pull": pull, "look": look}[sys.argv[1]]("".join(sys.argv[2:]) or default())
    except ValueError as error:
        sys.exit(f"error: {error}")
    except FileNotFoundError as error:
        sys.exit(f"error: found no command {error.filename}; wanted the one of .venv: source .venv/bin/activate")
