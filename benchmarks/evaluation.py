"""Seconds for 5 fresh networks trained on a small set: ConvNet-D3, 1x28x28, all of DSA, SGD of momentum 0.9, weight decay 5e-4.

The plain way takes 5 trainings' time. Ours hands half-trained networks on from worker to worker, so that w workers do 5 networks in
ceil(10 / w) halves of a training (2 workers: 5, where whole networks would take 6). Compiled, as the stage does for 1,000 epochs and
5 learning rates beside the 5 networks. Not counted: scoring, the same for both, and compiling, once a worker.
"""

import math

from benchmarks.harness import Row
from benchmarks.training import compare
from mtt import workers

NETWORKS = 5
# images, width, epochs that are measured; must and aim
CASES = [(10, 32, 300, 0.5, 0.3), (100, 32, 60, 0.5, 0.3), (10, 128, 80, 0.75, 0.5), (100, 128, 15, 0.75, 0.5)]


def rows():
    """A step is the whole set, as its 10 or 100 images are fewer than the protocol's 256."""
    found, count = [], min(NETWORKS, workers.count())
    for images, width, epochs, must, aim in CASES:
        case, settings = f"CPU, {images} images, width {width}, 1x28x28", (width, images, images, epochs, 9000, 5)
        plain, step, bare = compare(count, *settings)
        ours, plain, bare = step * math.ceil(2 * NETWORKS / count) / 2, NETWORKS * plain, NETWORKS * bare
        found.append(Row("evaluation, 5 networks, time / plain", case, ours / plain, must, aim, True, (bare / plain, bare / ours)))
    return found
