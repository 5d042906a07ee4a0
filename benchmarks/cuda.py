"""On a CUDA GPU: time and memory of one iteration of distillation, and ten experts trained as one."""

from functools import partial

import torch

from benchmarks import harness, plain, problems
from benchmarks.harness import Row, measured, median
from mtt import compiling, dsa, trajectory
from mtt.functional import as_function, learner
from mtt.training import epoch
from mtt.unroll import Step, match

WIDTH, REPEATS, RATE = 128, 5, 0.01
CASES = [(100, 30), (10, 50)]  # images a step, N
EXPERTS, BATCH, STEPS = 10, 256, 20


def plain_way(images, steps):
    """One iteration the plain way."""
    net, *rest, plan = problems.matching(images, steps, WIDTH, 3, 32, device="cuda")
    return iteration(partial(plain.match, net, *rest), plan)


def ours(images, steps):
    """One iteration as stage distill does it, its two halves of a step captured as graphs."""
    net, *rest, plan = problems.matching(images, steps, WIDTH, 3, 32, device="cuda")
    return iteration(partial(match, Step(as_function(net), compiling.compiled), *rest), plan)


def iteration(run, plan):
    """Seconds of run(plan), the median of several; and bytes reserved at the peak, captured graphs' own too, above the state before.

    Warmed up three times: torch.compile compiles, then runs once as it is, then captures its graph.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    for _ in range(3):
        run(plan[:2])
    each = [{"seconds": harness.seconds(lambda: run(plan), "cuda")} for _ in range(REPEATS)]
    return {"seconds": median(each, "seconds"), "memory": torch.cuda.max_memory_reserved() - before}


def plain_experts():
    """Seconds of a network's step, trained alone."""
    net, x, y, draws = problems.training(STEPS * BATCH, WIDTH, 3, 32)
    net.cuda()  # the images stay where a DataLoader collates them
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    train = partial(plain.train, net, epochs=1, batch=BATCH, optimizer=optimizer, families=problems.ALL, generator=draws)
    train(x[: 2 * BATCH], y[: 2 * BATCH])
    return {"seconds": harness.seconds(lambda: train(x, y), "cuda") / STEPS}


def our_experts():
    """Seconds of a network's step, where ten are trained as one."""
    net, x, y, _ = problems.training(STEPS * BATCH, WIDTH, 3, 32)
    net, x, y = net.cuda(), x.cuda(), y.cuda()
    draws = [torch.Generator().manual_seed(expert) for expert in range(EXPERTS)]
    theta = trajectory.vector(net).repeat(EXPERTS, 1)
    optimizer = torch.optim.SGD([theta], RATE, fused=True)
    gradient = learner(net, compiling.compiled)
    train = partial(epoch, gradient, theta, optimizer, batch=BATCH, augment=partial(dsa.augment, families=problems.ALL), generators=draws)
    train(x[: 4 * BATCH], y[: 4 * BATCH])
    return {"seconds": harness.seconds(lambda: train(x, y), "cuda") / STEPS / EXPERTS}


def turns(plain_part, our_part, images, *arguments):
    """The rounds' results of the plain way, of ours, and of the bare convolutions."""
    return harness.in_turn(
        harness.ROUNDS,
        plain=partial(measured, "cuda", plain_part, *arguments),
        ours=partial(measured, "cuda", our_part, *arguments),
        bare=partial(measured, "bare", "convolutions", images, WIDTH, 3, 32, "cuda", int(plain_part == "plain")),
    )


def rows():
    """All not measured where there is no GPU."""
    there = torch.cuda.is_available()
    return [row for case in CASES for row in iteration_rows(*case, there)] + [experts_row(there)]


def iteration_rows(images, steps, there):
    """Time and memory of one iteration."""
    case, time, memory, fractions = f"CUDA, width {WIDTH}, 3x32x32, {images} a step, N {steps}", None, None, None
    if there:
        found = turns("plain", "ours", images, images, steps)
        plain, ours, bare = [median(found[way], "seconds") for way in ("plain", "ours", "bare")]
        time, memory = ours / plain, median(found["ours"], "memory") / median(found["plain"], "memory")
        fractions = (3 * steps * bare / plain, 3 * steps * bare / ours)
    note = "" if there else "no GPU here"
    yield Row("iteration, time / plain", case, time, 0.5, 0.25, fractions=fractions, note=note)
    yield Row("iteration, memory / plain", case, memory, 0.2, 0.1, note=note)


def experts_row(there):
    """Images per second of ten experts as one over the plain way's, one after another."""
    case, value, fractions = f"CUDA, width {WIDTH}, 3x32x32, batch {BATCH}, {EXPERTS} experts", None, None
    if there:
        found = turns("plain_experts", "our_experts", BATCH)
        plain, ours, bare = [median(found[way], "seconds") for way in ("plain", "ours", "bare")]
        value, fractions = plain / ours, (bare / plain, bare / ours)
    return Row("experts, images per second / plain", case, value, 3, 6, False, fractions, "" if there else "no GPU here")


if __name__ == "__main__":
    harness.main({"plain": plain_way, "ours": ours, "plain_experts": plain_experts, "our_experts": our_experts})
