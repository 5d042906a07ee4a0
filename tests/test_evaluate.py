"""The protocol of the scores, held against itself written out."""

import json
import statistics

import pytest
import torch
import torch.nn.functional as F

from mtt import dsa, imageset, textures
from mtt.batchnorm import settle
from mtt.seeds import generator
from mtt.training import initialise
from stages.evaluate import ARCHITECTURES

HOW = {"epochs": {"ConvNet": 41, "ConvNetBN": 11}, "batch": 8, "momentum": 0.8, "weight_decay": 0.05, "learning_rates": [0.001, 0.03]}
FAMILIES = ["crop", "scale", "rotate"]


@pytest.fixture
def run(make_run):
    """A run with three networks a score, and a set of random images in place of the distilled one."""
    run = make_run()
    run.set(evaluate={**HOW, "networks": 3}, augmentation={"families": FAMILIES}, baseline={"ipc": 4})
    run("prepare")
    run("baseline", method="random")
    return run


def canvases(found):
    """The set as a canvas of four images for each class, cropped twice in each use, with a learned step size."""
    images, size = textures.tile(found.normalised(), 2), 2
    return {"images": images, "labels": found.labels[:: size**2], "canvas_size": size, "canvas_samples": 2, "learning_rate": 0.05}


def accuracy(found, architecture, part, seed, rate):
    """Of one network: trained on the set `found` for two halves, step by step, and scored on a part of the real images."""
    sizes = {"width": 4, "depth": 2} if architecture.startswith("ConvNet") else {}
    net, x = ARCHITECTURES[architecture](1, 8, 10, **sizes), found.normalised()
    epochs = HOW["epochs"][architecture]
    for half, (length, now) in enumerate([(epochs // 2, rate), (epochs - epochs // 2, rate / 10)]):
        draws = generator("evaluate", 0, part, seed, half)
        net = net if half else initialise(net, draws)
        optimizer = torch.optim.SGD(net.parameters(), now, momentum=0.8, weight_decay=0.05)
        for _ in range(length):
            for chunk in torch.randperm(len(x), generator=draws).split(8):
                chunk = chunk.repeat_interleave(found.canvas_samples)
                offsets = textures.draw(len(chunk), found.canvas_size, draws)
                seen = dsa.augment(textures.crop(x[chunk], offsets, found.canvas_size), FAMILIES, draws)
                optimizer.zero_grad()
                F.cross_entropy(net(seen), found.labels[chunk]).backward()
                optimizer.step()
    held_out = imageset.load(f"data/prepared/{part}.safetensors")
    settle(net, textures.tiles(x, found.canvas_size))
    hits = net.eval()(held_out.normalised()).argmax(1) == held_out.labels
    return float(hits.float().mean())


@pytest.mark.parametrize("architecture", ["ConvNet", "ConvNetBN"])
@pytest.mark.parametrize("learned", [False, True])
def test_a_score_is_its_protocol_written_out(run, architecture, learned):
    """The rate is chosen by one network's accuracy on validation; each accuracy is right to two test images (of 359)."""
    found = imageset.load("data/random/set.safetensors")
    if learned:
        vars(found).update(canvases(found))
        found.save("data/random/set.safetensors")
    run("evaluate", architecture=architecture)
    scores = json.loads((run.folder / f"results/scores/random-{architecture}.json").read_text())
    rates = [0.001, 0.03, *([0.05] if learned else [])]
    candidates = {rate: accuracy(found, architecture, "validation", 0, rate) for rate in rates}
    assert list(scores["validation"].values()) == pytest.approx(list(candidates.values()), abs=2 / 287)
    best = max(rates, key=lambda rate: scores["validation"][f"{rate:g}"])
    assert scores["best_rate"]["learning_rate"] == pytest.approx(best)
    assert scores["learning_rate"] == pytest.approx(0.05 if learned else best)
    for score in (scores, scores["best_rate"]):
        wanted = [accuracy(found, architecture, "test", seed, score["learning_rate"]) for seed in range(3)]
        assert score["accuracies"] == pytest.approx(wanted, abs=2 / 359)
        assert score["mean"] == pytest.approx(statistics.fmean(score["accuracies"]))
        assert score["std"] == pytest.approx(statistics.pstdev(score["accuracies"]))
