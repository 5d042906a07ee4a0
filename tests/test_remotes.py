"""Data travels by real servers, and what goes wrong is noticed. What travels is the default's data, in clones of this project."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from lab import DOCUMENT, KINDS, MAKE, Clone, documented, ended, kill
from servers import free_port, proxy

from mtt.buffer import Buffer

pytestmark = [pytest.mark.remote, pytest.mark.slow]

BUFFER, FILE = "data/buffer", "data/buffer/0003.safetensors"


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A clone of this project with the default's data."""
    folder = tmp_path_factory.mktemp("project")
    subprocess.run(["git", "clone", "--quiet", ROOT, folder / "tree"], check=True)
    clone = Clone(folder / "tree", folder)
    clone.dvc("pull", "--quiet")
    return clone


@pytest.fixture(scope="session")
def labs(project, tmp_path_factory):
    """A function that gives the Lab of a kind, its server started on first use."""
    with ExitStack() as stack:
        made = {}

        def lab(kind):
            if kind not in made:
                made[kind] = stack.enter_context(KINDS[kind](project, tmp_path_factory.mktemp(kind)))
            return made[kind]

        yield lab


@pytest.fixture
def lab(labs, request):
    return labs(request.param)


def on(*kinds):
    return pytest.mark.parametrize("lab", kinds, indirect=True)


@pytest.fixture(scope="session")
def names(project):
    """{path: name of its object} of the buffer's files and of its listing."""
    outs = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]["buffer"]["outs"]
    listing = next(out["md5"] for out in outs if out["path"] == BUFFER)
    entries = json.loads((project.folder / ".dvc/cache/files/md5" / listing[:2] / listing[2:]).read_text())
    return {BUFFER: listing, **{f"{BUFFER}/{entry['relpath']}": entry["md5"] for entry in entries}}


@on("folder", "ssh", "s3", "http")
def test_what_was_pushed_is_pulled_one_file_or_all(lab):
    reader = lab.clone()
    reader.dvc("pull", FILE)
    wanted = lab.author.files()
    assert reader.files() == {FILE: wanted[FILE]}
    reader.make("pull")
    assert reader.files() == wanted
    assert set(lab.objects()) >= set(wanted.values())


@on("folder", "ssh", "s3", "http")
def test_another_repository_gets_and_imports_a_buffer(lab):
    """What it keeps of the other names no secret; a clone of it pulls the import from where it came."""
    other, wanted = lab.other(), [*lab.author.files(BUFFER).values()]
    other.dvc("get", str(lab.origin), BUFFER, "-o", "got")
    other.dvc("import", str(lab.origin), BUFFER, "-o", "theirs")
    assert [*other.files("got").values()] == [*other.files("theirs").values()] == wanted
    for folder in ("got", "theirs"):
        Buffer(other.folder / folder).verify()
    kept = (other.folder / "theirs.dvc").read_text() + (other.folder / ".dvc/config").read_text()
    assert not [name for name, secret in lab.secrets.items() if "KEY" in name and secret in kept]
    for folder in ("theirs", ".dvc/cache"):
        other.run("rm", "-r", folder)
    other.dvc("pull")
    assert [*other.files("theirs").values()] == wanted


@pytest.fixture(scope="session")
def rerun(project):
    """The project after a stage was run with another seed, and nothing committed."""
    clone = project.copy("rerun")
    clone.reseed()
    clone.dvc("repro", "--single-item", "baseline@random")
    return clone


@pytest.fixture(scope="session")
def runner(rerun):
    """A function that gives the author of a Lab who has run that stage."""
    made = {}

    def run(lab):
        if lab not in made:
            made[lab] = lab.author.copy("runner")
            for name in ("params.yaml", "dvc.lock", "data", ".dvc/cache"):
                made[lab].run("rm", "-rf", name)
                made[lab].run("cp", "-a", str(rerun.folder / name), name)
        return made[lab]

    return run


@on("folder", "ssh", "s3")
def test_with_the_run_cache_another_clone_skips_the_stage(lab, runner):
    """A run that is in no commit: its parameters, and what was pushed, suffice."""
    reader = lab.clone()
    runner(lab).dvc("push", "--run-cache")
    reader.dvc("pull", "--run-cache", "data/prepared/train.safetensors")
    reader.reseed()
    assert "is cached - skipping run" in reader.dvc("repro", "--single-item", "--pull", "baseline@random")
    assert reader.files("data/random") == runner(lab).files("data/random") != lab.author.files("data/random")


@on("folder", "ssh", "s3", "http")
def test_an_experiment_travels_with_its_data(lab, runner):
    reader = lab.clone()
    runner(lab).dvc("exp", "save", "--force", "--name", "reseeded")
    runner(lab).dvc("exp", "push", "--remote", lab.writer, "origin", "reseeded")
    reader.dvc("exp", "pull", "origin", "reseeded")
    reader.dvc("exp", "apply", "reseeded")
    assert reader.files("data/random") == runner(lab).files("data/random") != lab.author.files("data/random")
    assert (reader.folder / "params.yaml").read_text() == (runner(lab).folder / "params.yaml").read_text()


@on("ssh", "s3")
def test_a_push_that_is_killed_half_way_is_completed_by_the_next(lab):
    root, author = lab.root + "-killed", lab.author.copy("killed")
    with proxy.dying(lab.port, up=2_000_000) as line:
        author.local(**lab.via(line.port, "-killed"))
        process = author.start("dvc", "push")
        assert line.silent.wait(60)
        kill(process)
    assert len(lab.objects(root)) < len(lab.sent)
    author.local(**lab.via(lab.port, "-killed"))
    author.make("push")
    assert lab.objects(root) == lab.sent == {name: name.removesuffix(".dir") for name in lab.sent}


@on("ssh", "s3", "http")
def test_a_pull_that_is_killed_half_way_is_completed_by_the_next(lab):
    reader = lab.clone()
    with proxy.dying(lab.port, down=2_000_000) as line:
        reader.local(**lab.via(line.port, ""))
        process = reader.start("dvc", "pull")
        assert line.silent.wait(60)
        kill(process)
    assert reader.files() != lab.author.files()
    reader.local(**lab.via(lab.port, ""))
    reader.make("pull")
    assert reader.files() == lab.author.files()


@on("ssh", "s3", "http")
def test_a_dead_server_is_said_in_one_line_and_keeps_nobody_waiting(lab):
    """Gone, silent from the start, or silent half way: MTT_PATIENCE seconds to ask, asked now and then."""
    limits = {"silent": {"up": 0}, "pull": {"down": 2_000_000}, "push": {"up": 2_000_000}}
    if lab.writer != "lab":
        del limits["push"]
    with ExitStack() as stack:
        lines = {name: stack.enter_context(proxy.dying(lab.port, **limit)) for name, limit in limits.items()}
        ports = {"gone": free_port(), **{name: line.port for name, line in lines.items()}}
        started = [dying(lab, name, port) for name, port in ports.items()]
        for process in started:
            output = ended(process, fails=True, seconds=94)
            assert re.search(r"^error: lab: found no answer (in 20 s|but .)", output, re.M), output
        assert all(line.silent.is_set() for line in lines.values())


def dying(lab, name, port):
    """A `make push` or `make pull` over a line that dies."""
    clone = lab.author.copy("dead-push") if name == "push" else lab.clone(f"dead-{name}")
    clone.local(**lab.via(port, "-dead" if name == "push" else ""))
    return clone.start(*MAKE, "push" if name == "push" else "pull", MTT_PATIENCE="20")  # on a busy machine an answer takes longer than 6


@on("ssh", "s3", "http")
def test_dvc_itself_fails_too_where_the_server_is_gone(lab):
    reader = lab.clone()
    reader.local(**lab.via(free_port(), ""))
    process = reader.start("dvc", "pull", FILE)
    assert BUFFER in ended(process, fails=True) or lab.kind != "http"


def cut(good):
    return good[: len(good) // 2]


def altered(good):
    return good[:-1] + bytes([good[-1] ^ 1])


@on("folder", "ssh", "s3", "http")
def test_a_harmed_object_fails_the_pull_which_names_the_out(lab, names):
    """Once it is mended, the next pull brings it."""
    reader = lab.clone()
    for harm in (cut, altered):
        with lab.changed(names[FILE], harm(lab.object(names[FILE]))):
            assert re.search(f"^{BUFFER}$", reader.dvc("pull", fails=True), re.M)
            assert not (reader.folder / FILE).exists()
    reader.dvc("pull")
    assert reader.files() == lab.author.files()


def entries(listing):
    """The names of the objects in a folder's listing."""
    return [entry["md5"].encode() for entry in json.loads(listing)]


HARMS = {
    "a file, altered": (FILE, altered),
    "the listing, cut": (f"{BUFFER}/", cut),
    "the listing, without a file": (f"{BUFFER}/", lambda good: json.dumps(json.loads(good)[1:]).encode()),
    "the listing, one file for another": (f"{BUFFER}/", lambda good: good.replace(entries(good)[1], entries(good)[2])),
}


@on("folder")
@pytest.mark.parametrize("harm", HARMS)
def test_make_pull_names_what_is_harmed_and_brings_the_rest(lab, names, harm):
    """DVC names no file; where a listing is harmed, it brings nothing, or what the listing says, as a success."""
    reader, wanted = lab.clone(), lab.author.files()
    named, change = HARMS[harm]
    oid = names[named.removesuffix("/")]
    with lab.changed(oid, change(lab.object(oid))):
        output = reader.make("pull", fails=True)
    assert re.search(f"^error: lab: found no whole {named}[,;]", output, re.M), output
    rest = {path: md5 for path, md5 in wanted.items() if not path.startswith((BUFFER, "data/experts"))}
    assert rest.items() <= reader.files().items()
    reader.make("pull")
    assert reader.files() == wanted


@on("http")
def test_a_harmed_object_that_was_got_or_imported_is_named_by_the_buffer_itself(lab, names):
    """`dvc get` and `dvc import` hash nothing. The buffer's index does; stage distill asks it."""
    other = lab.other()
    with lab.changed(names[FILE], lab.object(names[FILE])[:-1] + b"?"):
        for verb in ("get", "import"):
            other.dvc(verb, str(lab.origin), BUFFER, "-o", verb)
            with pytest.raises(ValueError, match=f"{verb}/0003.safetensors: found sha256"):
                Buffer(other.folder / verb).verify()
    assert "distill" in [path.stem for path in (ROOT / "stages").glob("*.py") if ".verify()" in path.read_text()]


@on("folder")
def test_a_push_from_an_empty_cache_is_an_error_that_says_what_is_missing(lab):
    clone = lab.clone()
    clone.local(**lab.via(None, "-empty"))
    assert "Everything is up to date" in clone.dvc("push")
    output = clone.make("push", fails=True)
    assert re.search(r"^error: lab: found no data/buffer/, .* more; wanted all that dvc.lock names", output, re.M), output


@on("folder", "ssh", "s3")
def test_an_object_that_the_remote_lost_is_missed_and_mended(lab, names):
    """DVC takes a folder for complete where its listing is there, so the listings go too: docs/remotes.md."""
    author = lab.author
    with lab.changed(names[FILE], None):
        output = author.make("push", fails=True)
        assert re.search(f"^error: lab: found no {FILE}", output, re.M), output
        for name in lab.sent:
            if name.endswith(".dir"):
                lab.put(name, None)
        author.make("push")
        assert lab.sent.items() <= lab.objects().items()


@on("folder")
def test_the_small_remedies_of_the_page_work(lab):
    """What is left of a transfer is found and deleted; listings are found; all commits are pushed; an import is followed."""
    author = lab.author.copy("remedies")
    left = Path(lab.root, "files/md5/00/.0.tmp")
    left.parent.mkdir(exist_ok=True)
    left.touch()
    os.utime(left, (0, 0))
    remedies = re.findall("`(find [^`]*)`", DOCUMENT)
    assert len(remedies) == 2
    assert "files/md5/" in author.run("bash", "-c", f"cd {lab.root} && {remedies[1]}")
    author.run("bash", "-c", remedies[0].replace("/srv/mtt", lab.root))
    assert not left.exists()
    author.run(
        "bash", "-ec", "rm -rf .git; git init --quiet; git add --all; git commit --quiet --message all"
    )  # one commit: each takes seconds
    author.dvc("push", "--all-commits")
    author.make("push", "REMOTE=lab")
    other = lab.other("follower")
    other.dvc("import", str(lab.origin), BUFFER, "-o", "theirs")
    other.dvc("update", "theirs.dvc")
    assert [*other.files("theirs").values()] == [*author.files(BUFFER).values()]
    for name in ("access_key_id", "secret_access_key"):
        other.dvc("remote", "add", "--force", "lab", "s3://bucket/mtt")
        other.dvc("remote", "modify", "--local", "lab", name, "ALICE")
    assert "ALICE" in (other.folder / ".dvc/config.local").read_text()


@on("folder")
def test_the_published_remote_is_no_place_for_a_push(project, lab):
    found = project.make("push", fails=True)
    assert "error: remote: found published; wanted one of your own: dvc remote add -d NAME URL" in found
    assert "error: remote: found published" in lab.author.make("push", "REMOTE=published", fails=True)
    for verb in ("push", "pull"):
        found = lab.author.make(verb, "REMOTE=labb", fails=True)
        assert "error: remote: found no labb in .dvc/config; wanted one of `dvc remote list`" in found


@on("http")
def test_http_is_read_only_and_says_so(lab):
    author = lab.author.copy("writing")
    author.local(**lab.via(lab.port, "-new"))
    found = author.dvc("push", fails=True)
    assert f"failed to push data to the cloud - {len(lab.sent)} files failed to upload" in found
    assert lab.objects(f"{lab.root}-new") == {}


@on("http")
def test_http_behind_a_password_is_read_with_the_one_in_config_local(lab):
    reader = lab.clone()
    reader.local(**lab.via(lab.guarded, ""))
    assert "error: lab: found no answer but 401" in reader.make("pull", fails=True)
    reader.run("bash", "-ec", documented("http, behind a password"))
    reader.make("pull")
    assert reader.files() == lab.author.files()
    assert "correct-horse" not in reader.git("diff", "HEAD")


@on("ssh")
def test_ssh_goes_by_config_local_alone(lab):
    """With an empty home, the settings that ~/.ssh/config has otherwise."""
    reader = lab.clone()
    home = lab.folder / "nowhere"
    home.mkdir()
    recipe = documented("ssh, for one clone only", **lab.facts)
    reader.run("bash", "-ec", recipe + f"\ndvc remote modify --local lab url ssh://127.0.0.1{lab.root}")
    reader.make("pull", HOME=str(home))
    assert reader.files() == lab.author.files()


@on("folder")
def test_a_remote_with_local_settings_must_be_committed(lab):
    """DVC reads HEAD's configuration too, beside config.local, and fails without a word of why."""
    clone = lab.author.copy("uncommitted")
    clone.dvc("remote", "add", "--default", "mine", str(lab.folder / "mine"))
    clone.dvc("remote", "modify", "--local", "mine", "jobs", "2")
    assert "error: .dvc/config: found dvc data status failing, as above; wanted it committed" in clone.make("push", fails=True)
    clone.git("commit", "--quiet", "--all", "--message", "Add a remote")
    clone.make("push")


def test_no_server_outlives_a_test_run_that_is_killed(tmp_path):
    """Killed with -9, so that no fixture ends it."""
    code = "import sys, time; from pathlib import Path; from servers import sshd\n"
    code += "with sshd.serve(Path(sys.argv[1])) as port: print(port, flush=True); time.sleep(100)"
    words = [sys.executable, "-c", code, tmp_path]
    with subprocess.Popen(words, cwd=ROOT / "tests", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        if "Skipped" in (why := process.stderr.read() if not line else ""):
            pytest.skip(why.splitlines()[-1])
        os.kill(process.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while listening(int(line)):
        assert time.monotonic() < end
        time.sleep(0.05)


def listening(port):
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_document_pins_what_the_tests_run():
    pins = re.findall(r"^pip install (\S+)", documented("ssh") + documented("S3, MinIO, Ceph"), re.M)
    assert set(pins) <= set((ROOT / "requirements-dev.txt").read_text().split())
    assert len(pins) == 2
