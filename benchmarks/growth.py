"""How the cost of an iteration grows, one factor at a time, and a straight line through each: CSV, JSON and a picture.

From ConvNet-D3 of width 32, 1x28x28, 10 images a step, N 20, eager. Each point is measured in a process of its own, and all are
relative to the factor's first.
"""

import csv
import json
import statistics
from functools import partial

from benchmarks import buffers, harness, problems
from mtt import workers
from mtt.buffer import Buffer
from mtt.functional import as_function
from mtt.unroll import Step, match

BASE = {"steps": 20, "images": 10, "side": 28, "depth": 3, "channels": 1}
# factor: {value: what it changes}; images a class are times 10 classes, and all are in each step
FACTORS = {
    "N": {n: {"steps": n} for n in (5, 10, 20, 40, 80)},
    "images per class": {n: {"images": 10 * n} for n in (1, 2, 5, 10)},
    "experts": {n: {"experts": n} for n in (10, 20, 50, 100)},
    "image side": {side: {"side": side, "depth": depth, "channels": 3} for side, depth in ((32, 3), (64, 4), (128, 5))},
}
MEASURES = ("time", "memory", "memory_less_vectors")


def iteration(steps, images, side, depth, channels, folder=""):
    """Seconds of an iteration, the median of three; bytes at the peak above the state before, and less the N+1 vectors."""
    workers.keep_memory()
    net, theta, target, *rest = problems.matching(images, steps, 32, channels, side, depth=depth)
    workers.set_threads(side * side * 32 * images)
    step, each = Step(as_function(net)), []
    before = harness.forget_peak()
    buffer = Buffer(folder) if folder else None
    match(step, theta, target, *rest[:3], rest[3][:1])  # what the first call of a kernel costs
    for iteration in range(3):

        def work(iteration=iteration):
            ends = buffer.segment((7 * iteration) % len(buffer.experts), 0, buffers.EPOCHS) if buffer else (theta, target)
            match(step, *ends, *rest)

        each.append(harness.seconds(work))
    memory = harness.memory("VmHWM") - before
    return {"time": statistics.median(each), "memory": memory, "memory_less_vectors": memory - 4 * len(theta) * (steps + 1)}


def measure(factor):
    """[{factor, value, time, memory, memory_less_vectors}] relative to the first value."""
    with harness.scratch() as folder:
        calls = {str(value): partial(point, folder, **changes) for value, changes in FACTORS[factor].items()}
        for experts in FACTORS[factor] if factor == "experts" else ():
            harness.measured("growth", "make", f"{folder}/{experts}", experts)
        found = harness.in_turn(2, **calls)  # each is a median of three already
    medians = {value: {key: harness.median(results, key) for key in MEASURES} for value, results in found.items()}
    first = next(iter(medians.values()))
    return [{"factor": factor, "value": int(v), **{key: m[key] / first[key] for key in MEASURES}} for v, m in medians.items()]


def point(folder, experts=None, **changes):
    """One measurement in a process of its own; with `experts`, its segments are read from a buffer of so many."""
    settings = {**BASE, **changes}
    return harness.measured("growth", "iteration", *settings.values(), f"{folder}/{experts}" if experts else "")


def make(folder, experts):
    """Write a buffer of that many experts of the base's network."""
    return buffers.make_ours(folder, experts, 4, 32, 1, 28)


def line(x, y):
    """Slope, intercept and R^2 of the straight line of least squares."""
    slope, intercept = statistics.linear_regression(x, y)
    rest, total = [
        sum((a - b) ** 2 for a, b in zip(y, other, strict=True))
        for other in ([slope * v + intercept for v in x], [statistics.fmean(y)] * len(y))
    ]
    return {"slope": slope, "intercept": intercept, "r2": 1 - rest / total if total else 1.0}


def fits(rows):
    """{factor: {measure: line}}."""
    found = {}
    for factor in FACTORS:
        of = [row for row in rows if row["factor"] == factor]
        found[factor] = {key: line([row["value"] for row in of], [row[key] for row in of]) for key in MEASURES}
    return found


def draw(path, rows, lines):
    """The picture: a row for each factor, time on the left and memory on the right, points and their straight lines."""
    from matplotlib.figure import Figure  # here: what is measured does without

    figure = Figure(figsize=(10, 2.6 * len(lines)), layout="constrained")
    panels = figure.subplots(len(lines), 2)
    for (factor, fit), both in zip(lines.items(), panels, strict=True):
        of = [row for row in rows if row["factor"] == factor]
        values = [row["value"] for row in of]
        for panel, measures in zip(both, (MEASURES[:1], MEASURES[1:] if factor == "N" else MEASURES[1:2]), strict=True):
            most = max(row[measure] for row in of for measure in measures)
            for number, measure in enumerate(measures):
                slope, intercept, r2 = fit[measure].values()
                words = measure.replace("_less_vectors", ", less the N+1 vectors") + f": R$^2$ {r2:.3f}"
                panel.plot(values, [row[measure] for row in of], "o", color=f"C{number}")
                panel.plot(values, [slope * value + intercept for value in values], color=f"C{number}", label=words)
            panel.set(xlabel=factor, ylabel=f"{measures[0]}, relative", xlim=(0, None), ylim=(0, 1.15 * most), xticks=values)
            panel.grid(alpha=0.3)
            panel.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})


def main():
    """Measure every factor and write results/benchmarks/growth.{csv,json,png}."""
    rows = [row for factor in FACTORS for row in measure(factor)]
    lines = fits(rows)
    harness.RESULTS.mkdir(parents=True, exist_ok=True)
    with open(harness.RESULTS / "growth.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["factor", "value", *MEASURES], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    rounded = {
        factor: {key: {k: harness.rounded(v) for k, v in fit.items()} for key, fit in each.items()} for factor, each in lines.items()
    }
    (harness.RESULTS / "growth.json").write_text(json.dumps(rounded, indent=1) + "\n")
    draw(harness.RESULTS / "growth.png", rows, lines)
    for row in rows:
        print("{factor:18}{value:5d}   time {time:6.2f}   memory {memory:6.2f}   less the vectors {memory_less_vectors:6.2f}".format(**row))


if __name__ == "__main__":
    harness.main({"iteration": iteration, "make": make}, main)
