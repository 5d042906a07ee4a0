"""Whatever ends a run, the same command goes on, and the files in the end are those of an undisturbed one."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, Run

pytestmark = pytest.mark.slow

LONG = {  # some seconds of work in each of the two stages that resume
    "experts": {"count": 3, "epochs": 200},
    "distill": {"iterations": 300, "validate": {"every": 100, "networks": 1, "epochs": 2}},
}


class Clone(Run):
    """A fresh clone of what is committed, with its own store and small parameters, in which dvc runs."""

    def __init__(self, folder):
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        for name in ("mtt", "stages", "dvc.yaml"):  # as they stand, so that a test can be tried before a commit
            subprocess.run(["cp", "-r", str(ROOT / name), str(folder)], check=True)
        super().__init__(folder)
        self.set(**LONG)

    def start(self, *words):
        """A process of its own group; checkpoints are written all the time."""
        names = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment = {**os.environ, **names, "MTT_SAVE_EVERY": "0.2", "OMP_NUM_THREADS": "1", "MTT_WORKERS": "2", "PYTHONPATH": ""}
        environment.pop("MTT_WORK", None)
        return subprocess.Popen(
            words, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )

    def stage(self, stage):
        return self.start(sys.executable, "-m", *self.command(stage))

    def done(self, *words):
        """Run it to its end."""
        process = self.start(*words)
        output = process.communicate(timeout=600)[0].decode()
        assert process.returncode == 0, output
        return output

    def processes(self):
        """What still runs of this clone's stages, workers too."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                words = " ".join(process.cmdline())
                if Path(process.cwd()).is_relative_to(self.folder) and ("stages." in words or "multiprocessing" in words):
                    found.append(process)
        return found


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def results(clone):
    return {path: data for part in ("data/[!pr]*", "results") for path, data in clone.files(f"{part}/**/*.*").items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The files of a run that nobody kills."""
    clone = Clone(tmp_path_factory.mktemp("undisturbed") / "clone")
    clone.done("dvc", "repro", "distill")
    return results(clone)


class Moment:
    """When to kill: at random, every other time while the process begins, else while it works."""

    def __init__(self, clone):
        self.clone, self.draws, self.number = clone, random.Random(0), 0

    def progress(self):
        return {path: path.stat().st_mtime_ns for path in self.clone.folder.glob(".work/*/*/*.[sp]a*")}

    def wait(self, alive):
        """Return at the moment, or where `alive()` is no longer so."""
        self.number += 1
        if self.number % 2:
            return time.sleep(self.draws.uniform(0, 4))
        before = self.progress()
        wait_until(lambda: self.progress() != before or not alive())
        return time.sleep(self.draws.uniform(0, 1))


def hit(process, moment, kill):
    """Kill it; says whether it was still running."""
    moment.wait(lambda: process.poll() is None)
    alive = process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        kill(process)
    process.communicate()
    return alive


def kill_stage(clone, moment, stage):
    """The stage alone."""
    return hit(clone.stage(stage), moment, lambda process: process.kill())


def kill_dvc(clone, moment):
    """dvc alone: the stage that it started sees that and ends by itself."""
    found = hit(clone.start("dvc", "repro", "distill"), moment, lambda process: process.kill())
    wait_until(lambda: not clone.processes())
    return found


def kill_group(clone, moment, *options):
    """dvc, the stage and its workers at once."""
    process = clone.start("dvc", *(("exp", "run", *options) if options else ("repro",)), "distill")
    if options:  # not before the stage runs: an experiment begins with what DVC writes into git, which a kill leaves half done
        wait_until(lambda: clone.processes() or process.poll() is not None)
    return hit(process, moment, lambda process: os.killpg(process.pid, signal.SIGKILL))


def kill_temp(clone, moment):
    """The same of an experiment that runs in a copy of the repository."""
    return kill_group(clone, moment, "--temp")


def kill_queued(clone, moment):
    """The stage of a queued experiment, in its worker."""
    clone.done("dvc", "exp", "run", "--queue", "distill")
    clone.done("dvc", "queue", "start")

    def running():
        return [process for process in clone.processes() if "stages.distill" in process.cmdline()]

    def over():  # as where an earlier kill came too late, and the run cache has it
        return not any(word in clone.done("dvc", "queue", "status") for word in ("Queued", "Running"))

    wait_until(lambda: running() or over())
    moment.wait(running)
    found = running()
    for process in found:
        process.kill()
    clone.done("dvc", "queue", "stop", "--kill")
    wait_until(lambda: not clone.processes())
    return bool(found)


def test_killed_twenty_times_a_run_ends_in_the_files_of_an_undisturbed_one(tmp_path, undisturbed):
    """14 times the stage, twice dvc, twice its whole group, once under --temp, once in the queue; each at a random moment."""
    clone, hits = Clone(tmp_path / "clone"), []
    moment = Moment(clone)
    clone.done("dvc", "repro", "prepare")
    for stage, others in (("experts", [kill_dvc, kill_group]), ("distill", [kill_dvc, kill_group, kill_temp, kill_queued])):
        hits += [kill_stage(clone, moment, stage) for _ in range(7)]
        hits += [kill(clone, moment) for kill in others]
        assert moment.progress()
        clone.done("dvc", "repro", {"experts": "buffer", "distill": "distill"}[stage])
    assert len(hits) == 20
    assert sum(hits) >= 17, hits  # on a fast machine the work may be done before its last kill
    assert results(clone) == undisturbed


@pytest.fixture
def run(make_run):
    """A run whose images are prepared."""
    run = make_run()
    run("prepare")
    return run


def start(run, stage, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", *run.command(stage)]
    return subprocess.Popen(command, cwd=run.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_runs_at_once_on_one_store_train_each_expert_once(run):
    """The second waits, finds all of them and links the same files."""
    run.set(experts={"count": 3, "epochs": 100})
    other = run.folder.parent / "other"
    shutil.copytree(run.folder, other)
    second = Run(other)
    second.set(experts={"count": 3, "epochs": 100})
    outputs = [process.communicate(timeout=120)[0] for process in (start(run, "experts"), start(second, "experts"))]
    assert sorted(line for output in outputs for line in output.splitlines() if "experts are there" in line) == [
        "0 of 3 experts are there, 3 to train",
        "3 of 3 experts are there, 0 to train",
    ]
    assert sum("another run is at the same work" in output for output in outputs) == 1
    for path in run.files("data/experts/*"):
        assert (run.folder / path).samefile(other / path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(("stage", "free"), [("experts", 0), ("experts", 48_000), ("buffer", 0), ("distill", 0), ("distill", 12_000)])
def test_a_full_disk_ends_in_one_line_leaves_nothing_half_written_and_the_same_command_goes_on(run, small_disk, stage, free):
    run.set(experts={"count": 2, "epochs": 20})
    for earlier in ("experts", "buffer", "distill")[: ("experts", "buffer", "distill").index(stage)]:
        run(earlier)
    shutil.copytree(run.folder, small_disk, dirs_exist_ok=True)
    if stage != "experts":
        shutil.rmtree(small_disk / "work")
    run(stage)
    wanted = {path: data for path, data in run.files("*/**/*.*").items() if path.parts[0] in ("data", "results")}
    disk, filler = Run(small_disk), small_disk / "filler"
    disk.set(experts={"count": 2, "epochs": 20})
    fill(filler, free)
    process = start(disk, stage, MTT_WORK=str(small_disk / "work"), MTT_SAVE_EVERY="0.001")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1, output
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert "No space left on device" in line
    assert line.endswith("make space, and the same command goes on from what was finished")
    assert "Traceback" not in output
    for path, data in disk.files("*/**/*.*").items():
        assert path.parts[0] not in ("data", "results") or data == wanted[path], path
    filler.unlink()
    process = start(disk, stage, MTT_WORK=str(small_disk / "work"))
    assert process.communicate(timeout=120)[0]
    assert process.returncode == 0
    assert {path: data for path, data in disk.files("*/**/*.*").items() if path.parts[0] in ("data", "results")} == wanted


def fill(path, free):
    """Write `path` until all of the file system but `free` bytes is taken."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    os.truncate(path, path.stat().st_size - free)
