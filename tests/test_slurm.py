"""Tasks as jobs of a real Slurm: one node, started and stopped here."""

import contextlib
import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import submitit
import torch
from conftest import ROOT, Run

from mtt import cluster, params, slurm, trajectory, workers

pytestmark = [pytest.mark.slow, pytest.mark.remote]

SERVER = ROOT / "tests/servers/slurm.sh"
GUIDE = (ROOT / "docs/slurm.md").read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Slurm of four processors and four GPUs that are none."""
    where = f"{os.environ['PATH']}:/usr/sbin"
    if missing := [name for name in ("slurmctld", "slurmd", "sbatch", "munged", "mungekey") if not shutil.which(name, path=where)]:
        pytest.skip(f"found no {', '.join(missing)}; Debian has them in slurmctld slurmd slurm-client munge")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SERVER, "up", folder, "4"], check=True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            yield
    finally:
        subprocess.run([SERVER, "down", folder], check=True)


@pytest.fixture(autouse=True)
def all_at_once(monkeypatch):
    """As many jobs in the queue as there are tasks, the default, which conftest changes."""
    monkeypatch.delenv("MTT_WORKERS", raising=False)


@pytest.fixture
def jobs(server, tmp_path, monkeypatch):
    """workers.pool makes jobs, in this process; Slurm is asked every second."""
    monkeypatch.setenv("MTT_EXECUTOR", "slurm")
    monkeypatch.setenv("MTT_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(cluster, "ASK", 1)
    monkeypatch.setattr(cluster, "TRIES", 3)


def queue(*options):
    """[job, state] of what Slurm knows."""
    command = ["squeue", "--noheader", "--array", "--format=%i %T", *options]
    return [line.split() for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()]


def wait_for(condition, process=None, seconds=90):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def square(task, _, tick):
    for _ in range(3):
        tick(loss=0.5)
    return task * task


def describe(task, before, tick):
    start = time.time()
    time.sleep(1)
    return before, torch.get_num_threads(), start, time.time()


def test_tasks_are_jobs_that_keep_their_turns_and_at_most_so_many_at_a_time(jobs, monkeypatch, capfd, tmp_path):
    """Four tasks of two turns, two at a time on four processors, one thread each; nothing stays in the store or, soon, in the queue."""
    monkeypatch.setenv("MTT_WORKERS", "2")
    with workers.pool(4) as each:
        found = each([square, describe], [3, 1, 2, 0], "squares", 3)
    assert [(task, before, threads) for task, (before, threads, *_) in found.items()] == [(3, 9, 1), (1, 1, 1), (2, 4, 1), (0, 0, 1)]
    starts = [start for *_, start, _ in found.values()]
    assert max(sum(first <= start < last for *_, first, last in found.values()) for start in starts) <= 2
    assert "12/12" in capfd.readouterr().err
    wait_for(lambda: not queue(), seconds=30)  # its result is there before a job has ended, which lives 60 s without a stage
    assert not list((tmp_path / "work/slurm").iterdir())


def fail(task, _, tick):
    if task == 1:
        raise ValueError("task 1 is wrong")
    time.sleep(60)


def break_down(task, _, tick):
    return len(task)


def test_the_error_of_a_job_is_the_error_of_the_run_and_cancels_the_others(jobs):
    """As it was raised; an error that is nobody's fault but the program's says where in the job."""
    with pytest.raises(ValueError, match="task 1") as error, workers.pool(3) as each:
        each([fail], [0, 1, 2], "fails", 1)
    assert str(error.value) == "task 1 is wrong"
    wait_for(lambda: not queue(), seconds=5)
    with pytest.raises(TypeError, match="has no len") as error, workers.pool(1) as each:
        each([break_down], [0], "breaks", 1)
    assert "in break_down" in error.value.__notes__[0]


def die(task, _, tick):
    tick()
    print("no memory", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_job_that_dies_again_and_again_is_given_up_in_one_line(jobs, tmp_path, capfd):
    """It names the job, how it ended, and the log, which is there."""
    found = r"Slurm job \d+ \(dies\): found FAILED at step 0 of 5"
    says = rf"^{found}, no further than the 2 before it; wanted a result; its log, (\S+), ends: (.*)$"
    with pytest.raises(OSError, match=says) as error, workers.pool(1) as each:
        each([die], [0], "dies", 5)
    log, last = re.search(says, str(error.value)).groups()
    assert "no memory" in Path(log).read_text()
    assert last
    assert capfd.readouterr().err.count("found FAILED at step 0 of 5; submitted again") == 2
    assert not queue()


def test_what_sbatch_refuses_is_said_in_its_words(jobs, monkeypatch):
    monkeypatch.setenv("MTT_SLURM", "--partition=nowhere")
    with pytest.raises(OSError, match="^sbatch refused the jobs: .*[Ii]nvalid partition.*nowhere"), workers.pool(1) as each:
        each([square], [0], "squares", 3)


def refusing(monkeypatch, *calls):
    """sbatch refuses these calls, counted from 0."""
    submit, counted = slurm.submit, iter(range(100))

    def either(*arguments):
        if next(counted) in calls:
            raise OSError("sbatch refused the jobs: Socket timed out")
        return submit(*arguments)

    monkeypatch.setattr(slurm, "submit", either)
    monkeypatch.setattr(cluster, "AGAIN", 0.1)


def test_a_refusal_after_the_first_jobs_ends_nothing(jobs, monkeypatch, capfd):
    """Two tasks, one job at a time."""
    monkeypatch.setenv("MTT_WORKERS", "1")
    refusing(monkeypatch, 1, 2)
    with workers.pool(2) as each:
        assert each([square], [5, 6], "squares", 3) == {5: 25, 6: 36}
    assert capfd.readouterr().err.count("sbatch refused the jobs: Socket timed out; tried again in 0.1 s") == 2


def test_refusals_with_no_job_left_end_the_run_after_a_few(jobs, monkeypatch, capfd):
    monkeypatch.setenv("MTT_WORKERS", "1")
    refusing(monkeypatch, *range(1, 100))
    with pytest.raises(OSError, match="Socket timed out"), workers.pool(2) as each:
        each([square], [5, 6], "squares", 3)
    assert capfd.readouterr().err.count("; tried again in") == 2


def test_an_array_runs_all_of_its_jobs_at_once(tmp_path):
    """submitit's own limit is 256."""
    parameters = slurm.executor(tmp_path, "name", {}).parameters
    text = submitit.slurm.slurm._make_sbatch_string(command="true", folder=tmp_path, map_count=slurm.ARRAY, **parameters)
    assert re.search(r"^#SBATCH --array=0-999%1000$", text, re.M)


def test_a_slurm_that_does_not_answer_for_a_while_is_waited_for(jobs, monkeypatch, capfd):
    answer, silent = slurm.states, iter([False, True, True])
    monkeypatch.setattr(slurm, "states", lambda name: None if next(silent, False) else answer(name))
    with workers.pool(1) as each:
        assert each([square], [5], "squares", 3) == {5: 25}
    assert capfd.readouterr().err.count("Slurm does not answer squeue; waiting for it") == 1


class Clone(Run):
    """A clone of the repository, as it stands, with tiny parameters, in which DVC and stages run on Slurm."""

    def __init__(self, folder):
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        for name in ("mtt", "stages", "dvc.yaml"):
            subprocess.run(["cp", "-r", str(ROOT / name), str(folder)], check=True)
        super().__init__(folder)

    def copy(self, folder):
        """A copy in `folder`."""
        other = copy.deepcopy(self)
        other.folder = shutil.copytree(self.folder, folder / "clone", symlinks=True)
        return other

    def start(self, *words, **environment):
        """A process in a group of its own."""
        environment = {**os.environ, "MTT_EXECUTOR": "slurm", "PYTHONPATH": "", "OMP_NUM_THREADS": "1", **environment}
        return subprocess.Popen(
            words, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def stage(self, stage, **environment):
        """A stage in a process of its own."""
        return self.start(sys.executable, "-m", *self.command(stage), **environment)

    def bytes(self, pattern="data/experts/*"):
        """{path: bytes}, and away with them."""
        found = self.files(pattern)
        for path in found:
            (self.folder / path).unlink()
        return found

    def on_one_machine(self, stage, pattern="data/experts/*"):
        """{path: bytes} of the files that a stage writes without Slurm, from nothing."""
        finished(self.stage(stage, MTT_EXECUTOR="", MTT_WORK=str(self.folder / "undisturbed")))
        return self.bytes(pattern)


def finished(process):
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def prepared(server, tmp_path_factory):
    """A clone whose images are prepared."""
    clone = Clone(tmp_path_factory.mktemp("prepared") / "clone")
    finished(clone.start("dvc", "repro", "prepare"))
    return clone


@pytest.fixture
def clone(prepared, tmp_path, monkeypatch):
    """A copy of it, and no work store elsewhere."""
    monkeypatch.delenv("MTT_WORK", raising=False)
    return prepared.copy(tmp_path)


EPOCHS = 120
LONG = {"experts": {"count": 4, "epochs": EPOCHS}}  # some three seconds each on an idle processor


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    """{path: bytes} of the four experts of LONG, made on one machine."""
    clone = prepared.copy(tmp_path_factory.mktemp("undisturbed"))
    clone.set(**LONG)
    found = clone.on_one_machine("experts")
    assert len(found) == 4
    return found


def test_dvc_repro_on_slurm_gives_the_bytes_of_one_machine_and_growth_submits_what_is_missing(clone, undisturbed):
    """By the commands of docs/slurm.md; two experts where the user is, two more from inside a job."""
    lines = re.findall(r"^    (\w.*)$", GUIDE, re.M)
    exports, (repro, submitted) = (
        "; ".join(lines[:2]),
        (line.partition("   #")[0].replace("dvc repro", "dvc repro experts") for line in lines[2:4]),
    )
    clone.set(experts=LONG["experts"] | {"count": 2})
    known = len(queue("--states=all"))
    output = finished(clone.start("bash", "-c", f"{exports}; {repro}"))
    assert "0 of 2 experts are there, 2 to train" in output
    assert len(queue("--states=all")) == known + 2
    old = {path.name: path.stat().st_ino for path in clone.folder.glob("data/experts/*")}
    clone.set(experts={"count": 4})
    finished(clone.start("bash", "-c", f"{exports}; {submitted} --wait --output={clone.folder}/log"))
    assert "2 of 4 experts are there, 2 to train" in (clone.folder / "log").read_text()
    assert len(queue("--states=all")) == known + 2 + 1 + 2
    assert old.items() < {path.name: path.stat().st_ino for path in clone.folder.glob("data/experts/*")}.items()
    assert clone.bytes() == undisturbed


def test_evaluation_on_slurm_gives_the_scores_of_one_machine(clone):
    finished(clone.stage("baseline"))
    finished(clone.stage("evaluate"))
    assert clone.bytes("results/scores/random-ConvNet.json") == clone.on_one_machine("evaluate", "results/scores/random-ConvNet.json")


def half_trained(clone):
    """The experts of which there is a file of the epochs so far."""
    return [path.stem for path in clone.folder.glob(".work/experts/*/*.part")]


def running():
    """The jobs that are."""
    return [job for job, state in queue() if state == "RUNNING"]


def stop(job):
    """Halt what a job runs, so that it is not done before Slurm ends it."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found, words = process.environ(), process.cmdline()
            number = "_".join(filter(None, map(found.get, ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")))) or found.get("SLURM_JOB_ID")
            if number == job and "submitit.core._submit" in words:
                process.suspend()


def test_jobs_that_are_cancelled_out_of_time_or_preempted_are_submitted_again_and_resume(clone, undisturbed):
    """One of each, of half-trained experts, which are in the end those of an undisturbed run."""
    clone.set(experts=LONG["experts"] | {"count": 3})
    process = clone.stage("experts", MTT_SAVE_EVERY="0.2")
    wait_for(lambda: len(half_trained(clone)) == 3, process)
    cancelled, late, preempted = running()
    stop(late)
    stop(preempted)
    subprocess.run(["scancel", cancelled], check=True)
    subprocess.run(["scontrol", "update", f"JobId={late}", "EndTime=now"], check=True)
    wait_for(lambda: [late, "TIMEOUT"] in queue("--states=all"), process)
    subprocess.run(
        ["sbatch", "--partition=urgent", "--ntasks=4", "--output=/dev/null", "--wrap", "sleep 1"], check=True, capture_output=True
    )
    output = finished(process)
    for job, state in {cancelled: "CANCELLED", late: "TIMEOUT", preempted: "PREEMPTED"}.items():
        assert re.search(rf"Slurm job {job} \(experts\): found {state} at step \d+ of {18 * EPOCHS}; submitted again", output), output
    found = clone.bytes()
    assert len(found) == 3
    assert found.items() <= undisturbed.items()


def test_an_expert_whose_job_was_cancelled_does_not_begin_anew(clone):
    """The half-trained file never gets shorter."""
    clone.set(experts=LONG["experts"] | {"count": 1})
    process, lengths = clone.stage("experts", MTT_SAVE_EVERY="0"), []

    def grown(size):
        for path in clone.folder.glob(".work/experts/*/*.part"):
            with contextlib.suppress(ValueError):  # it was just finished
                lengths.append(len(trajectory.load(path)))
        return lengths and lengths[-1] > size

    wait_for(lambda: grown(30), process)
    subprocess.run(["scancel", *running()], check=True)
    reached = lengths[-1]
    wait_for(lambda: grown(reached + 15), process)
    finished(process)
    assert lengths == sorted(lengths)


def test_a_run_that_was_killed_leaves_jobs_that_the_next_one_cancels_and_no_expert_is_trained_twice(clone, undisturbed):
    """Killed with dvc, when an expert is finished and the third is half-trained."""
    clone.set(**LONG)
    first = clone.start("dvc", "repro", "experts", MTT_SAVE_EVERY="0.2", MTT_WORKERS="2")
    wait_for(lambda: list(clone.folder.glob(".work/experts/*/*.safetensors")) and "0002" in half_trained(clone), first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    left = running()
    assert left
    for job in left:
        stop(job)
    done = {path: path.stat().st_mtime_ns for path in clone.folder.glob(".work/experts/*/*.safetensors")}
    output = finished(clone.start("dvc", "repro", "experts"))
    assert f"{len(done)} of 4 experts are there, {4 - len(done)} to train" in output
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert {state for job, state in queue("--states=all") if job in left} == {"CANCELLED"}
    assert not list(clone.folder.glob(".work/slurm/*"))
    assert clone.bytes() == undisturbed


def test_an_error_of_an_expert_is_the_one_line_that_it_is_on_one_machine(clone):
    clone.set(experts={"learning_rate": 1e30})
    process = clone.stage("experts")
    output = process.communicate(timeout=100)[0]
    assert process.returncode == params.DIVERGED
    assert re.search(r"^error: expert \d, epoch 1: its parameters are not finite; lower experts.learning_rate$", output, re.M)
    assert "Traceback" not in output
    wait_for(lambda: not queue())


def test_an_interrupt_cancels_the_jobs(clone):
    clone.set(**LONG)
    process = clone.stage("experts")
    for job in (found := wait_for(running, process)):
        stop(job)
    os.killpg(process.pid, signal.SIGINT)
    assert "interrupted; what was finished is kept" in process.communicate(timeout=30)[0]
    wait_for(lambda: not queue())
    assert {state for job, state in queue("--states=all") if job in found} == {"CANCELLED"}


def test_a_job_ends_where_nothing_changes_the_sign_of_life_and_not_before(tmp_path):
    alive = tmp_path / "alive"
    code = f"from pathlib import Path; from mtt.job import end_without; import time; end_without(Path({str(alive)!r}), 1); time.sleep(60)"
    alive.write_text("0")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    changing = time.monotonic() + 6
    while time.monotonic() < changing:
        alive.write_text(str(time.monotonic()))
        time.sleep(0.1)
        assert process.poll() is None
    assert process.wait(timeout=10) == 1


def test_options_are_words_of_sbatch(monkeypatch):
    monkeypatch.setenv("MTT_SLURM", "--partition=gpu --exclusive --comment='a word'")
    assert slurm.options() == {"partition": "gpu", "exclusive": True, "comment": "a word"}
    for words, wrong in {
        "-p gpu": "-p",
        "--array=1-3": "--array=1-3",
        "--clusters=a": "--clusters=a",
        "--wait": "--wait",
        "--time 60": "60",
    }.items():
        monkeypatch.setenv("MTT_SLURM", words)
        with pytest.raises(ValueError, match=f"^MTT_SLURM: found {wrong}; wanted options of sbatch as --name=value"):
            slurm.options()


def test_a_job_gets_the_gpu_that_the_guide_asks_for(jobs, monkeypatch):
    (words,) = re.findall(r'^    export MTT_SLURM="(.*gpus=1)"', GUIDE, re.M)
    monkeypatch.setenv("MTT_SLURM", words)
    with workers.pool(1) as each:
        assert each([gpus], [0], "gpus", 1) == {0: "1"}


def gpus(task, _, tick):
    return os.environ["SLURM_GPUS_ON_NODE"]


def test_another_executor_is_refused(monkeypatch):
    monkeypatch.setenv("MTT_EXECUTOR", "cloud")
    with pytest.raises(ValueError, match="^MTT_EXECUTOR: found cloud; wanted slurm, or nothing"):
        workers.pool(1)
