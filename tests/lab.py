"""What the tests of remotes work with: clones of this project, and remotes on real servers, set up by the recipes of docs/remotes.md."""

import getpass
import hashlib
import os
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager

import fsspec
from conftest import ROOT
from servers import ceph, nginx, sshd

DOCUMENT = (ROOT / "docs/remotes.md").read_text()


def md5(data):
    return hashlib.md5(data).hexdigest()


def documented(title, language="sh", **changes):
    """The blocks of one language under a title of docs/remotes.md, with our places for the document's; each must be there."""
    section = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", DOCUMENT, re.S | re.M)[1]
    text = "".join(re.findall(rf"^```{language}\n(.*?)^```", section, re.S | re.M))
    for old, new in changes.items():
        assert old in text, text
        text = text.replace(old, str(new))
    return text


class Clone:
    """A working tree, in which commands run with a home of its own, where no user's settings are."""

    def __init__(self, folder, home, **secrets):
        names = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        places = {"HOME": str(home), "DVC_SITE_CACHE_DIR": str(home / "site"), "PYTHONPATH": "", "PYTHONWARNINGS": ""}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DVC_", "XDG_", "MTT_"))}
        self.folder, self.secrets, self.environment = folder, secrets, {**kept, **names, **places, **secrets}

    def start(self, *words, **environment):
        """A command in a process group of its own."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        environment = {**self.environment, **environment}
        return subprocess.Popen(words, cwd=self.folder, env=environment, text=True, start_new_session=True, **pipes)

    def run(self, *words, fails=False, **environment):
        """What a command prints; it must succeed, or fail."""
        return ended(self.start(*words, **environment), fails)

    def dvc(self, *words, **options):
        return self.run("dvc", *words, **options)

    def git(self, *words):
        return self.run("git", *map(str, words))

    def make(self, *words, **options):
        """A target of the Makefile, with the packages that run these tests."""
        return self.run(*MAKE, *words, **options)

    def copy(self, name):
        """The same tree with the same data elsewhere."""
        shutil.copytree(self.folder, self.folder.parent / name, symlinks=True)
        return Clone(self.folder.parent / name, self.folder.parent, **self.secrets)

    def local(self, **options):
        """Write .dvc/config.local: settings of the remote."""
        lines = ["['remote \"lab\"']", *(f"    {name} = {value}" for name, value in options.items())]
        (self.folder / ".dvc/config.local").write_text("\n".join(lines) + "\n")

    def reseed(self):
        """Another seed for the baseline in params.yaml."""
        path = self.folder / "params.yaml"
        path.write_text(re.sub(r"(baseline:.*?seed: )0", r"\g<1>1", path.read_text(), count=1, flags=re.S))

    def files(self, folder="data"):
        """{path: md5} of what is in a folder."""
        paths = [path for path in sorted((self.folder / folder).rglob("*")) if path.is_file() and path.name != "README.md"]
        return {str(path.relative_to(self.folder)): md5(path.read_bytes()) for path in paths}


MAKE = ["make", "--silent", "--old-file=.venv/runtime"]


def ended(process, fails=False, seconds=120):
    """What a process printed; it must have ended in time, with success or not."""
    try:
        output = process.communicate(timeout=seconds)[0]
    finally:
        kill(process)
    assert (process.returncode != 0) == fails, output
    return output


def kill(process):
    """End a process and its children as the power would."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


class Lab:
    """A remote named lab, its default in a bare git repository, with the default's data in it.

    `root` is where its objects lie for the file system `store`, on the server's side; `sent` are those that the default's lock names.
    `port` is the server's; `via(port, place)` gives the settings by which it is another port and folder.
    `writer` is the remote to push to (http is read only).
    """

    port, writer, ssh, secrets, store = None, "lab", "", {}, fsspec.filesystem("file")

    def __init__(self, kind, project, folder, recipe, root, **facts):
        self.__dict__.update(kind=kind, folder=folder, root=str(root), **facts)
        (folder / ".ssh").mkdir()
        (folder / ".ssh/config").write_text(self.ssh)
        shutil.copytree(project.folder, folder / "author", symlinks=True)
        self.author, self.origin = Clone(folder / "author", folder, **self.secrets), folder / "origin.git"
        self.author.run("bash", "-ec", recipe.replace("pip install", "true"))
        self.author.git("init", "--quiet", "--bare", self.origin)
        self.author.git("remote", "set-url", "origin", self.origin)
        self.author.git("commit", "--quiet", "--all", "--message", "Add a remote")
        self.author.git("push", "--quiet", "origin", "HEAD:main")
        self.author.git("--git-dir", self.origin, "symbolic-ref", "HEAD", "refs/heads/main")
        self.author.dvc("push", "--remote", self.writer)
        self.sent = self.objects()

    def clone(self, name="reader"):
        """A fresh clone."""
        clone = Clone(self.folder / name, self.folder, **self.secrets)
        shutil.rmtree(clone.folder, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", self.origin, clone.folder], check=True)
        return clone

    def other(self, name="other"):
        """A repository with DVC and nothing else."""
        clone = Clone(self.folder / name, self.folder, **self.secrets)
        shutil.rmtree(clone.folder, ignore_errors=True)
        clone.folder.mkdir()
        clone.git("init", "--quiet")
        clone.dvc("init", "--quiet")
        return clone

    def path(self, oid):
        """Where an object lies."""
        return f"{self.root}/files/md5/{oid[:2]}/{oid[2:]}"

    def object(self, oid):
        """The bytes of an object."""
        return self.store.cat_file(self.path(oid))

    def objects(self, root=None):
        """{name: md5 of the bytes} of the objects of a remote, less what a broken transfer left beside them."""
        found = [path for path in self.store.find(f"{root or self.root}/files/md5") if not path.endswith(".tmp")]
        return {"".join(path.split("/")[-2:]): md5(self.store.cat_file(path)) for path in found}

    @contextmanager
    def changed(self, oid, data):
        """The object `oid` holds `data` instead; with None it is gone."""
        good = self.object(oid)
        self.put(oid, data)
        try:
            yield
        finally:
            self.put(oid, good)

    def put(self, oid, data):
        """Replace an object, which is read only where it is a file; None removes it."""
        if self.store.exists(self.path(oid)):
            self.store.rm_file(self.path(oid))
        if data is not None:
            self.store.pipe_file(self.path(oid), data)


@contextmanager
def folder_lab(project, folder):
    root = folder / "store"
    recipe = documented("A shared folder", **{"/mnt/lab/mtt": root})
    yield Lab("folder", project, folder, recipe, root, via=lambda port, place: {"url": f"{root}{place}"})


@contextmanager
def ssh_lab(project, folder):
    root = folder / "store"
    (folder / "server").mkdir()
    with sshd.serve(folder / "server") as port:
        facts = {"alice": getpass.getuser(), "22": port, "~/.ssh/id_ed25519": folder / "server/key"}
        ssh = documented("ssh", "sshconfig", **facts) + "    HostName 127.0.0.1\n"
        recipe = documented("ssh", **{"/srv/mtt": root})
        url = f"ssh://lab.example.org{root}"
        yield Lab(
            "ssh", project, folder, recipe, root, port=port, ssh=ssh, facts=facts,
            via=lambda port, place: {"url": url + place, "port": port},
        )  # fmt: skip


@contextmanager
def s3_lab(project, folder):
    (folder / "server").mkdir()
    with ceph.serve(folder / "server") as port:
        endpoint = "http://127.0.0.1:{}".format
        store = fsspec.filesystem("s3", key=ceph.KEY, secret=ceph.SECRET, endpoint_url=endpoint(port), use_listings_cache=False)
        store.mkdir("bucket")
        secrets = dict(re.findall(r"(AWS_\w+)=(\S+)", documented("S3, MinIO, Ceph", "env")))
        recipe = documented("S3, MinIO, Ceph", **{"https://s3.lab.example.org": endpoint(port)})
        yield Lab(
            "s3", project, folder, recipe, "bucket/mtt", port=port, secrets=secrets, store=store,
            via=lambda port, place: {"url": "s3://bucket/mtt" + place, "endpointurl": endpoint(port)},
        )  # fmt: skip


@contextmanager
def http_lab(project, folder):
    (folder / "server").mkdir()
    with nginx.serve(folder / "server", folder / "www") as (port, guarded):
        url = "http://127.0.0.1:{}/mtt".format
        recipe = documented("http, read only", **{"/srv/www": folder / "www", "https://lab.example.org/mtt": url(port)})
        yield Lab(
            "http", project, folder, recipe, folder / "www/mtt", port=port, guarded=guarded, writer="store",
            via=lambda port, place: {"url": url(port) + place},
        )  # fmt: skip


KINDS = {"folder": folder_lab, "ssh": ssh_lab, "s3": s3_lab, "http": http_lab}
