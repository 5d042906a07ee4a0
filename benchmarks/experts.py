"""Experts' images per second: ConvNet-D3, 1x28x28, 256 images a step, all of DSA, plain SGD, in the steady state."""

from benchmarks.harness import Row
from benchmarks.training import compare
from mtt import workers

# width, steps of an epoch that is measured; must and aim
CASES = [(32, 40, 2.5, 4), (128, 12, 1.5, 2)]


def rows():
    """Ours is what all workers train together."""
    found = []
    for width, steps, must, aim in CASES:
        case, settings = f"CPU, width {width}, 1x28x28, batch 256", (width, steps * 256, 256, 1, 0, 0)
        plain, step, bare, kept = compare(workers.cores(), *settings)
        ours = step / workers.cores()
        found.append(Row("experts, images per second / plain", case, plain / ours, must, aim, False, (bare / plain, bare / ours)))
        found.append(
            Row("experts, images per second / plain", f"{case}; plain, its memory kept", kept / ours, fractions=(bare / kept, bare / ours))
        )
    return found
