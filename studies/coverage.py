"""Which test images each method's set does not prepare a network for, at ten digits per class: `python -m studies.coverage`.

How hard an image is, is the share of networks that are wrong on it, each trained on ten random real images of every class, its own draw.
Each set is then scored by as many networks as say that, in the settings of `make comparison`; and the experts, whose paths a distilled
set's networks are to go, by themselves. RESULTS.md has the table.
"""

import json
from functools import partial
from pathlib import Path

import torch

from mtt import dsa, imageset, trajectory
from mtt.buffer import Buffer
from mtt.convnet import ConvNet
from mtt.functional import learner, set_parameters
from mtt.params import Augmentation, Network, read, run
from mtt.seeds import generator
from mtt.tables import markdown
from mtt.training import fit, halves, initialise, outputs
from stages.evaluate import Evaluate
from studies import comparison, runs
from studies.runs import RESULTS, ROOT, Table, parameters, starting_from

KEYS, COLUMNS = ["set", "group"], ["networks", "images", "wrong", "std"]
COUNT = 20  # networks that say how hard an image is, and networks for each set
GROUPS = {"none": 0.0, "up to a quarter": 0.25, "up to half": 0.5, "more": 1.0}  # of those networks wrong on an image, at most
SLOWER = {"experts.learning_rate": 0.03, "distill.syn_steps": 20, "distill.lr_init": 0.05}  # and the steps that suit them
# Each set: its name, the method, settings beside the comparison's.
SETS = {
    "random": ("random", {}),
    "k_center": ("k_center", {}),
    "dm": ("dm", {}),
    "distilled": ("distilled", {}),
    "distilled, from slower experts": ("distilled", SLOWER),
    "half of k_center's learned": ("distilled", {**starting_from("k_center"), "distill.learned": 0.5}),
}
# The same of experts: the epochs, the last of which is the last that a segment ends at, and settings.
EXPERTS = {"the experts after 13 epochs": (13, {}), **{f"the slower experts after {epoch} epochs": (epoch, SLOWER) for epoch in (2, 7, 13)}}
CASE = {**comparison.CASES["default", 10], "distill.ipc": 10, "baseline.ipc": 10}


def wrong(sets, rate, part):
    """A mask (networks, test images) of where networks are wrong, each trained by params.yaml's protocol on one of `sets`, (x, y) each."""
    network, families, p = read("network", Network), read("augmentation", Augmentation).families, read("evaluate", Evaluate)
    net, missed_by = tested(network)
    gradient, augment = learner(net), partial(dsa.augment, families=families)
    masks = []
    for seed, (images, labels) in enumerate(sets):
        draws = generator("coverage", part, seed)
        theta = trajectory.vector(initialise(net, draws))[None].clone()
        for epochs, now in halves(p.epochs["ConvNet"], rate):
            fit(
                gradient, theta, images, labels, epochs=epochs, batch=p.batch, learning_rate=now, momentum=p.momentum,
                weight_decay=p.weight_decay, augment=augment, generators=[draws],
            )  # fmt: skip
        masks.append(missed_by(theta[0]))
    return torch.stack(masks)


def tested(network):
    """(A network for the test set, the function theta (P,) -> where it is wrong (test images,))."""
    test = imageset.load("data/prepared/test.safetensors")
    net, x, y = ConvNet(*test.shape[:2], len(test.classes), network.width, network.depth), test.normalised(), test.labels
    return net, lambda theta: outputs(set_parameters(net, theta), x).argmax(1) != y


def wrong_experts(epoch):
    """A mask (experts, test images) of where the experts are wrong after so many epochs."""
    _, missed_by = tested(read("network", Network))
    return torch.stack([missed_by(theta) for theta in Buffer("data/buffer").every(epoch)])


def hardness(rate=0.01):
    """The share (test images,) of networks that are wrong on each image; the rate is the one that validation chooses for random images."""
    train, ipc = imageset.load("data/prepared/train.safetensors"), CASE["distill.ipc"]
    x, y = train.normalised(), train.labels
    chosen = [train.some(ipc, generator("coverage", "images", number)) for number in range(COUNT)]
    return wrong([(x[indices], y[indices]) for indices in chosen], rate, "hardness").float().mean(0)


def rows(name, missed, hard):
    """A row for each group of images, and for all: how many, and how many a network is wrong on, mean and deviation over networks."""
    inside, least = {"all": hard >= 0}, -1.0
    for group, most in GROUPS.items():
        inside[group], least = (hard > least) & (hard <= most), most
    found = []
    for group, mask in inside.items():
        counts = missed[:, mask].sum(1).float()
        spread = float(counts.std(correction=0))  # of the population, as elsewhere
        counted = {"networks": len(counts), "images": int(mask.sum()), "wrong": float(counts.mean()), "std": spread}
        found.append({"set": name, "group": group, **counted})
    return found


def table(kept):
    """Markdown: a row a set, its accuracy in %, and for each group how many of its images a network is wrong on."""
    sizes = kept.rows.drop_duplicates("group").set_index("group").images
    head = ["networks", "test %", *(f"wrong of {sizes[group]}, on which {group} were" for group in GROUPS)]
    lines = []
    for name in (*SETS, *EXPERTS):
        of = kept.of(set=name).set_index("group")
        whole = of.loc["all"]
        accuracy, std = (100 * float(value) / whole.images for value in (whole.images - whole.wrong, whole["std"]))
        lines.append([name, f"{accuracy:.1f} +- {std:.1f} ({whole.networks})", *(f"{of.wrong[group]:.1f}" for group in GROUPS)])
    return markdown(head, lines)


def main():
    """Measure the sets, and the experts, that have no row."""
    kept = Table(RESULTS / "coverage.csv", KEYS, COLUMNS)
    measured = {name: (settings, partial(wrong_of, method, settings)) for name, (method, settings) in SETS.items()}
    measured |= {name: (settings, partial(wrong_experts, epochs)) for name, (epochs, settings) in EXPERTS.items()}
    hard = None
    for name, (settings, mask) in measured.items():
        if not kept.of(set=name).empty:
            continue
        torch.set_num_threads(1)  # so that an image is as hard on any number of cores
        with runs.inside(ROOT / ".work/studies/coverage", parameters("default", CASE | settings)):
            for stage in ("prepare", "experts", "buffer"):
                runs.stage(stage)
            hard = hardness() if hard is None else hard
            kept.add(*rows(name, mask(), hard))
    runs.show(ROOT / "RESULTS.md", {"coverage": table(kept)})


def wrong_of(method, settings):
    """A mask (networks, test images) of where networks trained on a method's set, made here, are wrong."""
    if "distill.images" in settings or method != "distilled":
        runs.stage("baseline", "k_center" if method == "distilled" else method)
    if method == "distilled":
        runs.stage("distill")
    runs.stage("evaluate", method)
    rate = json.loads(Path(f"results/scores/{method}-ConvNet.json").read_text())["learning_rate"]
    found = imageset.load(f"data/{method}/set.safetensors")
    return wrong([(found.normalised(), found.labels)] * COUNT, rate, "set")


if __name__ == "__main__":
    run(main)
