"""The parts of `experts` and `evaluation`: networks trained on 1x28x28 images, the plain way and as the stages train them."""

import math
import time
from functools import partial

import torch

from benchmarks import harness, plain, problems
from mtt import compiling, dsa, trajectory, workers
from mtt.functional import learner
from mtt.training import epoch

RATE = 0.01


def plain_way(width, images, batch, epochs, momentum, decay, keep=0):
    """Seconds of a step of the plain way, with the default number of threads; momentum and weight decay in units of 1e-4.

    With `keep` freed memory is kept, as in our workers.
    """
    if keep:
        workers.keep_memory()
    net, x, y, draws = problems.training(images, width, 1, 28)
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum / 1e4, weight_decay=decay / 1e4)
    train = partial(plain.train, net, batch=batch, optimizer=optimizer, families=problems.ALL, generator=draws)
    train(x[:batch], y[:batch], epochs=1)
    return {"seconds": harness.seconds(lambda: train(x, y, epochs=epochs)) / (epochs * math.ceil(images / batch))}


def worker(width, images, batch, epochs, momentum, decay, compiled, folder, count):
    """When one of `count` workers side by side began and ended its steps; and the seconds of its first step, which compiles.

    One network on one thread, as the stages' workers train.
    """
    workers.keep_memory()
    torch.set_num_threads(1)
    net, x, y, draws = problems.training(images, width, 1, 28)
    gradient, theta = learner(net, compiling.compiled if compiled else None), trajectory.vector(net)[None]
    optimizer = torch.optim.SGD([theta], RATE, momentum / 1e4, weight_decay=decay / 1e4, fused=True)
    train = partial(epoch, gradient, theta, optimizer)
    settings = {"batch": batch, "augment": partial(dsa.augment, families=problems.ALL), "generators": [draws]}
    first = harness.seconds(lambda: train(x[:batch], y[:batch], **settings))
    harness.meet(folder, count)
    began = time.monotonic()  # one clock for all processes
    for _ in range(epochs):
        train(x, y, **settings)
    return {"began": began, "ended": time.monotonic(), "steps": epochs * math.ceil(images / batch), "first": first}


def side_by_side(count, *settings, compiled=1, **environment):
    """Seconds of a step while `count` workers train a network each. `settings` as in `worker`.

    From the first to begin to the last to end, so that none is measured while another rests.
    """
    with harness.scratch() as folder:
        found = harness.at_once(count, "training", "worker", *settings, compiled, folder, count, **environment)
    span = max(one["ended"] for one in found) - min(one["began"] for one in found)
    return {"seconds": span / found[0]["steps"], "first": max(one["first"] for one in found)}


def compare(count, *settings, compiled=1):
    """Seconds of a step: of the plain way, of ours while `count` workers do one each, of the bare convolutions, and of the plain way
    where it keeps its memory as ours does; medians over rounds.
    """
    width, images, batch, *_ = settings
    side_by_side(count, *settings, compiled=compiled)  # so that every round finds its kernels compiled
    found = harness.in_turn(
        harness.ROUNDS,
        plain=partial(harness.measured, "training", "plain", *settings),
        ours=partial(side_by_side, count, *settings, compiled=compiled),
        bare=partial(harness.measured, "bare", "convolutions", min(images, batch), width, 1, 28, "cpu", 0),
        kept=partial(harness.measured, "training", "plain", *settings, 1),
    )
    return [harness.median(found[way], "seconds") for way in ("plain", "ours", "bare", "kept")]


if __name__ == "__main__":
    harness.main({"plain": plain_way, "worker": worker})
