"""A set, test -> the scores of one method on one architecture (a DVC matrix over both). The only stage that reads the test set."""

import json
import statistics
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mtt import dsa, imageset, workers
from mtt.architectures import VGG11, AlexNet, ResNet18
from mtt.convnet import ConvNet
from mtt.params import Augmentation, Network, Section, read, run
from mtt.seeds import generator
from mtt.training import accuracy, fit, initialise


class Evaluate(Section):
    """`evaluate:` for small sets, `whole:` for the whole training set."""

    networks: int = Field(ge=1)  # fresh networks whose test accuracies make mean and std
    epochs: dict[str, Annotated[int, Field(ge=2)]]  # by architecture; the learning rate falls to a tenth at half
    batch: int = Field(ge=1)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    learning_rates: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)  # tried on validation, a learned step size beside them
    seed: int = Field(ge=0)


ARCHITECTURES = {"ConvNet": ConvNet, "AlexNet": AlexNet, "VGG11": VGG11, "ResNet18": ResNet18}


def main(method, architecture, section, images, validation, test, out):
    """Score the set in `images`, by the protocol of params.yaml's `section`, and write the figures to `out`."""
    network, augmentation, p = read("network", Network), read("augmentation", Augmentation), read(section, Evaluate)
    workers.end_with_parent()
    small, held_out = imageset.load(images), imageset.load(test)
    if architecture not in ARCHITECTURES or architecture not in p.epochs:
        raise ValueError(f"params.yaml: {section}.epochs: found {architecture}; wanted one of {', '.join(ARCHITECTURES)}, with its epochs")
    if small.about() != held_out.about():
        raise ValueError(f"{images}: found {small.about()}; wanted {held_out.about()}, as in {test}")
    run_one = partial(train_one, images, validation, test, architecture, network, augmentation, p)
    learned = small.learning_rate
    rates = sorted({*p.learning_rates, *([learned] if learned else [])})
    steps = -(-len(small.images) // p.batch) * p.epochs[architecture]

    label = f"{method} {architecture}"
    with workers.pool(max(p.networks, len(rates))) as each:
        candidates = select(each, run_one, rates, f"{label}: learning rate", steps)
        best = max(candidates, key=candidates.get) if candidates else rates[0]
        scored = list(dict.fromkeys([learned or best, best]))
        tasks = [("test", rate, seed) for rate in scored for seed in range(p.networks)]
        found = each(run_one, tasks, f"{label}: {p.networks} networks", steps)
    scores = {rate: summary(rate, [found["test", rate, seed] for seed in range(p.networks)]) for rate in scored}
    result = {
        "method": method, "architecture": architecture, "images": len(small.images), **scores[learned or best],
        "learned": learned is not None, "best_rate": scores[best], "validation": {f"{rate:g}": score for rate, score in candidates.items()},
    }  # fmt: skip
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(result, indent=1) + "\n")
    print(f"{label}: {result['mean']:.3f} +- {result['std']:.3f} (n = {result['n']}, learning rate {result['learning_rate']:.4g})")


def select(each, run_one, rates, label, steps):
    """{learning rate: accuracy on validation of one network trained with it}; empty where there is nothing to choose."""
    if len(rates) == 1:
        return {}
    found = each(run_one, [("validation", rate, 0) for rate in rates], label, steps)
    return {rate: accuracy for (_, rate, _), accuracy in found.items()}


def summary(rate, accuracies):
    """Mean, standard deviation (of the population, as published figures are) and n over networks trained at one learning rate."""
    mean, std = statistics.fmean(accuracies), statistics.pstdev(accuracies)
    return {"learning_rate": rate, "mean": mean, "std": std, "n": len(accuracies), "accuracies": accuracies}


loaded = lru_cache(imageset.load)


def train_one(images, validation, test, architecture, network, augmentation, p, task, tick):
    """The accuracy of one fresh network trained on the set. `task` is (part to score on, learning rate, seed)."""
    part, rate, seed = task
    device, data, held_out = workers.device(), loaded(images), loaded(test if part == "test" else validation)
    draws = generator("evaluate", p.seed, part, seed)
    sizes = {"width": network.width, "depth": network.depth} if architecture == "ConvNet" else {}
    net = initialise(ARCHITECTURES[architecture](*data.images.shape[1:3], len(data.classes), **sizes), draws).to(device)
    fit(
        net, data.normalised().to(device), data.labels.to(device), epochs=p.epochs[architecture], batch=p.batch,
        learning_rate=rate, momentum=p.momentum, weight_decay=p.weight_decay,
        augment=partial(dsa.augment, families=augmentation.families), generator=draws, tick=tick,
    )  # fmt: skip
    return accuracy(net, held_out.normalised().to(device), held_out.labels.to(device))


if __name__ == "__main__":
    run(main)
