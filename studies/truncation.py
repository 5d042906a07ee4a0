"""How wrong is the truncated gradient? `make truncation` measures what has no row in results/truncation.csv, and draws docs/truncation.svg.

Along a run of MTT with the exact gradient, which goes its own way: at its images after so many iterations, for several step
sizes and numbers of steps, the gradient of the images without the Hessian terms against the exact one, on the same draws.
"""

import matplotlib
import pandas as pd
import torch
from torch.nn.functional import cosine_similarity

from mtt import dsa, imageset
from mtt.buffer import Buffer
from mtt.convnet import ConvNet
from mtt.functional import as_function
from mtt.params import run
from mtt.seeds import generator
from mtt.unroll import Step, batches, match
from studies import runs
from studies.runs import RESULTS, ROOT, Table, parameters
from studies.successors import CASES, PAGE

MEASURED = ("digits, 1", "digits, 10", "Fashion-MNIST, 1")
STEPS, RATES, DRAWS = (5, 10, 20, 40), (0.0025, 0.005, 0.01, 0.02, 0.04), 8
COLUMNS = ["error", "cosine", "length", "error_alpha"]


def pair(steps, ends, found, rate, plan):
    """The gradients of images and step size, exact and truncated, of one draw."""
    x, y, alpha = found.normalised(), found.labels, torch.tensor(rate)
    return [match(step, *ends, x, y, alpha, plan)[1:] for step in steps]


def seen(families, count, draws):
    """A draw of the augmentation as a function of images."""
    drawn = dsa.draw(families, count, draws)
    return lambda x: dsa.apply(x, drawn)


def measure(found, buffer, families, last, n, rate):
    """Medians over draws: ||truncated - exact|| / ||exact||, their cosine, ||truncated|| / ||exact||; and the error of the step size's."""
    net = ConvNet(*buffer.index["shape"][:2], len(buffer.index["classes"]), **buffer.index["network"])
    loss, rows = as_function(net), []
    steps = Step(loss), Step(loss, truncated=True)
    for draw in range(DRAWS):
        draws = generator("truncation", draw)
        ends = buffer.segment(draw % len(buffer.experts), int(torch.randint(last, (), generator=draws)), 2)
        plan = [(b, seen(families, len(b), draws)) for b in batches(len(found.images), len(found.images), n, draws)]
        (exact, slope), (dx, dalpha) = pair(steps, ends, found, rate, plan)
        size = exact.norm()
        cosine = cosine_similarity(dx.flatten(), exact.flatten(), dim=0)
        rows.append([(dx - exact).norm() / size, cosine, dx.norm() / size, (dalpha - slope).abs() / slope.abs()])
    return dict(zip(COLUMNS, torch.tensor(rows).median(0).values.tolist(), strict=True))


def along(case, kept):
    """Rows of one case: its images at the start, half way and at the end of a run."""
    recipe, own, last, iterations = CASES[case]
    for done in (1, iterations // 2, iterations):
        keys = [{"case": case, "iteration": done, "steps": n, "rate": rate} for n in STEPS for rate in RATES]
        if not (keys := [key for key in keys if kept.of(**key).empty]):
            continue
        values = parameters(recipe, {**own, "distill.iterations": done, "distill.validate.every": 0})
        with runs.inside(ROOT / ".work/studies/truncation", values):
            for name in ("prepare", "experts", "buffer", "distill"):
                runs.stage(name)
            found, buffer = imageset.load("data/distilled/last.safetensors"), Buffer("data/buffer")
            for key in keys:
                kept.add({**key, **measure(found, buffer, values["augmentation"]["families"], last, key["steps"], key["rate"])})


def table(kept):
    """Markdown: the error and the cosine at the end of each case's run, a row for each number of steps, a column for each step size."""
    rows = kept.rows[kept.rows.iteration == kept.rows.groupby("case").iteration.transform("max")].copy()
    rows["cell"] = [f"{100 * row.error:.0f} %, {row.cosine:.3f}" for row in rows.itertuples()]
    wide = rows.pivot(index=["case", "steps"], columns="rate", values="cell")
    wide.index = [f"{case}, N = {n}" for case, n in wide.index]
    return runs.markdown(wide.rename(columns=lambda rate: f"alpha {rate:g}"), "case")


def draw(kept, path):
    """The error over alpha N, a line for each N, a panel for each case; after the first iteration dotted, after the last whole."""
    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "truncation", "font.size": 9}
    from matplotlib import pyplot

    cases = list(dict.fromkeys(kept.rows.case))
    figure, panels = pyplot.subplots(1, len(cases), figsize=(3.4 * len(cases), 3.2), sharey=True, squeeze=False, layout="constrained")
    for panel, case in zip(panels[0], cases, strict=True):
        own = kept.rows[kept.rows.case == case]
        for (iteration, n), rows in own.groupby(["iteration", "steps"]):
            if iteration not in (own.iteration.min(), own.iteration.max()):
                continue
            end = iteration == own.iteration.max()
            style = {"color": f"C{STEPS.index(n)}", "linestyle": "-" if end else ":", "marker": ".", "label": f"N = {n}" if end else None}
            panel.plot(rows.rate * n, pd.to_numeric(rows.error), **style)
        panel.set(title=case, xscale="log", yscale="log", xlabel="alpha N")
        panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel("relative error of the images' gradient")
    panels[0, 0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main(*names):
    """Measure what is missing of these cases, by default all."""
    kept = Table(RESULTS / "truncation.csv", ["case", "iteration", "steps", "rate"], COLUMNS)
    for case in runs.named(names, MEASURED):
        along(case, kept)
    runs.show(PAGE, {"truncation": table(kept)})
    draw(kept, ROOT / "docs/truncation.svg")


if __name__ == "__main__":
    run(main)
