"""On a CUDA GPU: how exact a step is, time and memory of one iteration of distillation, and ten experts trained as one.

Convolutions in float32, as stage distill computes, and in TF32, PyTorch's default, as the existing codes and stage experts do.
"""

import statistics
from functools import partial

import torch

from benchmarks import bare, gradient, harness, plain, problems
from benchmarks.harness import ROUNDS, Row
from mtt import compiling, dsa, trajectory
from mtt.functional import as_function, learner
from mtt.training import epoch
from mtt.unroll import Step, match

WIDTH, REPEATS, RATE = 128, 5, 0.01
CASES = [(100, 30), (10, 50)]  # images a step, N
PRECISIONS = ("float32", "TF32")
EXPERTS, BATCH, STEPS = 10, 256, 20


def plain_way(images, steps, precision):
    """One iteration the plain way."""
    net, *rest, plan = matching(images, steps, precision)
    return iteration(partial(plain.match, net, *rest), plan)


def ours(images, steps, precision):
    """One iteration as stage distill does it, its two halves of a step captured as graphs."""
    net, *rest, plan = matching(images, steps, precision)
    return iteration(partial(match, Step(as_function(net), compiling.compiled), *rest), plan)


def compute_in(precision):
    """Convolutions in float32, or in TF32."""
    torch.backends.cudnn.allow_tf32 = precision == "TF32"


def matching(images, steps, precision):
    """What an iteration takes, on the GPU."""
    compute_in(precision)
    return problems.matching(images, steps, WIDTH, 3, 32, device="cuda")


def iteration(run, plan):
    """Seconds of run(plan); and bytes reserved at the peak, captured graphs' own too, above the state before.

    Warmed up three times: torch.compile compiles, then runs once as it is, then captures its graph.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        run(plan[:2])
    return {**timed(lambda: run(plan)), "memory": torch.cuda.max_memory_reserved() - before}


def timed(work, parts=1):
    """Seconds of work() / parts: of each round the median of several, and of these the median."""

    def once():
        each = [harness.seconds(work, "cuda") for _ in range(REPEATS)]
        torch.cuda.empty_cache()  # for those whose turn comes
        return statistics.median(each)

    return {"seconds": statistics.median(harness.turns(ROUNDS, once)) / parts}


def plain_experts():
    """Seconds of a network's step, trained alone."""
    net, x, y, draws = problems.training(STEPS * BATCH, WIDTH, 3, 32)
    net.cuda()  # the images stay where a DataLoader collates them
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    train = partial(plain.train, net, epochs=1, batch=BATCH, optimizer=optimizer, families=problems.ALL, generator=draws)
    train(x[: 2 * BATCH], y[: 2 * BATCH])
    return timed(lambda: train(x, y), STEPS)


def our_experts():
    """Seconds of a network's step, where ten are trained as one."""
    net, x, y, _ = problems.training(STEPS * BATCH, WIDTH, 3, 32)
    net, x, y = net.cuda(), x.cuda(), y.cuda()
    draws = [torch.Generator().manual_seed(expert) for expert in range(EXPERTS)]
    theta = trajectory.vector(net).repeat(EXPERTS, 1)
    optimizer = torch.optim.SGD([theta], RATE, fused=True)
    learn = learner(net, compiling.compiled)
    train = partial(epoch, learn, theta, optimizer, batch=BATCH, augment=partial(dsa.augment, families=problems.ALL), generators=draws)
    train(x[: 4 * BATCH], y[: 4 * BATCH])
    return timed(lambda: train(x, y), STEPS * EXPERTS)


def convolutions(images, to_images, precision):
    """Seconds of the bare convolutions of a step."""
    compute_in(precision)
    each = harness.turns(ROUNDS, partial(bare.convolutions, images, WIDTH, 3, 32, "cuda", to_images))
    return {"seconds": statistics.median(found["seconds"] for found in each)}


def step(precision, compiled, *images):
    """The worst relative error of a step's derivatives against float64, over these numbers of images."""
    compute_in(precision)
    return {"error": max(gradient.step_case(count, WIDTH, 3, 32, compiled, "cuda") for count in images)}


def rows():
    """All not measured where there is no GPU, and those that want a part that failed."""
    there = torch.cuda.is_available()
    found, notes = (measured(), (torch.cuda.get_device_name(), harness.FAILED)) if there else ({}, ("", "no GPU here"))
    iterations = [row for case in CASES for way in PRECISIONS for row in iteration_rows(found, *case, way, notes)]
    return [*step_rows(found, notes), *iterations, experts_row(found, notes)]


def measured():
    """{(part, *arguments): result}: of what takes time, in processes that take turns on the GPU; then of how exact it is."""
    parts = [(part, *case, way) for way in PRECISIONS for part in ("plain", "ours") for case in CASES]
    parts += [("bare", images, 1, way) for way in PRECISIONS for images, _ in CASES]
    parts += [("plain_experts",), ("our_experts",), ("bare", BATCH, 0, "TF32")]
    steps = [("step", way, 0, *(images for images, _ in CASES)) for way in PRECISIONS]
    steps += [("step", "float32", 1, images) for images, _ in CASES]
    few = {"TORCHINDUCTOR_COMPILE_THREADS": "4"}  # each, of several that compile at once
    found = harness.by_turns("cuda", parts, **few) + harness.side_by_side("cuda", steps, lambda process: None, **few)
    return {part: result for part, result in zip(parts + steps, found, strict=True) if result}


def results(found, notes, *parts):
    """The results of these parts, none where one is not there; and the note of a row that is made of them."""
    there = all(part in found for part in parts)
    return ([found[part] for part in parts], notes[0]) if there else ([], notes[1])


def step_rows(found, notes):
    """How exact a step's derivatives are."""
    sizes = [images for images, _ in CASES]
    cases = {
        "eager": [("step", "float32", 0, *sizes)],
        "compiled": [("step", "float32", 1, images) for images in sizes],
        "eager, TF32, PyTorch's default": [("step", "TF32", 0, *sizes)],
    }
    for case, parts in cases.items():
        each, note = results(found, notes, *parts)
        worst, bounds = max((result["error"] for result in each), default=None), () if "TF32" in case else (1e-5, 1e-6)
        where = f"CUDA, width {WIDTH}, 3x32x32, {' and '.join(map(str, sizes))} a step, {case}, images apart from every ReLU's kink"
        yield Row("a step's derivatives, float32 to float64", where, worst, *bounds, note=note)


def iteration_rows(found, images, steps, way, notes):
    """Time and memory of one iteration."""
    case, time, memory, fractions = f"CUDA, width {WIDTH}, 3x32x32, {images} a step, N {steps}, {way}", None, None, None
    each, note = results(found, notes, ("plain", images, steps, way), ("ours", images, steps, way), ("bare", images, 1, way))
    if each:
        plain, ours, once = each
        work = 3 * steps * once["seconds"]
        time, memory = ours["seconds"] / plain["seconds"], ours["memory"] / plain["memory"]
        fractions = (work / plain["seconds"], work / ours["seconds"])
    yield Row("iteration, time / plain", case, time, 0.5, 0.25, fractions=fractions, note=note)
    yield Row("iteration, memory / plain", case, memory, 0.2, 0.1, note=note)


def experts_row(found, notes):
    """Images per second of ten experts as one over the plain way's, one after another."""
    case, value, fractions = f"CUDA, width {WIDTH}, 3x32x32, batch {BATCH}, {EXPERTS} experts, TF32", None, None
    each, note = results(found, notes, ("plain_experts",), ("our_experts",), ("bare", BATCH, 0, "TF32"))
    if each:
        plain, ours, work = [result["seconds"] for result in each]
        value, fractions = plain / ours, (work / plain, work / ours)
    return Row("experts, images per second / plain", case, value, 3, 6, False, fractions, note)


PARTS = {
    "step": step, "plain": plain_way, "ours": ours, "bare": convolutions, "plain_experts": plain_experts, "our_experts": our_experts,
}  # fmt: skip

if __name__ == "__main__":
    harness.main(PARTS)
