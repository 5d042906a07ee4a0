"""Sets with soft labels, labelled in the other's way: stage relabel."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from mtt import imageset, robustness, trajectory
from mtt.convnet import ConvNet
from mtt.functional import set_parameters
from stages import check

pytestmark = pytest.mark.slow
CLASSES = torch.arange(10)


@pytest.fixture
def soft(ready):
    """A function (labels) -> a run whose distilled set has such labels, and its random images; its experts' last epoch is no target."""

    def make(labels):
        ready.set(experts={"epochs": 4, "learning_rate": 0.1}, distill={"labels": labels, "validate": {"every": 0}})
        ready.set(relabelled=["distilled_hard", "random_soft"])
        check.main()
        for stage in ("experts", "buffer", "distill", "baseline"):
            ready(stage)
        return ready

    return make


@torch.no_grad()
def probabilities(x, epoch):
    """What each of the two experts sees in images (10, ...) after an epoch, one at a time."""
    for number in range(2):
        net = ConvNet(1, 8, 10, 4, 2)
        theta = trajectory.load(f"data/experts/000{number}.safetensors")[epoch]
        yield set_parameters(net, theta)(x).softmax(1)


def test_random_images_are_labelled_as_the_teacher_labels(soft):
    """By the experts at the last target epoch."""
    soft("teacher")("relabel", method="random_soft")
    random, found = imageset.load("data/random/set.safetensors"), imageset.load("data/random_soft/set.safetensors")
    assert torch.equal(found.images, random.images)
    assert torch.allclose(found.labels, sum(probabilities(random.normalised(), 3)) / 2, atol=1e-5)
    made = found.provenance["relabelled"]
    assert made["distill"] == {"labels": "teacher", "max_start_epoch": 2, "expert_epochs": 2}
    assert made["network"] == {"width": 4, "depth": 2}
    assert not torch.allclose(found.labels, sum(probabilities(random.normalised(), 4)) / 2, atol=1e-3)


def test_random_images_are_labelled_as_learned_labels_begin(soft):
    """By the last experts that are right on an image."""
    soft("learned")("relabel", method="random_soft")
    random, found = imageset.load("data/random/set.safetensors"), imageset.load("data/random_soft/set.safetensors")
    logits = torch.stack([seen.log() for seen in probabilities(random.normalised(), 4)])
    right = logits.argmax(2) == CLASSES
    known, mean = right.any(0), (logits * right[..., None]).sum(0) / right.sum(0)[:, None]
    assert known.any()
    assert torch.allclose(found.labels[known], mean.softmax(1)[known], atol=1e-5)
    assert torch.equal(found.labels.argmax(1), CLASSES)


def test_learned_images_are_trained_on_with_their_classes_alone(soft):
    soft("learned")("relabel", method="distilled_hard")
    learned, found = imageset.load("data/distilled/set.safetensors"), imageset.load("data/distilled_hard/set.safetensors")
    assert torch.equal(found.images, learned.images)
    assert torch.equal(found.labels, CLASSES)
    assert learned.learning_rate is not None
    assert found.learning_rate is None, "it was learned for soft labels"
    assert found.provenance.items() >= learned.provenance.items()
    assert found.provenance["relabelled"]["method"] == "distilled_hard"


def test_the_scores_of_a_soft_set_are_all_there(soft):
    run = soft("learned")
    methods = ["distilled", "random", "distilled_hard", "random_soft"]
    run.set(methods=methods, architectures=["ConvNet"], robustness_architectures=["ConvNet"])
    check.main()
    for method in methods:
        if method in run.values["relabelled"]:
            run("relabel", method=method)
        run("evaluate", method=method)
        run("evaluate_plain", method=method)
    run("evaluate_whole")
    run("report")
    mean = {path.stem: json.loads(path.read_text())["mean"] for path in Path("results/scores").iterdir()}
    found = pd.read_csv("results/robustness.csv")
    assert found.method.tolist() == ["distilled"]
    lead, plain = [mean[f"distilled-ConvNet{how}"] - mean[f"random_soft-ConvNet{how}"] for how in ("", "-plain")]
    loss = mean["whole-ConvNet"] - mean["distilled_hard-ConvNet"]
    wanted = [loss, lead, robustness.label_robust(loss, lead), robustness.augmentation_robust(lead, plain)]
    assert found.loc[0, ["HLR", "IOR", "LRS", "ARS"]].tolist() == pytest.approx(wanted, abs=1e-5)


def test_what_has_no_soft_labels_or_no_recipe_is_refused_in_one_line(soft):
    run = soft("learned")
    learned = imageset.load("data/distilled/set.safetensors")
    replace(learned, provenance={"imported": {}}).save("data/distilled/set.safetensors")
    for method in run.values["relabelled"]:
        with pytest.raises(ValueError, match=r"^data/distilled/set.safetensors: found no network; Field required$"):
            run("relabel", method=method)
    other = {**learned.provenance, "network": {"width": 5, "depth": 2}}
    replace(learned, provenance=other).save("data/distilled/set.safetensors")
    with pytest.raises(ValueError, match=r"found experts of network .*'width': 4.*; wanted .*5.*, as in data/distilled/set.safetensors$"):
        run("relabel", method="random_soft")
    replace(learned, labels=CLASSES).save("data/distilled/set.safetensors")
    for method in run.values["relabelled"]:
        with pytest.raises(ValueError, match=r"found a class for each image; wanted probabilities"):
            run("relabel", method=method)
    with pytest.raises(ValueError, match=r"relabelled: found dm; wanted one of distilled_hard, random_soft"):
        run("relabel", method="dm")
