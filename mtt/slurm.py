"""What is asked of Slurm: submit, look, cancel; and the folder of a stage, from which its jobs see that it lives.

Several stages may run at a time, each with jobs of a name of its own, the name of its folder.
"""

import contextlib
import fcntl
import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import submitit
from submitit.core.utils import UncompletedJobError

ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}
ARRAY = 1000  # jobs submitted as one array: Slurm takes 1001 by default
OURS = ("array", "clusters", "error", "job-name", "no-requeue", "output", "requeue", "wait")  # options of sbatch that are not the user's

THEIRS = (  # variables of a job that this stage is itself a part of, and those by which sbatch would take options that are ours
    "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "LOCAL_RANK",
    "SBATCH_ARRAY_INX", "SBATCH_ERROR", "SBATCH_JOB_NAME", "SBATCH_OUTPUT", "SBATCH_REQUEUE", "SBATCH_WAIT",
)  # fmt: skip


def options():
    """$MTT_SLURM as {name: value}; a flag's value is True. Raises ValueError for what is no option of sbatch, or one of ours."""
    found = {}
    for word in shlex.split(os.environ.get("MTT_SLURM", "")):
        name, _, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name or name in OURS:
            raise ValueError(f"MTT_SLURM: found {word}; wanted options of sbatch as --name=value, other than --{', --'.join(OURS)}")
        found[name] = value or True
    return found


def executor(folder, name, words):
    """submitit's, for jobs that import what this process can import, from its working folder, whatever --export and --chdir say.

    `words` are those of `options`. Slurm shall not requeue a job: the stage submits it again, and would have it twice.
    """
    for variable in THEIRS:
        os.environ.pop(variable, None)
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | {k: v for k, v in os.environ.items() if k.startswith("MTT_")}
    setup = [f"cd {shlex.quote(os.getcwd())}", *(f"export {name}={shlex.quote(value)}" for name, value in variables.items())]
    found = submitit.SlurmExecutor(folder)
    found.update_parameters(
        job_name=name,
        time=None,
        wckey=None,
        use_srun=False,
        setup=setup,
        array_parallelism=ARRAY,  # all of it side by side: how many there are is for the stage to say
        additional_parameters={"no-requeue": True, **words},
    )
    return found


def submit(executor, function, *arguments):
    """The jobs of function(*values) for the values in the lists `arguments`, as one array. Raises OSError where sbatch refuses them."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
            return executor.map_array(function, *arguments)
    except UncompletedJobError as error:
        raise OSError(f"sbatch refused the jobs: {' '.join(str(error).split())}") from None


def states(name):
    """{job: its state} of all jobs of that name, ended ones too while Slurm remembers them; None where it does not answer."""
    command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", f"--name={name}", "--format=%i %T"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return dict(line.split() for line in found.stdout.splitlines()) if found.returncode == 0 else None


def cancel(name):
    """Cancel all jobs of that name."""
    subprocess.run(["scancel", f"--user={os.getuid()}", f"--name={name}"], capture_output=True, check=False)


@contextmanager
def living(root):
    """Gives a new folder in `root`, whose file `alive` is held, and changed every few seconds, until the end."""
    folder, over = Path(tempfile.mkdtemp(prefix="mtt-", dir=root)), threading.Event()
    with open(folder / "alive.new", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.replace(folder / "alive.new", folder / "alive")  # held from the moment that it is seen
        beating = threading.Thread(target=_beat, args=(file.fileno(), over), daemon=True)
        beating.start()
        try:
            yield folder
        finally:
            over.set()
            beating.join()


def _beat(file, over):
    while not over.wait(5):
        with suppress(OSError):
            os.pwrite(file, f"{time.time():.3f}".encode(), 0)
            os.fsync(file)  # to the file server


def sweep(root):
    """Cancel the jobs of stages that are gone, wait until they are gone too, and remove the folders."""
    for alive in root.glob("mtt-*/alive"):
        with suppress(FileNotFoundError, BlockingIOError), open(alive, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            cancel(alive.parent.name)
            _gone(alive.parent.name)
            shutil.rmtree(alive.parent, ignore_errors=True)


def _gone(name, seconds=120):
    end = time.monotonic() + seconds
    while (found := states(name)) is None or (left := set(found.values()) - ENDED):
        if time.monotonic() > end:
            raise OSError(f"jobs {name} of a run that was killed: found {'no answer' if found is None else left}; wanted them cancelled")
        time.sleep(1)
