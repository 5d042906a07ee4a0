"""A set, test -> the scores of one method on one architecture (a DVC matrix over both). The only stage that reads the test set."""

import json
import math
import statistics
from functools import cache, partial
from typing import Annotated

import torch
from pydantic import Field

from mtt import compiling, dsa, imageset, textures, trajectory, workers
from mtt.architectures import MLP, VGG11, AlexNet, LeNet, ResNet18, ViT
from mtt.batchnorm import batch_normed, settle
from mtt.convnet import ConvNet
from mtt.files import write
from mtt.functional import learner, set_parameters
from mtt.params import Augmentation, Network, Section, read, run
from mtt.seeds import generator
from mtt.training import accuracy, fit, halves, initialise
from stages import PARENT


class Evaluate(Section):
    """`evaluate:` for small sets, `whole:` for the whole training set."""

    networks: int = Field(ge=1)  # fresh networks whose test accuracies make mean and std
    epochs: dict[str, Annotated[int, Field(ge=2)]]  # by architecture; the learning rate falls to a tenth at half
    batch: int = Field(ge=1)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    learning_rates: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)  # tried on validation, a learned step size beside them
    seed: int = Field(ge=0)


ARCHITECTURES = {
    "ConvNet": ConvNet, "AlexNet": AlexNet, "VGG11": VGG11, "ResNet18": ResNet18, "LeNet": LeNet, "MLP": MLP, "ViT": ViT,
    "ConvNetBN": batch_normed(ConvNet), "ResNet18BN": batch_normed(ResNet18),
}  # fmt: skip


def main(method, architecture, section, images, validation, test, out, plain=None):
    """Score the set in `images`, by the protocol of params.yaml's `section`, and write the figures to `out`. `plain`: unaugmented."""
    network, augmentation, p = read("network", Network), read("augmentation", Augmentation), read(section, Evaluate)
    if plain not in (None, "plain"):
        raise ValueError(f"stages.evaluate: found {plain}; wanted plain (without augmentation) or nothing after {out}")
    if plain:
        augmentation = Augmentation(families=[])
    workers.end_with_parent(PARENT)
    small, held_out = imageset.load(images), imageset.load(test)
    if architecture not in ARCHITECTURES or architecture not in p.epochs:
        wanted = f"one of {', '.join(ARCHITECTURES)}" if architecture not in ARCHITECTURES else "its epochs there too"
        raise ValueError(f"params.yaml: {section}.epochs: found no {architecture}; wanted {wanted}")
    if small.about() != held_out.about():
        raise ValueError(f"{images}: found {small.about()}; wanted {held_out.about()}, as in {test}")
    learned = small.learning_rate
    beside = [rate for rate in p.learning_rates if not (learned and math.isclose(rate, learned, rel_tol=1e-6))]  # which is float32
    rates = sorted({*beside, *([learned] if learned else [])})
    steps = -(-len(small.images) // p.batch) * p.epochs[architecture]
    net, trainings, seeds = build(images, architecture, network), len(rates) + p.networks, workers.groups(range(p.networks))
    seen = small.canvas_samples * min(p.batch, len(small.images))
    sizes = {1, *map(len, seeds)}  # of groups: each is compiled for itself
    compiled = compiling.repays(net, small.shape, trainings * steps, seen, cost=len(sizes), sharing=workers.sharing(trainings))
    turns = [partial(train_half, half, images, validation, test, architecture, network, augmentation, p, compiled) for half in (0, 1)]

    label = f"{method} {architecture}{' plain' if plain else ''}"
    with workers.pool(max(len(seeds), len(rates))) as each:
        candidates = select(each, turns, rates, f"{label}: learning rate", steps)
        best = max(candidates, key=candidates.get) if candidates else rates[0]
        scored = list(dict.fromkeys([learned or best, best]))
        tasks = [("test", rate, group) for rate in scored for group in seeds]
        found = each(turns, tasks, f"{label}: {p.networks} networks", steps)
    scores = {rate: summary(rate, [score for group in seeds for score in found["test", rate, group]]) for rate in scored}
    result = {
        "method": method, "architecture": architecture, "images": len(small.images), "soft": small.labels.ndim > 1,
        **scores[learned or best],
        "learned": learned is not None, "best_rate": scores[best], "validation": {f"{rate:g}": score for rate, score in candidates.items()},
    }  # fmt: skip
    write(out, json.dumps(result, indent=1) + "\n")
    print(f"{label}: {result['mean']:.3f} +- {result['std']:.3f} (n = {result['n']}, learning rate {result['learning_rate']:.4g})")


def select(each, turns, rates, label, steps):
    """{learning rate: accuracy on validation of one network trained with it}; empty where there is nothing to choose."""
    if len(rates) == 1:
        return {}
    found = each(turns, [("validation", rate, (0,)) for rate in rates], label, steps)
    return {rate: accuracies[0] for (_, rate, _), accuracies in found.items()}


def summary(rate, accuracies):
    """Mean, standard deviation (of the population, as published figures are) and n over networks trained at one learning rate."""
    mean, std = statistics.fmean(accuracies), statistics.pstdev(accuracies)
    return {"learning_rate": rate, "mean": mean, "std": std, "n": len(accuracies), "accuracies": accuracies}


loaded = cache(imageset.load)


def build(images, architecture, network):
    """A network of that architecture for the set in `images`."""
    data = loaded(images)
    sizes = {"width": network.width, "depth": network.depth} if architecture.startswith("ConvNet") else {}
    return ARCHITECTURES[architecture](*data.shape[:2], len(data.classes), **sizes)


@cache
def prepared(images, architecture, network, compiled, count):
    """A network on this worker's device, and the gradient of `count` such networks' losses: one for all tasks, so compiled once."""
    net = build(images, architecture, network).to(workers.device())
    return net, learner(net, compiling.compiled if compiled else None)


def train_half(half, images, validation, test, architecture, network, augmentation, p, compiled, task, theta, tick):
    """Train fresh networks on the set for the first half (0) or, from theta (E, P), for the second (1); then give their accuracies.

    `task` is (part to score on, learning rate, seeds of the E networks).
    """
    part, rate, seeds = task
    device, data = workers.device(), loaded(images)
    net, gradient = prepared(images, architecture, network, compiled, len(seeds))
    draws = [generator("evaluate", p.seed, part, seed, half) for seed in seeds]
    if half == 0:
        theta = torch.stack([trajectory.vector(initialise(build(images, architecture, network), own)) for own in draws])
    epochs, rate = halves(p.epochs[architecture], rate)[half]
    augment = textures.cropped(partial(dsa.augment, families=augmentation.families), data.canvas_size)
    theta, seen = torch.as_tensor(theta).to(device), data.on(device)
    fit(
        gradient, theta, seen, data.labels.to(device), epochs=epochs, batch=p.batch, learning_rate=rate,
        momentum=p.momentum, weight_decay=p.weight_decay, augment=augment, generators=draws, tick=tick, samples=data.canvas_samples,
    )  # fmt: skip
    if half == 0:
        return theta.cpu().numpy()  # between processes a tensor would travel through /dev/shm, small in containers
    held_out = loaded(test if part == "test" else validation)
    x, y = held_out.on(device), held_out.labels.to(device)
    whole = partial(textures.tiles, size=data.canvas_size)
    return [accuracy(settle(set_parameters(net, own), seen, whole), x, y) for own in theta]


if __name__ == "__main__":
    run(main)
