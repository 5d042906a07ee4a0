"""How exact the gradients are. In float64 against the plain unroll; in float32 against float64, beside the plain way's own error."""

from itertools import product
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks import harness, plain, problems
from benchmarks.harness import Row, measured
from mtt import compiling, dsa, workers
from mtt.functional import as_function
from mtt.unroll import Step, match

SHAPES = [(images, *shape) for images in (100, 10) for shape in ((128, 3, 32), (32, 1, 28))]  # images a step, width, channels, side
DRAWS, N = 20, 50
GAP = 5e-6  # float32 is some 1e-6 off at the inputs of the last ReLU, which are of order 1


def relative(found, wanted):
    """The error's norm over the norm of what is wanted. Raises ArithmeticError where it is no number, of which max() makes nothing."""
    error = (found - wanted).norm() / wanted.norm()
    if not error.isfinite():
        raise ArithmeticError(f"found an error of {float(error)}; wanted numbers that are finite")
    return float(error)


def exact(compiled=0):
    """The worst relative error of dL/dx and dL/dalpha in float64 over every case; compiled, of one case."""
    families = [(), *((family,) for family in dsa.FAMILIES), tuple(dsa.FAMILIES)]
    cases = list(product(families, (None, 4), (1, 3), (4, 8)))
    return {"error": max(exact_case(*case, compiled) for case in (cases[-2:-1] if compiled else cases))}


def exact_case(families, batch, channels, width, compiled):
    """Of 10 images of side 8 in 6 steps; batches of 4 leave a shorter last one."""
    net, *rest = problems.matching(10, 6, width, channels, 8, depth=2, batch=batch, families=families, dtype=torch.float64)
    step = Step(as_function(net), compiling.compiled if compiled else None)
    found, wanted = match(step, *rest), plain.match(net, *rest)
    return max(relative(*pair) for pair in zip(found[1:], wanted[1:], strict=True))


def step(compiled):
    """The worst relative error of a float32 step's g, ds/dtheta and ds/dx over SHAPES, against float64."""
    return {"error": max(step_case(*shape, compiled) for shape in SHAPES)}


def step_case(images, width, channels, side, compiled, device="cpu"):
    """The same of one shape, along a random lam, at the first `images` of four times as many that are apart from every kink."""
    found, chosen = [], None
    for dtype, way in ((torch.float64, None), (torch.float32, compiling.compiled if compiled else None)):
        net, theta, _, x, y, _, _ = problems.matching(4 * images, 1, width, channels, side, dtype=dtype, device=device)
        chosen = apart(net, x).nonzero().flatten()[:images] if chosen is None else chosen
        lam = torch.randn(theta.shape, generator=torch.Generator().manual_seed(1)).to(theta)
        step, x, y = Step(as_function(net), way), x[chosen], y[chosen]
        g = step.gradient(theta, x, y).clone()  # a captured graph's, which the next one overwrites
        found.append([g, *step.pullback(theta, x, y, lam)[1:]])
    if len(x) < images:
        raise ValueError(f"found {len(x)} images apart from every kink; wanted {images}")
    return max(relative(b.double(), a) for a, b in zip(*found, strict=True))


def apart(net, x):
    """Which images (n,) have no input of a ReLU within GAP of zero: one that rounds to the other side is another derivative."""
    least = []
    hooks = [
        layer.register_forward_hook(lambda layer, given, _: least.append(given[0].abs().flatten(1).amin(1)))
        for layer in net.modules()
        if isinstance(layer, torch.nn.ReLU)
    ]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return torch.stack(least).amin(0) > GAP


def whole(way, file, width, side, depth):
    """dL/dx of DRAWS whole unrolls of 10 images a step. Into a file.

    `way` is reference (ours in float64), plain, turned (plain, each step's images in the opposite order) or ours, compiled.
    """
    workers.keep_memory()
    found, fast = {}, None
    for seed in range(DRAWS):
        dtype = torch.float64 if way == "reference" else torch.float32
        net, *rest, steps = problems.matching(10, N, width, 1, side, depth=depth, seed=seed, dtype=dtype)
        fast = fast or Step(as_function(net), compiling.compiled if way == "ours" else None)
        steps = [turned(*each) for each in steps] if way == "turned" else steps
        found[str(seed)] = (plain.match(net, *rest, steps) if way in ("plain", "turned") else match(fast, *rest, steps))[1]
    save_file(found, file)
    return {}


def turned(b, augment):
    """The same step, its images in the opposite order: as correct, other sums."""
    return b.flip(0), lambda images: augment(images.flip(0)).flip(0)


def errors(folder, way):
    """The relative errors (DRAWS,) of a way's images against the reference's."""
    found, wanted = [load_file(Path(folder, name)) for name in (way, "reference")]
    return torch.tensor([relative(found[draw].double(), wanted[draw]) for draw in wanted])


def rows():
    """The three claims; once each, for they depend on no clock."""
    found = []
    for way, case in enumerate(("eager, DSA none, each, all; all and mini-batches; 1 and 3 channels; width 4, 8", "compiled, all of DSA")):
        found.append(Row("gradient, float64, relative to plain", case, measured("gradient", "exact", way)["error"], 1e-11))
    for way, name in enumerate(("eager", "compiled")):
        case = f"{name}, 100 and 10 a step, width 128 3x32x32 and width 32 1x28x28, images apart from every ReLU's kink"
        found.append(Row("a step's derivatives, float32 to float64", case, measured("gradient", "step", way)["error"], 1e-5, 1e-6))
    return [*found, *whole_rows(8, 8, 2, 1.1, 1.0), *whole_rows(32, 28, 3)]


def whole_rows(width, side, depth, *must):
    """Where in half of the draws one ReLU of millions flips, no must can be held: the plain way `turned` stands beside."""
    found, ways = [], ["plain", "ours"] if must else ["plain", "ours", "turned"]
    with harness.scratch() as folder:
        for way in ("reference", *ways):
            measured("gradient", "whole", way, Path(folder, way), width, side, depth)
        plain_errors, *others = [errors(folder, way) for way in ways]
    for way, found_errors in zip(ways[1:], others, strict=True):
        for name, q in (("median", 0.5), ("90th percentile", 0.9)):
            case = f"{name} of {DRAWS} draws, width {width}, 1x{side}x{side}, depth {depth}, 10 a step, N {N}"
            case += "; plain, its images turned round" * (way == "turned")
            ratio = float(found_errors.quantile(q) / plain_errors.quantile(q))
            found.append(Row("unroll's error in float32 / plain's", case, ratio, *must))
    return found


if __name__ == "__main__":
    harness.main({"exact": exact, "step": step, "whole": whole})
