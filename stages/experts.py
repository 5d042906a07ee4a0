"""Train -> trajectories: networks trained on real images by plain SGD, their parameters kept after every epoch, one file each."""

import sys
import time
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
from pydantic import Field

from mtt import compiling, dsa, imageset, store, trajectory, workers
from mtt.convnet import ConvNet
from mtt.functional import learner, set_parameters
from mtt.params import Augmentation, Network, Section, read, run
from mtt.seeds import generator
from mtt.training import accuracy, epoch, initialise
from mtt.workers import made_with
from stages import PARENT


class Experts(Section):
    """`experts:`"""

    count: int = Field(ge=1)  # experts
    epochs: int = Field(ge=1)  # snapshots are one more: the first is the initialisation
    batch: int = Field(ge=1)  # images a step
    learning_rate: float = Field(gt=0)  # of plain SGD: no momentum, no weight decay, no decay
    seed: int = Field(ge=0)  # an expert's numbers are drawn from this and its index


def main(train, validation, out):
    """Train what the store lacks of the experts, in parallel, and link them all into the folder `out`."""
    network, augmentation, p = read("network", Network), read("augmentation", Augmentation), read("experts", Experts)
    workers.end_with_parent(PARENT)
    settings = {"network": network.model_dump(), "augmentation": augmentation.model_dump(), "experts": p.model_dump(exclude={"count"})}
    folder = store.folder("experts", [train, validation], settings)
    with store.held(folder):
        missing = [index for index in range(p.count) if not whole(folder / name(index), p.epochs)]
        print(f"{p.count - len(missing)} of {p.count} experts are there, {len(missing)} to train")
        if missing:
            train_missing(missing, train, validation, folder, network, augmentation, p)
        out = store.emptied(out)
        for index in range(p.count):
            store.link(folder / name(index), out / name(index))


def train_missing(missing, train, validation, folder, network, augmentation, p):
    """Train the experts of the list `missing`, side by side."""
    data, tasks = imageset.load(train), workers.groups(missing)
    steps = p.epochs * -(-len(data.images) // p.batch)
    compiled = compiling.repays(convnet(data, network), data.images.shape[1:], steps, p.batch)
    with workers.pool(len(tasks)) as each:
        each([partial(train_experts, train, validation, folder, network, augmentation, p, compiled)], tasks, "experts", steps)


def name(index):
    """The file of one expert."""
    return f"{index:04d}.safetensors"


def whole(path, epochs):
    """Whether `path` holds a finished expert; what is broken there (a power cut) is removed."""
    try:
        return path.exists() and len(trajectory.load(path)) == epochs + 1
    except ValueError:
        path.unlink()
        return False


def convnet(data, network):
    """A ConvNet for the images of `data`."""
    return ConvNet(*data.images.shape[1:3], len(data.classes), network.width, network.depth)


@cache
def prepared(shape, classes, network, compiled, count):
    """A ConvNet on this worker's device, and the gradient of `count` such networks: one for all its tasks, so compiled once."""
    net = ConvNet(*shape[:2], classes, network.width, network.depth).to(workers.device())
    return net, learner(net, compiling.compiled if compiled else None)


@dataclass
class Way:
    """An expert's way so far: its parameters (P,) and its accuracy on validation, at the start and after every epoch."""

    index: int
    part: Path  # where it is kept until it is whole
    snapshots: list = field(default_factory=list)
    accuracies: list = field(default_factory=list)

    def begin(self, net, seed, score, how):
        """Go to where a killed run left it, or to its start. Plain SGD has no other state."""
        if self.part.exists():
            half = trajectory.load(self.part)
            if half.header["made_with"] != made_with(how):
                found = f"it was made with {half.header['made_with']}, now {made_with(how)}"
                print(f"expert {self.index} goes on; warning: {found}: the result may differ in its last bits", file=sys.stderr, flush=True)
            self.snapshots, self.accuracies = list(half[:]), half.header["accuracy"]
        else:
            self.snapshots = [trajectory.vector(initialise(net, generator("expert", seed, self.index)))]
            self.accuracies = [score(self.snapshots[0])]
        return self

    def follow(self, number, theta, score):
        """Note what it is after epoch `number`. Raises ArithmeticError where its parameters are no longer finite."""
        if not theta.isfinite().all():
            raise ArithmeticError(f"expert {self.index}, epoch {number}: its parameters are not finite; lower experts.learning_rate")
        self.snapshots[number:], self.accuracies[number:] = [theta], [score(theta)]

    def save(self, path, header):
        """Write it to `path`."""
        trajectory.save(path, self.snapshots, {**header, "index": self.index, "accuracy": self.accuracies})


def train_experts(train, validation, folder, network, augmentation, p, compiled, indices, _, tick):
    """Train the experts `indices` as one and put their trajectories into `folder`; from where a killed run left them, if it did."""
    torch.set_num_threads(1)
    indices = [index for index in indices if not whole(folder / name(index), p.epochs)]  # those of a job that is submitted again
    if not indices:
        return
    device, data, held_out = workers.device(), imageset.load(train), imageset.load(validation)
    (x, y), (x_val, y_val) = [(part.on(device), part.labels.to(device)) for part in (data, held_out)]
    net, gradient = prepared(tuple(data.images.shape[1:]), len(data.classes), network, compiled, len(indices))

    def score(theta):
        return accuracy(set_parameters(net, theta), x_val, y_val)

    how = {"compiled": compiled, "together": len(indices)}
    ways = [Way(index, Path(folder, name(index)).with_suffix(".part")) for index in indices]
    first = min(len(way.begin(convnet(data, network), p.seed, score, how).snapshots) for way in ways) - 1  # epochs that all have finished
    theta, saved = torch.stack([way.snapshots[first] for way in ways]).to(device), time.monotonic()
    header = about(net, data, network, augmentation, p)
    optimizer = torch.optim.SGD([theta], p.learning_rate, fused=True)
    tick(n=first * -(-len(x) // p.batch))
    for number in range(first, p.epochs):
        draws = [generator("expert", p.seed, index, "epoch", number) for index in indices]
        epoch(gradient, theta, optimizer, x, y, p.batch, partial(dsa.augment, families=augmentation.families), draws, tick)
        for way, parameters in zip(ways, theta.detach().to("cpu", copy=True), strict=True):
            way.follow(number + 1, parameters, score)
        if store.due(saved):
            for way in ways:
                way.save(way.part, {**header, "made_with": made_with(how)})
            saved = time.monotonic()
    for way in ways:
        way.save(Path(folder, name(way.index)), header)
        way.part.unlink(missing_ok=True)


def about(net, data, network, augmentation, p):
    """What a trajectory's header says of its expert, less what is the expert's own."""
    return {
        "layout": trajectory.layout(net), "network": network.model_dump(), "augmentation": augmentation.model_dump(),
        "experts": p.model_dump(exclude={"count"}), "normalised_by": "ZCA" if data.whitening else "mean and std",
        **{"set" if key == "name" else key: value for key, value in data.about().items()},
    }  # fmt: skip


if __name__ == "__main__":
    run(main)
