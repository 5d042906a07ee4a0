"""Ideas since the paper, each alone, and two by two: `make successors` runs what has no row in results/successors.csv.

docs/successors.md has the tables and RESULTS.md the accuracies; `python -m studies.successors CASE...` runs these alone. The budget
is the case's number of iterations, the same for each idea, and of expert epochs, but that way-points take one more, GSAM two
gradients a step, and the order by difficulty three networks of three epochs; herding's images and k-center's are chosen by a network
that is trained on all images.
"""

from mtt.params import run
from mtt.tables import markdown
from studies import runs
from studies.runs import RESULTS, ROOT, Table, spread, starting_from

SEEDS = (0, 1, 2)
PAGE = ROOT / "docs/successors.md"
# Each case: the recipe, differences from it, T+ and the number of iterations, by which ideas that have a length are scaled.
CASES = {
    "digits, 1": ("default", {}, 8, 200),
    "digits, 10": ("default", {"distill.ipc": 10, "baseline.ipc": 10, "distill.lr_img": 100.0}, 8, 200),
    "digits, 50": ("digits-ipc50", {}, 8, 200),
    "Fashion-MNIST, 1": ("fashion-mnist-ipc1-cpu", {"network.width": 32}, 3, 300),
    "Fashion-MNIST, 10": (
        "fashion-mnist-ipc1-cpu",
        {
            "network.width": 32, "distill.ipc": 10, "baseline.ipc": 10, "experts.epochs": 11,
            "distill.max_start_epoch": 10, "distill.iterations": 100, "distill.lr_img": 1000.0,
        },
        10, 100,
    ),
}  # fmt: skip


def ideas(last, iterations):
    """{name: settings} of each idea where T+ is `last`. Published lengths are of 5,000 iterations and 50 epochs: scaled.

    But DATM's range grows over half of the iterations, not over a tenth or a fifth, which would be 10 or 20 of 100; and PAD's order over
    half of T+ epochs, after which experts see all images to their end.
    """
    return {
        "MTT": {},
        "FTD: experts by GSAM": {"experts.optimizer": "gsam"},
        "FTD: average of the images": {"distill.ema": 1 - 4 / iterations},
        "TESLA: truncated gradient": {"distill.gradient": "truncated"},
        "TESLA: labels of the target expert": {"distill.labels": "teacher"},
        "DATM: learned labels": {"distill.labels": "learned"},
        "DATM: images that experts are right on": {"distill.start_images": "right"},
        "DATM: range of start epochs that grows": {
            "distill.start_epochs.first": -(-last // 2), "distill.start_epochs.growing": iterations // 2,
            "distill.start_epochs.threshold": 1.0,
        },
        "ATT: nearest step": {"distill.stop": "nearest"},
        "PAD: deeper layers": {"distill.layers": 0.25},
        "PAD: images by difficulty": {
            "experts.order": "difficulty", "experts.difficulty.epochs": 3, "experts.difficulty.growing": -(-last // 2),
        },
        "MCT: four way-points": {"buffer.waypoints": 4},
        "SelMatch: half of k-center's images are learned": {**starting_from("k_center"), "distill.learned": 0.5},
        "images of herding to start from": starting_from("herding"),
        "together: start images, way-points": {"distill.start_images": "right", "buffer.waypoints": 4},
        "together: herding's images, way-points": {**starting_from("herding"), "buffer.waypoints": 4},
    }  # fmt: skip


def settings(case, idea):
    """The recipe, and the settings of an idea in a case."""
    recipe, own, last, iterations = CASES[case]
    found = own | ideas(last, iterations)[idea]
    if "buffer.waypoints" in found:  # which are read up to T+ + M
        found["experts.epochs"] = own.get("experts.epochs", runs.parameters(recipe, {})["experts"]["epochs"]) + 1
    return recipe, found


def tried(case):
    """The ideas of a case; those that leave some images of a class as they are take two of each at least."""
    recipe, own, *_ = CASES[case]
    several = runs.parameters(recipe, own)["distill"]["ipc"] > 1
    return [idea for idea, found in ideas(1, 1).items() if several or found.get("distill.learned", 1) == 1]


def tables(kept):
    """{case: its Markdown}, of the ideas that have a row."""
    found = {case: {idea: kept.of(case=case, idea=idea) for idea in ideas(1, 1)} for case in CASES}
    found = {case: {idea: rows for idea, rows in each.items() if len(rows)} for case, each in found.items()}
    return {case: runs.table(each, "idea") if each else "Not run yet.\n" for case, each in found.items()}


def overview(kept):
    """Markdown: the accuracy at the learned step size, a row an idea, a column a case; empty where it was not run."""
    rows = [[idea, *(spread(kept.of(case=case, idea=idea).test) for case in CASES)] for idea in ideas(1, 1)]
    return markdown(["idea", *CASES], rows)


def show(kept):
    """Write the tables into the pages that have them."""
    runs.show(PAGE, tables(kept))
    runs.show(ROOT / "RESULTS.md", {"successors": overview(kept)})


def main(*names):
    """Run what is missing of these cases, by default all, seed by seed; each row is written when it is there."""
    kept = Table(RESULTS / "successors.csv", ["case", "idea", "seed"], runs.COLUMNS)
    for seed in SEEDS:
        for case in runs.named(names, CASES):
            for idea in tried(case):
                if kept.of(case=case, idea=idea, seed=seed).empty:
                    print(f"{case}, {idea}, seed {seed}", flush=True)
                    found = runs.score(*settings(case, idea), seed, ROOT / ".work/studies/successors")
                    kept.add({"case": case, "idea": idea, "seed": seed, **found})
                    show(kept)


if __name__ == "__main__":
    run(main)
