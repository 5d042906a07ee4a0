"""Time and memory of one iteration of distillation: ConvNet-D3, 3x32x32, all of DSA. Ours compiled, as long runs are."""

from functools import partial

from benchmarks import harness, plain, problems
from benchmarks.harness import ROUNDS, Row, measured, median
from mtt import compiling, workers
from mtt.functional import as_function
from mtt.unroll import Step, match

WIDTH = 128
# images a step, N, rounds; must and aim of time, of memory
CASES = [
    (100, 10, ROUNDS, (0.60, 0.45), (0.30, 0.20)),
    (100, 30, 2, (0.60, 0.45), None),  # the plain way takes about a minute and 11 GB: two rounds
    (10, 50, ROUNDS, (1.2, 0.9), (0.20, 0.10)),
]
NEEDED = {(100, 30): 16 << 30}  # bytes that must be free for the plain way


def plain_way(images, steps, width=WIDTH, keep=0):
    """One iteration the plain way. With `keep` freed memory is kept, as in ours."""
    if keep:
        workers.keep_memory()
    net, *rest, plan = problems.matching(images, steps, width, 3, 32)
    return iteration(partial(plain.match, net, *rest), plan, len(rest[0]))


def ours(images, steps, width=WIDTH, compiled=1):
    """One iteration as stage distill does it."""
    workers.keep_memory()
    net, *rest, plan = problems.matching(images, steps, width, 3, 32)
    workers.set_threads(rest[2][0][0].numel() * width * images)
    step = Step(as_function(net), compiling.compiled if compiled else None)
    return iteration(partial(match, step, *rest), plan, len(rest[0]))


def iteration(run, plan, parameters):
    """Seconds of run(plan), and of a step alone before it, the `first`, which compiles.

    Memory: bytes at the peak of both above the state before.
    """
    before = harness.forget_peak()
    first = harness.seconds(lambda: run(plan[:1]))
    seconds = harness.seconds(lambda: run(plan))
    return {"seconds": seconds, "first": first, "memory": harness.memory("VmHWM") - before, "vectors": 4 * parameters * (len(plan) + 1)}


def rows():
    """Time and memory beside the plain way's, memory over N, and what compiling costs."""
    found, fast = [], {}
    for images, steps, rounds, time, memory in CASES:
        where = f"CPU, width {WIDTH}, 3x32x32, {images} a step, N {steps}"
        if harness.available() < NEEDED.get((images, steps), 0):
            found.append(Row("iteration, time / plain", where, None, *time, note=f"{harness.available() >> 30} GB free, 16 needed"))
            continue
        measured("unroll", "ours", images, 1, WIDTH)  # so that every round finds its kernels compiled
        results = harness.in_turn(
            rounds,
            plain=partial(measured, "unroll", "plain", images, steps, WIDTH),
            ours=partial(measured, "unroll", "ours", images, steps, WIDTH),
            bare=partial(measured, "bare", "convolutions", images, WIDTH, 3, 32),
            kept=partial(measured, "unroll", "plain", images, steps, WIDTH, 1),
        )
        plain, ours, bare, kept = [median(results[way], "seconds") for way in ("plain", "ours", "bare", "kept")]
        whole = 3 * steps * bare  # the plain way's 9 convolutions a layer and step
        found.append(Row("iteration, time / plain", where, ours / plain, *time, fractions=(whole / plain, whole / ours)))
        fractions = whole / kept, whole / ours
        found.append(Row("iteration, time / plain", f"{where}; plain, its memory kept", ours / kept, fractions=fractions))
        if memory:
            found.append(
                Row("iteration, memory / plain", where, median(results["ours"], "memory") / median(results["plain"], "memory"), *memory)
            )
        fast[images, steps] = ours
    return [*found, flat(1), flat(0), *(repaid(*case, seconds) for case, seconds in fast.items() if case != (100, 30))]


def flat(compiled):
    """Memory of N 80 over N 5 without the vectors. The same run's peak varies by a tenth, as the heap falls into pieces."""
    results = harness.in_turn(3, **{str(steps): partial(measured, "unroll", "ours", 100, steps, WIDTH, compiled) for steps in (5, 80)})
    short, long = [median(results[steps], "memory") - results[steps][0]["vectors"] for steps in ("5", "80")]
    ratio = long / short
    how = "compiled, the compiler's own memory in both" if compiled else "eager"
    return Row("memory, N 80 / N 5, less the N+1 vectors", f"CPU, width {WIDTH}, 3x32x32, 100 a step, {how}", ratio, 1.10, 1.0)


def repaid(images, steps, fast):
    """Iterations until a cold compile is repaid by what it saves in each over the same code without it."""
    with harness.scratch() as folder:
        cold = measured("unroll", "ours", images, 1, WIDTH, TORCHINDUCTOR_CACHE_DIR=folder)["first"] - fast / steps
    saved = measured("unroll", "ours", images, steps, WIDTH, 0)["seconds"] - fast
    case = f"CPU, width {WIDTH}, 3x32x32, {images} a step, N {steps}"
    return Row(
        "iterations until compiling is repaid",
        case,
        cold / saved if saved > 0 else None,
        note="" if saved > 0 else "never: it saves nothing",
    )


if __name__ == "__main__":
    harness.main({"plain": plain_way, "ours": ours})
