"""Train -> the set of a comparison method, in the same file format as the distilled one (a DVC matrix over methods)."""

import math
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from mtt import coresets, distribution_matching, dsa, gradient_matching, imageset, store, tensorfile, trajectory, workers
from mtt.convnet import ConvNet
from mtt.functional import learner, set_parameters
from mtt.params import Augmentation, Network, Section, read, run
from mtt.progress import bar
from mtt.seeds import generator
from mtt.state import Checkpoints, State, resume
from mtt.training import epoch, initialise, outputs
from stages import PARENT


class Random(Section):
    """`baseline.random:`, which has nothing to set."""


class Coreset(Section):
    """`baseline.herding:` and `baseline.k_center:`, training, by plain SGD, the network whose features they choose by."""

    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


class GradientMatching(Section):
    """`baseline.dc:` and `baseline.dsa:`"""

    iterations: int = Field(ge=1)  # each with a network of its own, fresh; published: 1000
    outer: int = Field(ge=1)  # steps of the images in each; published: 1, 10, 50 for 1, 10, 50 images per class
    inner: int = Field(ge=1)  # epochs of the network on the images between two of these; published: 1, 50, 10
    lr_img: float = Field(gt=0)  # of the pixels; published: 0.1
    momentum: float = Field(ge=0, lt=1)  # of the pixels; published: 0.5
    batch_real: int = Field(ge=1)  # real images of each class a step, all where it has fewer; published: 256
    batch_train: int = Field(ge=1)  # synthetic images a step of the network; published: 256
    learning_rate: float = Field(gt=0)  # of the network, by plain SGD; published: 0.01


class DistributionMatching(Section):
    """`baseline.dm:`"""

    outer: ClassVar[int] = 1  # as GradientMatching has it
    iterations: int = Field(ge=1)  # each with a network of its own, which is not trained; published: 20000
    lr_img: float = Field(gt=0)  # of the pixels; published: 1
    momentum: float = Field(ge=0, lt=1)  # of the pixels; published: 0.5
    batch_real: int = Field(ge=1)  # real images of each class a step, all where it has fewer; published: 256


class Baseline(Section):
    """`baseline:`, a section for each of METHODS and what they share."""

    ipc: int = Field(ge=1)  # images per class; check.py holds it to distill.ipc
    seed: int = Field(ge=0)
    random: Random
    herding: Coreset
    k_center: Coreset
    dc: GradientMatching
    dsa: GradientMatching
    dm: DistributionMatching


def main(method, train, out):
    """Write the set of `method` to `out`."""
    network, families, p = read("network", Network), read("augmentation", Augmentation).families, read("baseline", Baseline)
    if method not in METHODS:
        raise ValueError(f"baselines: found {method}; wanted one of {', '.join(METHODS)}")
    workers.end_with_parent(PARENT)
    data, own = imageset.load(train), getattr(p, method)
    used = {"network": network.model_dump()} if method != "random" else {}
    used |= {"augmentation": {"families": families}} if method in ("dsa", "dm") else {}
    images = METHODS[method](method, p, own, data, used, train)
    labels = torch.arange(len(data.classes)).repeat_interleave(p.ipc)
    provenance = {**used, "baseline": {"method": method, "ipc": p.ipc, "seed": p.seed, **own.model_dump()}}
    replace(data, images=images, labels=labels, provenance=provenance).save(out)
    print(f"{out}: {len(images)} images")


def random(method, p, own, data, *_):
    """`ipc` random training images of each class."""
    return data.images[data.some(p.ipc, generator(method, p.seed))]


def coreset(method, p, own, data, used, train):
    """Training images of each class; which, the work store keeps, as it takes long to choose them."""
    settings = {**used, "baseline": {"ipc": p.ipc, "seed": p.seed, method: own.model_dump()}}
    with store.held(store.folder(f"baseline@{method}", [train], settings)) as folder:
        kept = folder / "chosen.safetensors"
        if not kept.exists():
            tensorfile.save(kept, {"chosen": choose(method, p, own, data, used)}, {"kind": "coreset"})
        return data.images[tensorfile.load(kept, "coreset")[0]["chosen"]]


def choose(method, p, own, data, used):
    """Indices (K ipc,), class by class, chosen by the features that a network trained on all images has."""
    workers.keep_memory()
    workers.set_threads(math.prod(data.images.shape[2:]) * used["network"]["width"] * own.batch)
    net, x, draws = convnet(data, used), data.on(workers.device()), generator(method, p.seed)
    first, chosen = data.some(p.ipc, draws)[:: p.ipc], []
    net = initialise(net, draws).to(x.device)
    with bar(own.epochs, f"{method}: network", "epoch") as progress:
        train_network(net, learner(net), x, data.labels.to(x.device), own.epochs, own.batch, own.learning_rate, [], draws, progress.update)
    for label in range(len(data.classes)):
        indices = data.of_class(label)
        features = outputs(lambda some: before_last(net)(x[some]), indices).cpu()
        if method == "herding":
            picked = coresets.herding(features, p.ipc)
        else:
            picked = coresets.k_center(features, p.ipc, int(torch.searchsorted(indices, first[label])))
        chosen.append(indices[picked])
    return torch.cat(chosen)


def condense(method, p, own, data, used, train):
    """Images that are learned: those of each class match real ones of it in what `method` compares."""
    torch.backends.cudnn.allow_tf32 = False  # as distill: the methods are compared
    workers.keep_memory()
    workers.set_threads(math.prod(data.images.shape[2:]) * used["network"]["width"] * own.batch_real)
    settings = {**used, "baseline": {"ipc": p.ipc, "seed": p.seed, method: own.model_dump(exclude={"iterations"})}}
    with store.held(store.folder(f"baseline@{method}", [train], settings)) as folder:
        state, warning = resume(folder, own.iterations * own.outer, workers.device())
        if state:
            print(f"going on from iteration {state.iteration // own.outer}{warning}", flush=True)
        state = state or begin(method, p, data)
        learn(state, method, p, own, data, used, Checkpoints(folder, own.iterations * own.outer))
    return state.x.cpu()


def begin(method, p, data):
    """The State before the first iteration; no step size is learned. DC starts from noise, as published, the others from real images."""
    draws, y = generator(method, p.seed, "start"), torch.arange(len(data.classes)).repeat_interleave(p.ipc)
    x = torch.randn(len(y), *data.images.shape[1:], generator=draws) if method == "dc" else data.on("cpu")[data.some(p.ipc, draws)]
    return State.begin(x.to(workers.device()), y.to(workers.device()), 0.0)


def learn(state, method, p, own, data, used, checkpoints):
    """Change the images until own.iterations are done, each with a fresh network."""
    device, families = state.x.device, used["augmentation"]["families"] if "augmentation" in used else []
    x, fresh, net = data.on(device), convnet(data, used), convnet(data, used).to(device)
    real = [(x, data.of_class(label)) for label in range(len(data.classes))]
    match, train = partial(MATCHES[method], net), partial(train_network, net, learner(net))
    with bar(own.iterations, method, "iteration", state.iteration // own.outer) as progress:
        for iteration in range(state.iteration // own.outer, own.iterations):
            draws = generator(method, p.seed, iteration)
            set_parameters(net, trajectory.vector(initialise(fresh, draws)).to(device))
            try:
                value = improve(state, own, match, train, real, families, draws)
            except ArithmeticError as error:
                raise ArithmeticError(f"{method} stopped at iteration {iteration + 1}: {error}; lower baseline.{method}.lr_img") from None
            state.curve.append([iteration + 1, value])
            checkpoints.due(state)
            progress.set_postfix_str(f"loss {value:.4f}", refresh=False)
            progress.update()
    checkpoints.end(state)


def improve(state, own, match, train, real, families, draws):
    """own.outer steps of the images; between two of these the network is trained on them. Gives the loss before the last step."""
    for step in range(own.outer):
        if step:
            train(state.x, state.y, own.inner, own.batch_train, own.learning_rate, families, draws)
        value, dx = slope(match, real, state.x.split(len(state.x) // len(real)), own.batch_real, families, draws)
        state.step({"x": dx}, {"x": own.lr_img}, {"x": own.momentum}, floor=0.0)
    return value


def slope(match, real, x, batch, families, draws):
    """The sum over classes of what `match` measures between `batch` real images and x, and its derivative by x, all classes'.

    `real` has a pair for each class: images, and which of them are of the class.
    """
    found = []
    for label, ((images, indices), own) in enumerate(zip(real, x, strict=True)):
        some = images[indices[torch.randperm(len(indices), generator=draws)[:batch]]]
        found.append(match(label, some, own, siamese(families, draws)))
    values, slopes = zip(*found, strict=True)
    return float(sum(values)), torch.cat(slopes)


def siamese(families, draws):
    """A draw of the augmentation as a function of images (n, ...): the family, and the numbers of one image for all of them."""
    drawn = dsa.draw(families, 1, draws)
    return lambda images: dsa.apply(images, drawn and drawn._replace(u=drawn.u.expand(len(images), -1)))


def train_network(net, gradient, x, y, epochs, batch, learning_rate, families, draws, done=lambda: None):
    """Train `net` on images and labels from where it stands, by plain SGD; `gradient` is its learner, which trains it in place."""
    theta = trajectory.vector(net)[None]
    optimizer = torch.optim.SGD([theta], learning_rate, fused=True)
    for _ in range(epochs):
        epoch(gradient, theta, optimizer, x, y, batch, partial(dsa.augment, families=families), [draws])
        done()


def convnet(data, used):
    """A ConvNet for the images of `data`."""
    return ConvNet(*data.images.shape[1:3], len(data.classes), **used["network"])


def before_last(net):
    """The network without its last, linear layer: its features (n, F)."""
    return nn.Sequential(*list(net)[:-1])


def match_features(net, _, *images):
    """What DM compares, whatever the class."""
    return distribution_matching.match(before_last(net), *images)


MATCHES = {"dc": gradient_matching.match, "dsa": gradient_matching.match, "dm": match_features}
METHODS = {"random": random, "herding": coreset, "k_center": coreset, "dc": condense, "dsa": condense, "dm": condense}


if __name__ == "__main__":
    run(main)
