"""The buffer: opening it and reading one segment; what that brings into memory; and that memory does not grow with the experts."""

import ctypes
import json
import mmap
import os
from functools import partial
from pathlib import Path

import torch

from benchmarks import harness, plain, problems
from benchmarks.harness import Row, measured, median
from mtt import store, trajectory, workers
from mtt.buffer import Buffer
from mtt.convnet import ConvNet
from mtt.functional import as_function
from mtt.unroll import Step, match

EXPERTS, SNAPSHOTS, WIDTH = 10, 51, 128  # 650 MB in each of the two formats
EPOCHS = 2  # of a segment


def network(width, channels=3, side=32):
    """The networks that the buffers are of."""
    return ConvNet(channels, side, 10, width)


def make_ours(folder, experts, snapshots, width, channels=3, side=32):
    """Write a buffer of random numbers, as stage buffer lays it out."""
    net, files = network(width, channels, side), []
    layout = trajectory.layout(net)
    common = {"layout": layout, "network": {"width": width, "depth": 3}, "augmentation": {"families": []}, "set": "random"}
    common |= {"classes": [str(k) for k in range(10)], "shape": [channels, side, side], "mean": [0.0] * channels, "std": [1.0] * channels}
    for expert in range(experts):
        path = Path(folder, f"{expert:04d}.safetensors")
        trajectory.save(path, vectors(expert, snapshots, net), common)
        files.append({"file": path.name, "sha256": store.digest(path), "bytes": path.stat().st_size})
    Path(folder, "index.json").write_text(json.dumps({**common, "snapshots": snapshots, "files": files}))
    return {}


def make_plain(file, experts, snapshots, width):
    """Write the same numbers as nested lists of tensors."""
    shapes = [p.shape for p in network(width).parameters()]
    sizes = [shape.numel() for shape in shapes]
    found = [vectors(expert, snapshots, network(width)) for expert in range(experts)]
    lists = [[[part.view(shape).clone() for part, shape in zip(t.split(sizes), shapes, strict=True)] for t in each] for each in found]
    plain.save_buffer(file, lists)
    return {}


def vectors(expert, snapshots, net):
    """The random snapshots, each (P,), of an expert."""
    draws = torch.Generator().manual_seed(expert)
    size = sum(p.numel() for p in net.parameters())
    return [0.1 * torch.randn(size, generator=draws) for _ in range(snapshots)]


def read_plain(file):
    """Seconds to read one segment the plain way, all of which is in the kernel's cache already."""
    return {"seconds": harness.seconds(lambda: plain.segment(file, 3, 20, EPOCHS))}


def read_ours(folder):
    """Seconds to open the buffer and read one segment."""
    return {"seconds": harness.seconds(lambda: Buffer(folder).segment(3, 20, EPOCHS))}


def forget(path):
    """Have the kernel drop a file from its cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(path):
    """Bytes of a file that are in the kernel's cache, by mincore."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        view = ctypes.c_char.from_buffer(mapped)  # writable, though nothing is written: ctypes takes no other
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(len(mapped)), pages)
        del view
    if failed:
        raise OSError(ctypes.get_errno(), f"{path}: mincore failed")
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


def distil(folder, iterations=100, width=32):
    """Bytes above the state before of a process that verifies a buffer and then visits `iterations` experts.

    `anonymous` is the most that it held itself after an iteration; `all` its peak, files that it maps too.
    """
    workers.keep_memory()
    torch.set_num_threads(1)  # no time is measured
    problem = problems.matching(10, 2, width, 3, 32)
    step = Step(as_function(problem.net))
    before, held = harness.forget_peak(), harness.memory("RssAnon")
    buffer, peak = Buffer(folder), 0
    buffer.verify()
    for iteration in range(iterations):
        theta, target = buffer.segment(iteration % len(buffer.experts), iteration % 2, EPOCHS)
        match(step, theta, target, *problem[3:])
        peak = max(peak, harness.memory("RssAnon"))
    return {"anonymous": peak - held, "all": harness.memory("VmHWM") - before}


def rows():
    """In temporary folders, removed at the end."""
    with harness.scratch() as folder, harness.scratch() as file:
        found = reading(Path(folder), Path(file, "replay_buffer_0.pt"))
    with harness.scratch() as few, harness.scratch() as many:
        return found + growing({10: few, 100: many})


def reading(folder, file):
    """Time beside the plain way's; then what of the cold file was read."""
    measured("buffers", "make_ours", folder, EXPERTS, SNAPSHOTS, WIDTH)
    measured("buffers", "make_plain", file, EXPERTS, SNAPSHOTS, WIDTH)
    results = harness.in_turn(
        harness.ROUNDS + 1,  # the first brings both into the kernel's cache and is not counted
        plain=partial(measured, "buffers", "read_plain", file),
        ours=partial(measured, "buffers", "read_ours", folder),
    )
    plain, ours = [median(results[way][1:], "seconds") for way in ("plain", "ours")]
    case = f"a process's first segment, without verifying its digests, {EXPERTS} experts x {SNAPSHOTS} snapshots, width {WIDTH}"
    path = folder / "0003.safetensors"
    forget(path)
    left = resident(path)
    measured("buffers", "read_ours", folder)
    bound = 2 * 4 * sum(p.numel() for p in network(WIDTH).parameters()) + (1 << 20)
    value, note = (resident(path) / bound, "") if left == 0 else (None, "the file system here keeps files in memory")
    return [
        Row("open buffer, read a segment, time / plain", case, ours / plain, 0.01),
        Row("pages read / (2 P x 4 bytes + 1 MiB)", case, value, 1.0, note=note),
    ]


def growing(folders):
    """Memory of 100 experts over 10, everything else the same."""
    for experts, folder in folders.items():
        measured("buffers", "make_ours", folder, experts, 4, 32)
    results = harness.in_turn(harness.ROUNDS, **{str(experts): partial(measured, "buffers", "distil", f) for experts, f in folders.items()})
    ratio = {key: median(results["100"], key) / median(results["10"], key) for key in ("anonymous", "all")}
    case = "100 iterations, width 32, N 2, above the state before: "
    return [
        Row("distill's memory, 100 experts / 10", f"{case}its own", ratio["anonymous"], 1.05),
        Row("distill's memory, 100 experts / 10", f"{case}at the peak, mapped files too", ratio["all"], 1.05),
    ]


if __name__ == "__main__":
    parts = (make_ours, make_plain, read_plain, read_ours, distil)
    harness.main({part.__name__: part for part in parts})
