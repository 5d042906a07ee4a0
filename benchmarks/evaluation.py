"""Seconds for 5 fresh networks trained on a small set: ConvNet-D3, 1x28x28, all of DSA, SGD of momentum 0.9, weight decay 5e-4.

The plain way takes 5 trainings' time. Ours hands half-trained networks on from worker to worker, so that w workers do 5 networks in
ceil(10 / w) halves of a training (2 workers: 5, where whole networks would take 6). Compiled where the stage does so for 1,000 epochs and
5 learning rates beside the 5 networks; the note says which. Not counted: scoring, the same for both, and compiling, once a worker.
"""

import math

from benchmarks.harness import Row
from benchmarks.training import compare
from mtt import compiling, workers
from mtt.convnet import ConvNet

NETWORKS, TRAININGS, EPOCHS = 5, 10, 1000  # of the protocol, whose step is the whole set
# images, width, epochs that are measured; must and aim
CASES = [(10, 32, 300, 0.5, 0.3), (100, 32, 60, 0.5, 0.3), (10, 128, 80, 0.75, 0.5), (100, 128, 15, 0.75, 0.5)]


def rows():
    """A step is the whole set, as its 10 or 100 images are fewer than the protocol's 256."""
    found, count = [], min(NETWORKS, workers.cores())
    for images, width, epochs, must, aim in CASES:
        case, settings = f"CPU, {images} images, width {width}, 1x28x28", (width, images, images, epochs, 9000, 5)
        compiled = compiling.repays(ConvNet(1, 28, 10, width), (1, 28, 28), TRAININGS * EPOCHS, images, sharing=count)
        plain, step, bare, kept = compare(count, *settings, compiled=int(compiled))
        ours, plain, bare, kept = step * math.ceil(2 * NETWORKS / count) / 2, NETWORKS * plain, NETWORKS * bare, NETWORKS * kept
        name, note = "evaluation, 5 networks, time / plain", "compiled" if compiled else "eager"
        found.append(Row(name, case, ours / plain, must, aim, True, (bare / plain, bare / ours), note))
        found.append(Row(name, f"{case}; plain, its memory kept", ours / kept, fractions=(bare / kept, bare / ours), note=note))
    return found
