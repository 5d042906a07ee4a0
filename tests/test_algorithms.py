"""Experts, distillation and scores, each held against its algorithm written out, network by network and step by step."""

import json
import statistics

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from mtt import dsa, imageset, starts, textures, trajectory
from mtt.batchnorm import settle
from mtt.convnet import ConvNet
from mtt.functional import as_function
from mtt.seeds import generator
from mtt.training import initialise
from stages.evaluate import ARCHITECTURES

HOW = {"epochs": {"ConvNet": 41, "ConvNetBN": 11}, "batch": 8, "momentum": 0.8, "weight_decay": 0.05, "learning_rates": [0.001, 0.03]}
FAMILIES = ["crop", "scale", "rotate"]


def trajectory_of(data, index, families):
    """The snapshots [theta (P,), ...] of one expert: plain SGD on real images, the rate never lowered."""
    net, x = initialise(ConvNet(1, 8, 10, width=4, depth=2), generator("expert", 0, index)), data.normalised()
    snapshots, optimizer = [trajectory.vector(net).clone()], torch.optim.SGD(net.parameters(), 0.03)
    for number in range(3):
        draws = generator("expert", 0, index, "epoch", number)
        for chunk in torch.randperm(len(x), generator=draws).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(dsa.augment(x[chunk], families, draws)), data.labels[chunk]).backward()
            optimizer.step()
        snapshots.append(trajectory.vector(net).clone())
    return snapshots


def test_experts_are_plain_networks_trained_on_real_images(make_run):
    run = make_run()
    run.set(augmentation={"families": FAMILIES}, experts={"batch": 64, "learning_rate": 0.03})
    run("prepare")
    run("experts")
    data = imageset.load("data/prepared/train.safetensors")
    for index in range(2):
        found = trajectory.load(f"data/experts/000{index}.safetensors")[:]
        assert torch.allclose(found, torch.stack(trajectory_of(data, index, FAMILIES)), atol=1e-5)
        assert (found[1:] - found[:-1]).norm(dim=1).min() > 0.01


def test_distillation_is_algorithm_1_written_out(ready):
    """Autograd through all steps of the student, from where an expert stood to where it stood M epochs later; five times."""
    own = {
        "iterations": 5,
        "syn_steps": 4,
        "batch_syn": 8,
        "expert_epochs": 2,
        "lr_img": 50.0,
        "lr_lr": 0.0005,
        "lr_init": 0.1,
        "momentum": 0.7,
    }
    ready.set(distill={**own, "ipc": 2, "validate": {"every": 0}}, augmentation={"families": FAMILIES})
    for stage in ("experts", "buffer", "distill"):
        ready(stage)
    loss, y, draws = as_function(ConvNet(1, 8, 10, width=4, depth=2)), torch.arange(20) // 2, generator("distill", 0, "start")
    torch.randn(20, 1, 8, 8, generator=draws)  # a start from noise, which real images replace
    x = begun = starts.real("data/prepared/train.safetensors", 2, 1, None, draws)
    alpha, moved, rates, losses = torch.tensor(0.1), [0, 0], (50.0, 0.0005), []
    for iteration in range(5):
        draws = generator("distill", 0, iteration)
        path = trajectory.load(f"data/experts/000{starts.visited(iteration, 2, 0)}.safetensors")[:]
        t = int(torch.randint(0, 2, (), generator=draws))
        learned = x.clone().requires_grad_(), alpha.clone().requires_grad_()
        chunks = [*torch.randperm(20, generator=draws).split(8), *torch.randperm(20, generator=draws).split(8)][:4]
        student = path[t].clone().requires_grad_()
        for chunk in chunks:
            seen = dsa.apply(learned[0][chunk], dsa.draw(FAMILIES, len(chunk), draws))
            student = student - learned[1] * torch.autograd.grad(loss(student, seen, y[chunk]), student, create_graph=True)[0]
        value = (student - path[t + 2]).square().sum() / (path[t] - path[t + 2]).square().sum()
        moved = [0.7 * velocity + slope for velocity, slope in zip(moved, torch.autograd.grad(value, learned), strict=True)]
        x, alpha = (old - rate * velocity for old, rate, velocity in zip((x, alpha), rates, moved, strict=True))
        losses.append(value.item())
    found = imageset.load("data/distilled/set.safetensors")
    assert pd.read_csv("results/distill/curves.csv").loss.tolist() == pytest.approx(losses, rel=1e-3)
    assert torch.allclose(found.images, x, rtol=0, atol=1e-3)
    assert found.learning_rate == pytest.approx(float(alpha), rel=1e-4)
    assert (x - begun).abs().max() > 0.1
    assert abs(float(alpha) - 0.1) > 0.0005


@pytest.fixture
def scored(make_run):
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
def test_a_score_is_its_protocol_written_out(scored, architecture, learned):
    """The rate is chosen by one network's accuracy on validation; each accuracy is right to two test images (of 359)."""
    found = imageset.load("data/random/set.safetensors")
    if learned:
        vars(found).update(canvases(found))
        found.save("data/random/set.safetensors")
    scored("evaluate", architecture=architecture)
    scores = json.loads((scored.folder / f"results/scores/random-{architecture}.json").read_text())
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
