"""Processes on one host or several that share out the segments of each iteration of a distillation (torch.distributed).

$MTT_RANKS says how many the stage starts on its own host; by default one for each GPU, at most one a segment, and one on a CPU.
Where RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set (by torchrun, or by hand on each host), it joins those instead.
All ranks hold the same state and step it alike, so that all diverge where one does; rank 0 alone shows progress and writes.
"""

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from mtt.params import DIVERGED
from mtt.workers import settle

PATIENCE = timedelta(days=1)  # others wait while rank 0 scores images; gloo notices one that is gone by its closed connection
GOES_ON = "the same command goes on from the last checkpoint"


def count(segments):
    """How many ranks share `segments` segments. Raises ValueError where there are more ranks than segments."""
    found = os.environ.get("WORLD_SIZE") or os.environ.get("MTT_RANKS") or str(max(1, min(segments, torch.cuda.device_count())))
    if not found.isdigit() or not 1 <= int(found) <= segments:
        raise ValueError(f"MTT_RANKS or WORLD_SIZE: found {found}; wanted 1 to distill.segments = {segments}")
    return int(found)


def here(size):
    """How many of the `size` ranks are on this host: $LOCAL_WORLD_SIZE, or all where this stage starts them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or (1 if "RANK" in os.environ else size))


@contextmanager
def joined(size):
    """Gives this process's rank among `size`; starts the others where the environment names none."""
    if size == 1:
        yield 0
        return
    ending = threading.Event()
    started = [] if "RANK" in os.environ else _start(size, ending)
    settle()
    try:
        with _others():
            dist.init_process_group("nccl" if _own_gpus(size) else "gloo", rank=int(os.environ["RANK"]), world_size=size, timeout=PATIENCE)
        yield dist.get_rank()
        dist.destroy_process_group()
    finally:
        ending.set()
        for process in started:
            if sys.exc_info()[0]:
                process.terminate()
            process.wait()


def _own_gpus(size):
    """Whether each rank of this host has a GPU of its own, as nccl wants it; else they talk by gloo."""
    return here(size) <= torch.cuda.device_count()


@contextmanager
def _others():
    """Around what waits for the other ranks."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"another rank is gone ({' '.join(str(error).split())}); {GOES_ON}") from None


def _start(size, ending):
    """Start ranks 1 .. size - 1 as this process was started; where one fails and this one waits on for it, end this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    command = [sys.executable, *sys.orig_argv[1:]]
    started = [
        subprocess.Popen(command, env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.DEVNULL)
        for rank in range(1, size)
    ]

    def watch(process, rank):
        if process.wait() not in (0, DIVERGED) and not ending.wait(5):  # gloo sees it and raises here, nccl may not
            print(f"error: rank {rank} ended with status {process.returncode}; {GOES_ON}", file=sys.stderr, flush=True)
            os._exit(1)

    for rank, process in enumerate(started, 1):
        threading.Thread(target=watch, args=(process, rank), daemon=True).start()
    return started


def average(function, tasks):
    """function(task) -> (value (), gradient, ...) for each of the list `tasks`, shared out over the ranks.

    Gives all values (tasks,) and the mean of each gradient, the same on every rank.
    """
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = [function(task) for task in tasks[rank::size]]
    values = torch.zeros(len(tasks), device=mine[0][0].device)
    values[rank::size] = torch.stack([value for value, *_ in mine])
    parts = [values, *(sum(gradients[1:], gradients[0]) / len(tasks) for gradients in list(zip(*mine, strict=True))[1:])]
    if size > 1:
        message = torch.cat([part.flatten() for part in parts])
        with _others():
            dist.all_reduce(message)
        parts = [sums.view_as(part) for sums, part in zip(message.split([part.numel() for part in parts]), parts, strict=True)]
    return parts


def from_first(number, tensors):
    """Rank 0's whole number; the list of tensors is overwritten with rank 0's too."""
    if not dist.is_initialized():
        return number
    number = torch.tensor(number, device=tensors[0].device)
    with _others():
        for tensor in [number, *tensors]:
            dist.broadcast(tensor, 0)
    return int(number)
