"""What a hundred experts cost at the sizes that people train, by formulas: `python -m benchmarks.estimate` prints the table of RESULTS.md.

Exact: parameters, bytes (but for a few kB of header a file) and objects. Assumed: what stands in capitals below, and that nothing but
convolutions and linear layers takes time. Requests are those of DVC with an S3 remote, as `python -m benchmarks.requests` counts them.
"""

from dataclasses import dataclass
from math import ceil

import torch

from mtt import compiling, tables
from mtt.architectures import ResNet18
from mtt.convnet import ConvNet

RATE = {"cuda": 5e12, "cpu": 80e9}  # floating-point operations a second, kept up: of one GPU in float32, of two cores
TRAINING, MATCHING = 3, 12  # forward passes' work of a training step, and of a student's step there and back, for each image
TRUNCATED = 10  # of the latter without the Hessian terms: on the way back nothing is differentiated by the weights twice
LINK = 100e6  # bytes a second to and from the remote
EXPERTS, SNAPSHOTS = 100, 51  # as published
ITERATIONS = 5000
PART = 50 * 2**20  # bytes of a request where a file is sent or fetched in parts


@dataclass
class Case:
    """A set of so many training images, the network of experts and students, and the paper's numbers at 1 image per class."""

    name: str
    network: torch.nn.Module
    shape: tuple
    classes: int
    images: int
    read: int  # snapshots that distillation reads, T+ + M
    syn_steps: int  # N

    @property
    def parameters(self):
        """P."""
        return sum(p.numel() for p in self.network.parameters())

    def file(self, snapshots, size):
        """Bytes of a trajectory of numbers of `size` bytes."""
        return snapshots * self.parameters * size

    def training(self, snapshots):
        """Operations that train all experts: an epoch for each snapshot but the first."""
        return EXPERTS * (snapshots - 1) * self.images * TRAINING * compiling.work(self.network, self.shape)

    def matching(self):
        """Operations of a distillation of all images in each step."""
        return ITERATIONS * self.syn_steps * self.classes * MATCHING * compiling.work(self.network, self.shape)


CASES = (
    Case("ConvNet-D3, CIFAR-10", ConvNet(3, 32, 10), (3, 32, 32), 10, 50_000, read=4, syn_steps=50),
    Case("ConvNet-D4, Tiny ImageNet", ConvNet(3, 64, 200, depth=4), (3, 64, 64), 200, 100_000, read=12, syn_steps=10),
    Case("ResNet18, ImageNet-1K at 64 px", ResNet18(3, 64, 1000), (3, 64, 64), 1000, 1_281_167, read=12, syn_steps=10),
)


def push(bytes):
    """Requests of `dvc push data/buffer` with files of so many bytes: one each, or in parts from two of them on; and the rest."""
    return 11 + EXPERTS * (1 if bytes < 2 * PART else 2 + ceil(bytes / PART)) + 1  # the index too


def pull(bytes):
    """Requests of `dvc pull data/buffer`: one a file, and its parts where it has more than one; and the rest."""
    return 10 + EXPERTS * (1 if bytes <= PART else 1 + ceil(bytes / PART)) + 1


def column(case, snapshots, size, dtype):
    """What one case costs in one form of the buffer: {quantity: text}."""
    file, hours = case.file(snapshots, size), {kind: case.training(snapshots) / rate / 3600 for kind, rate in RATE.items()}
    experts = EXPERTS * case.file(snapshots, 4)  # trained in float32; one copy, which a buffer of other bytes stands beside
    return {
        "": f"{case.name}: {snapshots} snapshots, {dtype}",
        "parameters of a network": f"{case.parameters:,}",
        "training all experts, GPU": duration(hours["cuda"]),
        "training all experts, two cores": duration(hours["cpu"]),
        "buffer": size_of(EXPERTS * file),
        "disk: experts and buffer, work store, cache": size_of(experts + (size != 4) * EXPERTS * file),
        "objects on the remote": f"{EXPERTS + 2}",
        "requests of a push": f"{push(file):,}",
        "requests of a pull": f"{pull(file):,}",
        "push or pull, over the link": duration(EXPERTS * file / LINK / 3600),
        "a distillation, 1 image per class, GPU": duration(case.matching() / RATE["cuda"] / 3600),
        "training images, uint8, mapped": size_of(case.images * torch.Size(case.shape).numel()),
    }


def size_of(bytes):
    """Bytes for people."""
    return f"{three(bytes / 1e9)} GB" if bytes >= 1e8 else f"{three(bytes / 1e6)} MB"


def duration(hours):
    """Hours for people."""
    for unit, length in (("days", 24), ("h", 1), ("min", 1 / 60)):
        if hours >= (3 if unit == "days" else 1) * length:
            return f"{three(hours / length)} {unit}"
    return f"{three(3600 * hours)} s"


def three(number):
    """Three digits of it, never with an exponent."""
    return f"{float(f'{number:.3g}'):,.10g}"


def markdown():
    """The table of RESULTS.md."""
    columns = [column(case, *form) for case in CASES for form in ((SNAPSHOTS, 4, "float32"), (case.read, 2, "float16"))]
    lines = [[name, *(each[name] for each in columns)] for name in columns[0]]
    return tables.markdown(lines[0], lines[1:])


if __name__ == "__main__":
    print(markdown(), end="")
