"""A process of its own in which files are read that may be traps: what they do to it is told, and harms nobody else."""

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 20  # after so long without an answer it hangs
MEMORY = 64 << 20  # bytes above the file's own that a reader may take
SECTIONS = ("augmentation", "distill", "evaluate")  # of params.yaml; they have every type that there is


def readers():
    """{kind: function(path)} that reads all of a file; a buffer's index with the trajectories that it names, and their digests."""
    from mtt import images, imageset, params, state, trajectory, vision
    from mtt.buffer import Buffer
    from stages.check import SCHEMAS

    assert vision.torchvision  # imported where it is first used: now, and not in the memory of a file

    def parameters(path):
        faults = []
        for section in SECTIONS:
            try:
                params.read(section, SCHEMAS[section], path)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("\n".join(faults))

    return {
        "trajectory": lambda path: trajectory.load(path)[:],
        **dict.fromkeys(("set", "whitened", "canvases"), imageset.load),
        "index": lambda path: Buffer(Path(path).parent).verify(),
        "params": parameters,
        "checkpoint": lambda path: state.resume(Path(path).parent, 1 << 62, "cpu"),
        "record": lambda path: images.load("CIFAR10", Path(path).parent.parent, 32),
        "picture": lambda path: images.load("folder", Path(path).parent.parent, 8).train[0][:],
    }


def serve():
    """Answer each line [kind, path] with a line [ValueError's words or None, anything worse or None, bytes at the peak]."""
    known, libc = readers(), ctypes.CDLL(None)
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + (2 << 30),) * 2)  # so that a bomb harms this process alone
    gc.freeze()
    for line in sys.stdin:
        (kind, path), refusal, crash = json.loads(line), None, None
        gc.collect()
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = memory("VmRSS")
        try:
            known[kind](path)
        except ValueError as error:
            refusal = str(error)
        except BaseException:
            crash = traceback.format_exc()
        print(json.dumps([refusal, crash, memory("VmHWM") - before]), flush=True)


def memory(key):
    """Bytes of this process by the kernel's account."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


@dataclass
class Guard:
    """The other end. `most` is the most memory above a file's size that any reading took so far."""

    process: subprocess.Popen
    most: int = 0

    def read(self, kind, path):
        """None where the file at `path` is accepted, else the words of the ValueError; fails on anything else."""
        self.process.stdin.write(json.dumps([kind, str(path)]) + "\n")
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], SECONDS)[0], f"reading {path} hangs"
        answer = self.process.stdout.readline()
        assert answer, f"reading {path} ended the process with status {self.process.wait()}"
        refusal, crash, peak = json.loads(answer)
        assert crash is None, crash
        self.most = max(self.most, peak - path.stat().st_size)
        assert self.most <= MEMORY, f"reading {path} took {peak / 1e6:.0f} MB, its size is {path.stat().st_size / 1e6:.1f} MB"
        return refusal


@contextlib.contextmanager
def guarding():
    """A Guard, until the end of the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Guard(process)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


if __name__ == "__main__":
    serve()
