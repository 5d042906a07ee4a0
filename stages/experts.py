"""Train -> trajectories: networks trained on real images by plain SGD, their parameters kept after every epoch, one file each."""

import sys
import time
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from mtt import compiling, difficulty, dsa, gsam, imageset, store, tensorfile, trajectory, workers
from mtt.convnet import ConvNet
from mtt.functional import learner, set_parameters
from mtt.params import Augmentation, Network, Section, read, run
from mtt.seeds import generator
from mtt.training import accuracy, epoch, initialise, outputs
from mtt.workers import made_with
from stages import PARENT


class Difficulty(Section):
    """`experts.difficulty:`, by which images are ordered."""

    networks: int = Field(ge=1)  # trained on all images as experts are, by plain SGD, whose mean error on an image is its difficulty
    epochs: int = Field(ge=1)  # of these
    growing: int = Field(ge=1)  # epochs until an expert sees all images; twice, three times as many until not the easiest; published: 20


class Experts(Section):
    """`experts:`"""

    count: int = Field(ge=1)  # experts
    epochs: int = Field(ge=1)  # snapshots are one more: the first is the initialisation
    batch: int = Field(ge=1)  # images a step
    learning_rate: float = Field(gt=0)  # of plain SGD: no momentum, no weight decay, no decay
    optimizer: Literal["sgd", "gsam"]  # gsam: SGD along gradients that lead to flat minima (FTD)
    rho: float = Field(ge=0)  # of gsam: how far it climbs; published: 0.01
    alpha: float = Field(ge=0)  # of gsam: the weight of the surrogate gap; published: 1, and 0.3
    order: Literal["shuffled", "difficulty"]  # difficulty: the easy images first, later without the easiest (PAD)
    difficulty: Difficulty
    seed: int = Field(ge=0)  # an expert's numbers are drawn from this and its index


ERRORS = "difficulty.errors"  # the file of a store's folder that says how hard each image is


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
    if p.order == "difficulty":
        measure(data, train, folder, network, augmentation, p)
    steps = sum(lengths(ranked(data, folder, p), data, p))
    gradients = steps * (2 if p.optimizer == "gsam" else 1)
    together = len(workers.groups(range(p.count))[0])  # of all experts, not of those that are missing
    compiled = compiling.repays(convnet(data, network), data.images.shape[1:], gradients, p.batch * together)
    with workers.pool(len(tasks)) as each:
        each([partial(train_experts, train, validation, folder, network, augmentation, p, compiled)], tasks, "experts", steps)


def measure(data, train, folder, network, augmentation, p):
    """Write how far networks err on each image into `folder`, once."""
    path, tasks = folder / ERRORS, list(range(p.difficulty.networks))
    if not measured(path):
        steps = p.difficulty.epochs * -(-len(data.images) // p.batch)
        with workers.pool(len(tasks)) as each:
            found = each([partial(errors, train, network, augmentation, p)], tasks, "difficulty", steps)
        tensorfile.save(path, {"errors": torch.as_tensor(sum(map(found.get, tasks))) / len(tasks)}, {"kind": "difficulty"})


def measured(path):
    """Whether `path` holds the errors; what is broken there (a power cut) is measured again."""
    try:
        return path.exists() and bool(tensorfile.load(path, "difficulty"))
    except ValueError:
        return False


def ranked(data, folder, p):
    """How hard each image is for its class (n,), or None where that does not matter."""
    return None if p.order == "shuffled" else difficulty.ranked(tensorfile.load(folder / ERRORS, "difficulty")[0]["errors"], data.labels)


def among(ranks, number, p):
    """The indices of the images that epoch `number` is over; None for all."""
    return None if ranks is None else difficulty.among(ranks, number, p.difficulty.growing)


def lengths(ranks, data, p):
    """The steps of each epoch."""
    return [-(-len(data.images if ranks is None else among(ranks, number, p)) // p.batch) for number in range(p.epochs)]


def errors(train, network, augmentation, p, number, _, tick):
    """The error of each training image (n,) of a network trained for this alone."""
    torch.set_num_threads(1)
    data, draws = imageset.load(train), generator("difficulty", p.seed, number)
    net, x, y = initialise(convnet(data, network), draws).to(workers.device()), data.on(workers.device()), data.labels.to(workers.device())
    theta, augment = trajectory.vector(net)[None], partial(dsa.augment, families=augmentation.families)
    gradient, optimizer = learner(net), torch.optim.SGD([theta], p.learning_rate, fused=True)
    for _ in range(p.difficulty.epochs):
        epoch(gradient, theta, optimizer, x, y, p.batch, augment, [draws], tick)
    return difficulty.el2n(outputs(net, x), y).cpu().numpy()


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
    direction = gsam.flattening(gradient, p.rho, p.alpha) if p.optimizer == "gsam" else gradient
    ranks, augment = ranked(data, folder, p), partial(dsa.augment, families=augmentation.families)
    tick(n=sum(lengths(ranks, data, p)[:first]))
    for number in range(first, p.epochs):
        draws = [generator("expert", p.seed, index, "epoch", number) for index in indices]
        epoch(direction, theta, optimizer, x, y, p.batch, augment, draws, tick, among=among(ranks, number, p))
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
