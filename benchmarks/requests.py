"""How many requests DVC sends to an S3 remote: `python -m benchmarks.requests s3://BUCKET/EMPTY/PATH [ENDPOINT]` counts and prints them.

Credentials come from the environment. For folders of 10 and of 50 small files, and of one file that travels in parts: a push, a pull
in a fresh clone, and a partial pull there. Counted in DVC's own process, where aiobotocore sends them; a retry counts too.
"""

import os
import sys
from pathlib import Path

from benchmarks import harness
from benchmarks.scale import run

FOLDERS = {"10 files": [3000] * 10, "50 files": [3000] * 50, "one file in three parts": [120_000_000]}  # bytes of each file
HOOK = """
import os
from aiobotocore.httpsession import AIOHTTPSession
send = AIOHTTPSession.send
async def counted(self, request):
    with open(os.environ["COUNT"], "a") as file:
        file.write(request.method + "\\n")
    return await send(self, request)
AIOHTTPSession.send = counted
"""


def count(folder, *words, cwd):
    """Requests of a dvc command."""
    log = Path(folder, "log")
    log.write_text("")
    run(cwd, "dvc", *words, PYTHONPATH=str(Path(folder, "hook")), COUNT=str(log))
    return len(log.read_text().splitlines())


def measure(folder, url, endpoint, sizes):
    """{command: requests}; DVC's notes of what a remote holds are kept apart from others'."""
    clone, other = Path(folder, "clone"), Path(folder, "other")
    Path(folder, "hook").mkdir()
    Path(folder, "hook/sitecustomize.py").write_text(HOOK)
    (clone / "data").mkdir(parents=True)
    for number, size in enumerate(sizes):
        (clone / f"data/{number}").write_bytes(os.urandom(size))
    for words in ("git init --quiet", "dvc init", f"dvc remote add --default s3 {url}", "dvc remote modify s3 verify true"):
        run(clone, *words.split())
    if endpoint:
        run(clone, "dvc", "remote", "modify", "s3", "endpointurl", endpoint)
    for words in ("dvc add data", "git add .", "git commit --quiet --message data"):
        run(clone, *words.split())
    found = {"push": count(folder, "push", cwd=clone), "push, nothing to do": count(folder, "push", cwd=clone)}
    for name, target in (("pull", "data"), ("pull of one file", "data/0")):
        run(folder, "git", "clone", "--quiet", str(clone), f"{other}-{target[5:]}")
        found[name] = count(folder, "pull", target, cwd=f"{other}-{target[5:]}")
    return found


def main(url, endpoint=None):
    """Print the counts."""
    for number, (name, sizes) in enumerate(FOLDERS.items()):
        with harness.scratch() as folder:
            os.environ["DVC_SITE_CACHE_DIR"] = f"{folder}/site"
            found = measure(folder, f"{url.rstrip('/')}/{number}", endpoint, sizes)
        print(f"{name}: " + ", ".join(f"{command} {requests}" for command, requests in found.items()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
