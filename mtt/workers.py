"""Work side by side in processes of one thread each; where each network is trained alone, the bytes are the same whatever their number.

$MTT_WORKERS says how many; by default one for each core, or for each GPU where there is one. A single one is the stage's own process.
With $MTT_EXECUTOR = slurm they are not processes of this machine but jobs of a cluster (mtt/cluster.py).
A process ends when its parent is gone, so that nothing trains on after DVC or its terminal was killed.
"""

import contextlib
import ctypes
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial

import torch

from mtt.progress import bar

_ticks = None  # in a worker: the queue that carries progress to the parent


def device():
    """Where tensors live: this worker's GPU where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    worker = multiprocessing.current_process()._identity  # empty in a stage's own process
    number = worker[-1] - 1 if worker else int(os.environ.get("LOCAL_RANK", 0))
    return torch.device("cuda", number % torch.cuda.device_count())


def settle():
    """Make this process's GPU CUDA's current one, or each process would open a context on the first one too; nccl asks for it."""
    if torch.cuda.is_available():
        torch.cuda.set_device(device())


def on_slurm():
    """Whether workers are jobs of Slurm. Raises ValueError where $MTT_EXECUTOR is something else again."""
    found = os.environ.get("MTT_EXECUTOR") or ""
    if found not in ("", "slurm"):
        raise ValueError(f"MTT_EXECUTOR: found {found}; wanted slurm, or nothing (processes of this machine)")
    return found == "slurm"


def count():
    """How many workers run side by side. Jobs of Slurm may be any number; where none is asked for, groups are not made smaller for it."""
    return number("MTT_WORKERS", 1 if on_slurm() else torch.cuda.device_count() or cores())


def sharing(tasks):
    """How many processes share so many tasks: the workers, or on Slurm a job for each."""
    return tasks if on_slurm() else max(1, min(count(), tasks))


def cores():
    """How many this process may use; macOS does not say, and all are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def number(variable, otherwise):
    """The whole number in a variable of the environment, or `otherwise`. Raises ValueError for anything else, and below 1."""
    found = os.environ.get(variable) or str(otherwise)
    if not found.isdecimal() or int(found) < 1:
        raise ValueError(f"{variable}: found {found}; wanted a whole number, 1 or more")
    return int(found)


def made_with(how):
    """What else decides the last bits of a result; `how` is what the stage adds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "device": device, **how}


def together():
    """How many networks a worker trains as one: $MTT_TOGETHER, by default 10 on a GPU, whose kernels one alone leaves idle, else 1."""
    return number("MTT_TOGETHER", 10 if torch.cuda.is_available() else 1)


def groups(tasks, sharing=None):
    """The list `tasks` in tuples of `together()`, or of fewer where one of the `sharing` processes, by default all workers, had none."""
    size = max(1, min(together(), -(-len(tasks) // (sharing or count()))))
    return [tuple(tasks[first : first + size]) for first in range(0, len(tasks), size)]


def end_with_parent(parent, seconds=0.5):
    """End this process soon after the process `parent` that started it is gone, or at once where it is gone already."""

    def watch():
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def set_threads(work, sharing=1):
    """One thread where a layer has fewer than 200,000 numbers: there, threads wait for each other longer than they compute.

    So the bytes of a small run are the same on any number of cores; a larger one uses what $OMP_NUM_THREADS or the machine gives,
    divided by the processes that are `sharing` it.
    """
    torch.set_num_threads(1 if work < 200_000 else max(1, torch.get_num_threads() // sharing))


def keep_memory():
    """Have glibc keep freed memory for the next step instead of giving it back: each step maps the same large maps again.

    Measured on ConvNet-D3 of width 64, 28x28, 256 images a step, one thread: 1.6 times the images per second.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for a large block
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: keep up to 1 GiB


def pool(most):
    """A context that gives `each(functions, tasks, label, steps)` -> {task: result}, for at most `most` tasks at a time.

    A task is done in turns, one for each of `functions`: function(task, result of the turn before or None, tick) -> result,
    each in whichever process is free, so that 5 tasks in 2 turns keep 2 processes busy to the end. All first turns come first.
    The tasks of one call run under one bar of `steps` steps a task; `tick(loss=None, n=1)` moves it.
    An error in one task ends all; what others had finished is theirs to keep.
    """
    if on_slurm():
        from mtt import cluster  # here: it loads submitit, and it is made of this module

        return cluster.pool(most)
    size = sharing(most)
    return _here() if size == 1 else _processes(size)


@contextmanager
def _here():
    """One worker, this process: another would load PyTorch again, on a GPU CUDA too, for longer than a small task takes."""
    threads = torch.get_num_threads()
    try:
        yield _one_by_one
    finally:
        torch.set_num_threads(threads)


def _one_by_one(functions, tasks, label, steps):
    results = dict.fromkeys(tasks)
    with bar(steps * len(tasks), label, "step") as progress:
        begin(Ticks(progress))
        for function in functions:
            results = {task: call(function, task, before) for task, before in results.items()}
    return results


class Ticks:
    """What workers report, as it comes to the bar; in place of their queue where the one worker is the bar's own process."""

    def __init__(self, progress):
        self.progress = progress

    def put(self, tick):
        """Move the bar by (steps, loss or None)."""
        done, loss = tick
        if loss is not None:
            self.progress.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self.progress.update(done)


@contextmanager
def _processes(size):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    executor = ProcessPoolExecutor(size, context, _start, (queue, os.getpid()))
    try:
        yield partial(_each, executor, queue)
    except BrokenProcessPool:
        raise MemoryError("found a worker killed, as happens where memory runs out") from None
    finally:
        if sys.exc_info()[0]:  # do not wait for what is still running
            for process in multiprocessing.active_children():
                process.terminate()
        executor.shutdown(cancel_futures=True)


def _each(executor, queue, functions, tasks, label, steps):
    results = {}
    with bar(steps * len(tasks), label, "step") as progress:
        reader = threading.Thread(target=_drain, args=(queue, progress), daemon=True)
        reader.start()
        try:
            running = {executor.submit(call, functions[0], task, None): (task, 0) for task in tasks}
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, turn = running.pop(future)
                    results[task] = future.result()
                    if turn + 1 < len(functions):
                        running[executor.submit(call, functions[turn + 1], task, results[task])] = (task, turn + 1)
        finally:
            queue.put(None)
            reader.join()
    return {task: results[task] for task in tasks}


def _start(queue, parent):
    begin(queue)
    end_with_parent(parent)


def begin(queue):
    """Make this process a worker, of one thread, whose ticks (steps, loss or None) go to `queue`."""
    global _ticks
    _ticks = queue
    torch.set_num_threads(1)
    keep_memory()
    settle()


def call(function, task, before):
    """One turn of a task; its ticks are gathered, a few a second, so that the queue costs nothing."""
    pending, sent = 0, time.monotonic()

    def tick(loss=None, n=1):
        nonlocal pending, sent
        pending += n
        if time.monotonic() - sent > 0.2:
            _ticks.put((pending, None if loss is None else float(loss)))
            pending, sent = 0, time.monotonic()

    try:
        return function(task, before, tick)
    finally:
        _ticks.put((pending, None))


def _drain(queue, progress):
    """Move the bar by what the workers report, until told to end."""
    ticks = Ticks(progress)
    while (tick := queue.get()) is not None:
        ticks.put(tick)
