"""Train -> trajectories: networks trained on real images by plain SGD, their parameters kept after every epoch, one file each."""

import time
from functools import partial
from pathlib import Path

import torch
from pydantic import Field

from mtt import dsa, imageset, store, trajectory, workers
from mtt.convnet import ConvNet
from mtt.params import Augmentation, Network, Section, read, run
from mtt.seeds import generator
from mtt.training import accuracy, initialise, run_epoch


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
    workers.end_with_parent()
    settings = [network.model_dump(), augmentation.model_dump(), p.model_dump(exclude={"count"})]
    folder = store.folder("experts", [train, validation], settings)
    with store.held(folder):
        missing = [index for index in range(p.count) if not whole(folder / name(index), p.epochs)]
        print(f"{p.count - len(missing)} of {p.count} experts are there, {len(missing)} to train")
        if missing:
            steps = p.epochs * -(-len(imageset.load(train).images) // p.batch)
            with workers.pool(len(missing)) as each:
                each(partial(train_expert, train, validation, folder, network, augmentation, p), missing, "experts", steps)
        out = store.emptied(out)
        for index in range(p.count):
            store.link(folder / name(index), out / name(index))


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


def train_expert(train, validation, folder, network, augmentation, p, index, tick):
    """Train expert `index` and put its trajectory into `folder`; from where a killed run left it, if it did."""
    torch.set_num_threads(1)
    device, data = workers.device(), imageset.load(train)
    x, y = data.normalised().to(device), data.labels.to(device)
    held_out = imageset.load(validation)
    x_val, y_val = held_out.normalised().to(device), held_out.labels.to(device)

    net = initialise(ConvNet(*x.shape[1:3], len(data.classes), network.width, network.depth), generator("expert", p.seed, index)).to(device)
    header = {
        "layout": trajectory.layout(net), "network": network.model_dump(), "augmentation": augmentation.model_dump(),
        "experts": p.model_dump(exclude={"count"}), "index": index, "set": data.name, "classes": data.classes,
        "shape": list(x.shape[1:]), "mean": data.mean, "std": data.std, "normalised_by": "mean and std",
    }  # fmt: skip
    snapshots, accuracies, partial_file = [trajectory.vector(net).cpu()], [accuracy(net, x_val, y_val)], Path(folder, f"{index:04d}.part")
    if partial_file.exists():
        snapshots, accuracies = resume(partial_file, net)
        tick(n=(len(snapshots) - 1) * -(-len(x) // p.batch))

    optimizer, saved = torch.optim.SGD(net.parameters(), p.learning_rate, fused=True), time.monotonic()
    for epoch in range(len(snapshots) - 1, p.epochs):
        draws = generator("expert", p.seed, index, "epoch", epoch)
        run_epoch(net, optimizer, x, y, p.batch, partial(dsa.augment, families=augmentation.families), draws, tick)
        snapshots.append(trajectory.vector(net).cpu())
        accuracies.append(accuracy(net, x_val, y_val))
        if not snapshots[-1].isfinite().all():
            found = f"expert {index}, epoch {epoch + 1}: its parameters are not finite"
            raise ArithmeticError(f"{found}; lower experts.learning_rate = {p.learning_rate}")
        if time.monotonic() - saved > 20:
            trajectory.save(partial_file, snapshots, {**header, "accuracy": accuracies})
            saved = time.monotonic()
    trajectory.save(Path(folder, name(index)), snapshots, {**header, "accuracy": accuracies})
    partial_file.unlink(missing_ok=True)


def resume(path, net):
    """The snapshots and accuracies in a half-trained expert's file; `net` gets its last parameters. Plain SGD has no other state."""
    half = trajectory.load(path)
    snapshots = list(half[:].clone())
    parts = snapshots[-1].split([parameter.numel() for parameter in net.parameters()])
    with torch.no_grad():  # copied: parameters that were views of the snapshot would change it as they are trained
        for parameter, part in zip(net.parameters(), parts, strict=True):
            parameter.copy_(part.view_as(parameter))
    return snapshots, half.header["accuracy"]


if __name__ == "__main__":
    run(main)
