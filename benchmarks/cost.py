"""What a recipe costs, by the formulas of benchmarks/estimate.py: `python -m benchmarks.cost NAME` prints the end of its comment."""

import sys
import textwrap

import torch

from benchmarks.estimate import MATCHING, RATE, TRAINING, TRUNCATED, duration, size_of
from mtt import compiling, difficulty
from mtt.convnet import ConvNet
from recipes.__main__ import merged

SETS = {  # channels, side (None: prepare.side), classes, images that are not test images
    "digits": (1, 8, 10, 1438),
    "MNIST": (1, 28, 10, 60_000),
    "FashionMNIST": (1, 28, 10, 60_000),
    "CIFAR10": (3, 32, 10, 50_000),
    "CIFAR100": (3, 32, 100, 50_000),
    "TinyImageNet": (3, 64, 200, 100_000),
    "ImageNet": (3, None, 1000, 1_281_167),  # classes of nearly one size
}


def cost(values):
    """{quantity: number} of the parameters `values`: bytes of buffers, and floating-point operations."""
    prepare, experts, distill, scoring = values["prepare"], values["experts"], values["distill"], values["distill"]["validate"]
    channels, side, classes, images = SETS[prepare["set"]]
    kept = classes if prepare["classes"] == "all" else len(prepare["classes"])
    images, shape = images * kept / classes * (1 - prepare["validation"]), (channels, side or prepare["side"], side or prepare["side"])
    net = ConvNet(*shape[:2], kept, **values["network"])
    parameters, forward = sum(p.numel() for p in net.parameters()), compiling.work(net, shape)
    reads_last = distill["start_images"] == "right" or distill["labels"] == "learned"
    read, samples, synthetic = distill["max_start_epoch"] + distill["expert_epochs"], distill["canvas_samples"], distill["ipc"] * kept
    step = synthetic if distill["batch_syn"] == "all" else distill["batch_syn"]
    read = experts["epochs"] + 1 if reads_last else read + (values["buffer"]["waypoints"] != "none")
    epoch = experts["count"] * images * TRAINING * forward * (2 if experts["optimizer"] == "gsam" else 1)
    matching = MATCHING if distill["gradient"] == "exact" else TRUNCATED
    times = distill["iterations"] // scoring["every"] if scoring["every"] else 0
    scored = times * scoring["networks"] * scoring["epochs"]
    return {
        "parameters": parameters,
        "epochs": experts["epochs"],
        "passes": passes(experts, experts["epochs"]),
        "needed": passes(experts, read - 1),
        "read": read,
        "snapshot": 4 * experts["count"] * parameters,
        "epoch": epoch,
        "distillation": distill["iterations"] * distill["segments"] * distill["syn_steps"] * step * samples * matching * forward,
        "validation": scored * synthetic * samples * TRAINING * forward,
    }


def passes(experts, epochs):
    """Over all images, that `epochs` epochs of each expert are; with what it takes to order the images, shared by all experts."""
    if experts["order"] == "shuffled":
        return epochs
    own, evenly = experts["difficulty"], torch.arange(1000) / 1000
    seen = sum(len(difficulty.among(evenly, epoch, own["growing"])) for epoch in range(epochs)) / 1000
    plain = 2 if experts["optimizer"] == "gsam" else 1  # by plain SGD, at half of gsam's work
    return seen + own["networks"] * own["epochs"] / experts["count"] / plain


def comment(name):
    """The lines of a recipe's comment that say what it costs; hours are operations over what a device keeps up, launches left out."""
    c = cost(merged(name))
    small = c["passes"] * c["epoch"] + c["distillation"] < 3600 * RATE["cpu"]
    where, device = ("cpu", f"two cores can (a GPU {RATE['cuda'] / 1e9:,.0f})") if small else ("cuda", "a GPU can")

    def work(operations):
        digits, exponent = f"{operations:.1e}".split("e+")
        return f"{digits}e{int(exponent)} operations, {duration(operations / RATE[where] / 3600)}"

    whole, read = c["epochs"] + 1, c["read"]
    parts = [
        f"{c['parameters']:,} parameters",
        f"buffer {size_of(whole * c['snapshot'])} of {whole} snapshots",
        f"experts {work(c['passes'] * c['epoch'])}",
        f"distillation {work(c['distillation'])}",
        f"its validation {work(c['validation'])}",
    ]
    if read < whole:
        parts[1] += f", {size_of(read * c['snapshot'])} of the {read} that are read"
        parts[2] += f" ({work(c['needed'] * c['epoch'])} with experts.epochs = {read - 1}, which suffices)"
    text = f"Cost by `python -m benchmarks.cost {name}`, times at {RATE[where] / 1e9:,.0f} GFLOP/s, as {device}: {'; '.join(parts)}."
    return textwrap.fill(text, 140, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False) + "\n"


if __name__ == "__main__":
    try:
        print(comment("".join(sys.argv[1:])), end="")
    except ValueError as error:
        sys.exit(f"error: {error}")
