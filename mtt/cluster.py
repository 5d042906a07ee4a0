"""workers.pool on Slurm, through submitit: each task is a job, submitted again where it ended without a result.

$MTT_SLURM is what sbatch shall be told, such as "--partition=gpu --time=8:00:00"; at most $MTT_WORKERS jobs are in the queue
at a time, by default all. A pool has a folder in the work store, which must lie on the file system that all nodes share, with
submitit's files and a sign of life; its jobs end without that, and what is left of a stage that was killed, the next one cancels.
"""

import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from submitit.core.utils import UncompletedJobError

from mtt import slurm, store, workers
from mtt.job import do, reported
from mtt.progress import bar, say

TRIES = 5  # jobs of a task in a row that came no further than those before; refusals of sbatch in a row, with no job left
LOOK, ASK, AGAIN = 1, 5, 30  # seconds between looks for results, between questions to Slurm, and from a refusal to the next try
LATE = 30  # seconds in which a shared file system shows the result of a job that is over


@contextmanager
def pool(most):
    """As workers.pool: gives `each(functions, tasks, label, steps)`. All turns of a task are done in one job."""
    words, root = slurm.options(), store.root().resolve() / "slurm"
    if not all(map(shutil.which, ("sbatch", "srun", "squeue", "scancel"))):
        raise ValueError("MTT_EXECUTOR: found slurm and no sbatch, srun, squeue or scancel; wanted a machine that submits to Slurm")
    root.mkdir(parents=True, exist_ok=True)
    slurm.sweep(root)
    with slurm.living(root) as folder:
        try:
            yield partial(_each, folder, words, workers.number("MTT_WORKERS", max(1, most)))
        except BaseException:
            slurm.cancel(folder.name)
            raise
    shutil.rmtree(folder, ignore_errors=True)  # after an error it stays, for its logs, until the next pool


def _each(folder, words, most, functions, tasks, label, steps):
    here = Path(tempfile.mkdtemp(dir=folder))
    works = [Work(task, here / f"{number}.steps") for number, task in enumerate(tasks)]
    submit = partial(slurm.submit, slurm.executor(here, folder.name, words), partial(do, functions, folder / "alive"))
    queue = Queue(folder.name, submit, most, list(works))
    with bar(steps * len(works), label, "step") as progress:
        while queue.waiting or queue.running:
            queue.ask()
            queue.collect(label, steps)
            queue.fill()
            queue.show(progress, works)
            time.sleep(LOOK)
        queue.show(progress, works)
    return {work.task: work.result for work in works}


@dataclass
class Work:
    """A task on its way."""

    task: object
    report: Path  # how far its job is
    job: object = None  # submitit's
    result: object = None
    best: int = 0  # steps that any of its jobs came to
    idle: int = 0  # jobs in a row that came no further
    over: float = 0  # since when its job is

    def lost(self, state):
        """Whether its job, now of that state or not known to Slurm, is over and leaves no result."""
        if state and state not in slurm.ENDED:
            self.over = 0
            return False
        self.over = self.over or time.monotonic()
        return state in slurm.ENDED - {"COMPLETED"} or time.monotonic() - self.over > LATE

    def again(self, state, label, steps):
        """Note that its job is lost. Raises OSError where no other shall be submitted."""
        reached, _ = reported(self.report)
        self.idle, self.best, self.over = 1 if reached > self.best else self.idle + 1, max(self.best, reached), 0
        found = f"Slurm job {self.job.job_id} ({label}): found {state or 'it gone'} at step {reached} of {steps}"
        if self.idle == TRIES:
            raise OSError(f"{found}, no further than the {TRIES - 1} before it; {self.log()}")
        say(f"{found}; submitted again")

    def take(self):
        """Take the result of its job, and print what that said on stderr. Raises the error that ended it."""
        try:
            self.result, error = self.job.results()[0]
        except UncompletedJobError:  # before or after the task: a module that is not there, a full disk
            raise OSError(f"Slurm job {self.job.job_id}: found it failed; {self.log()}") from None
        if said := (self.job.stderr() or "").rstrip():
            say(said)
        if error:
            raise error

    def log(self):
        """The end of an error's line: where its job's log is, and the last line of it."""
        last = (self.job.stderr() or "").rstrip().rpartition("\n")[2]
        return f"wanted a result; its log, {self.job.paths.stderr}, ends: {last}"


@dataclass
class Queue:
    """The works of one call: those that wait to be submitted, and those that have a job."""

    name: str
    submit: object  # (tasks, reports) -> jobs
    most: int
    waiting: list
    running: list = field(default_factory=list)
    states: dict = field(default_factory=dict)  # None while Slurm does not answer
    asked: float = 0
    begun: bool = False  # whether any was submitted
    refused: int = 0  # submissions in a row
    later: float = 0  # until when none is tried

    def ask(self):
        """Ask Slurm for the jobs' states, where that was not just done."""
        if time.monotonic() - self.asked > ASK:
            found, self.asked = slurm.states(self.name), time.monotonic()
            if found is None and self.states is not None:
                say("Slurm does not answer squeue; waiting for it")
            self.states = found

    def collect(self, label, steps):
        """Take results; what is lost waits again."""
        for work in list(self.running):
            state = (self.states or {}).get(work.job.job_id)
            if work.job.paths.result_pickle.exists():
                work.take()
                self.running.remove(work)
            elif self.states is not None and work.lost(state):
                work.again(state, label, steps)
                self.running.remove(work)
                self.waiting.append(work)

    def fill(self):
        """Submit as many as may be in the queue; none while Slurm does not answer.

        Where sbatch refuses, jobs that are there go on, and it is tried again: a controller starts anew, a limit is reached.
        Raises OSError where it refuses the first ones, or several times with none left.
        """
        works = self.waiting[: max(0, min(self.most - len(self.running), slurm.ARRAY))]
        if not works or self.states is None or time.monotonic() < self.later:
            return
        try:
            jobs = self.submit([work.task for work in works], [work.report for work in works])
        except OSError as error:
            self.refused, self.later = self.refused + 1, time.monotonic() + AGAIN
            if not self.running and (not self.begun or self.refused >= TRIES):
                raise
            say(f"{error}; tried again in {AGAIN} s")
            return
        for work, job in zip(works, jobs, strict=True):
            work.job = job
        self.running, self.begun, self.refused = self.running + works, True, 0
        del self.waiting[: len(works)]

    def show(self, progress, works):
        """Move the bar to where the jobs are."""
        reports = [reported(work.report) for work in works]
        losses = [loss for _, loss in reports if loss is not None]
        found = [(self.states or {}).get(work.job.job_id) for work in self.running]
        loss = f", loss {losses[-1]:.3f}" if losses else ""
        progress.set_postfix_str(f"{found.count('RUNNING')} of {len(found)} jobs running{loss}", refresh=False)
        progress.update(sum(steps for steps, _ in reports) - progress.n)
