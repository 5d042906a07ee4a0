"""What a hundred experts cost at the sizes that people train, by formulas. `python -m benchmarks.estimate` prints the table.

An estimate. Assumed: a GPU or a pair of CPU cores does RATE floating-point operations a second and nothing but convolutions takes
time; a step of training takes 3 forward passes of each image, a step of the student 12, there and back; a link carries LINK.
Bytes, objects and parameters are exact but for the files' headers (a few kB each); requests are those that `count` says.
"""

from dataclasses import dataclass

import torch

from mtt import compiling
from mtt.architectures import ResNet18
from mtt.convnet import ConvNet

RATE = compiling.RATE  # of a GPU and of two cores, by kind
LINK = 100e6  # bytes a second
EXPERTS, SNAPSHOTS = 100, 51  # as published


@dataclass
class Case:
    """A set of images (`images` of `shape` to train on, in `classes`) and the network that experts and students are."""

    name: str
    network: torch.nn.Module
    shape: tuple
    classes: int
    images: int
    read: int  # snapshots that distillation reads at 1 image per class, T+ + M
    syn_steps: int  # N
    iterations: int = 5000
    snapshots: int = SNAPSHOTS

    @property
    def parameters(self):
        """P."""
        return sum(p.numel() for p in self.network.parameters())

    def bytes(self, snapshots, size):
        """Of all experts' trajectories, `size` bytes a number."""
        return EXPERTS * snapshots * self.parameters * size

    def training(self, snapshots):
        """Operations of training the experts: an epoch for each snapshot but the first."""
        return EXPERTS * (snapshots - 1) * self.images * 3 * compiling.work(self.network, self.shape)

    def distilling(self):
        """Operations of a distillation at 1 image per class."""
        return self.iterations * self.syn_steps * self.classes * 12 * compiling.work(self.network, self.shape)


CASES = (
    Case("ConvNet-D3, CIFAR-10", ConvNet(3, 32, 10), (3, 32, 32), 10, 50_000, read=4, syn_steps=50),
    Case("ConvNet-D4, Tiny ImageNet", ConvNet(3, 64, 200, depth=4), (3, 64, 64), 200, 100_000, read=12, syn_steps=10),
    Case("ResNet18, ImageNet-1K at 64 px", ResNet18(3, 64, 1000), (3, 64, 64), 1000, 1_281_167, read=12, syn_steps=10),
)
