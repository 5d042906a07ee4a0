"""Seconds for 5 fresh networks trained on a small set: ConvNet-D3, 1x28x28, all of DSA, SGD of momentum 0.9, weight decay 5e-4.

The plain way takes 5 trainings' time. Ours hands half-trained networks on from worker to worker, so that w workers do 5 networks in
5 / w trainings' time, where whole ones would take ceil(5 / w) (2 workers: 2.5, not 3). So both are 5 times a measured step, ours
divided by w; the 5 cancels. Not counted are what is the same for both, scoring, and compiling: `steps until compiling is repaid`.
"""

from benchmarks.harness import Row
from benchmarks.training import compare, repaid

# images, width, epochs that are measured; must and aim
CASES = [(10, 32, 300, 0.5, 0.3), (100, 32, 60, 0.5, 0.3), (10, 128, 80, 0.75, 0.5), (100, 128, 15, 0.75, 0.5)]


def rows():
    """A step is the whole set, as its 10 or 100 images are fewer than the protocol's 256."""
    found, costs = [], []
    for images, width, epochs, must, aim in CASES:
        case, settings = f"CPU, {images} images, width {width}, 1x28x28", (width, images, images, epochs, 9000, 5)
        plain, ours, bare, step = compare(*settings)
        found.append(Row("evaluation, 5 networks, time / plain", case, ours / plain, must, aim, True, (bare / plain, bare / ours)))
        if (images, width) in ((10, 32), (100, 128)):  # the two ends
            costs.append(repaid(case, settings, step))
    return found + costs
