"""Ideas since the paper, through the stages: each does what its parameter says, and its default leaves the paper's method as it is."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT

from mtt import difficulty, imageset, soft_labels, tensorfile, trajectory
from mtt.buffer import Buffer
from mtt.convnet import ConvNet
from mtt.functional import set_parameters
from mtt.training import outputs
from stages import buffer, check, distill


@pytest.fixture
def run(make_run):
    """A run whose images are prepared, of quick distillations."""
    run = make_run()
    run("prepare")
    run.set(distill={"validate": {"every": 0}})
    return run


@pytest.fixture
def ready(ready):
    """A run whose buffer is there, of quick distillations."""
    ready.set(distill={"validate": {"every": 0}})
    return ready


def distilled(run, **changes):
    """The set of a distillation with these changes."""
    run.set(distill=changes)
    run("distill")
    return imageset.load("data/distilled/set.safetensors")


def curve():
    return pd.read_csv("results/distill/curves.csv")


def thetas(folder="data/experts"):
    return [trajectory.load(f"{folder}/000{number}.safetensors")[:] for number in range(2)]


def test_experts_by_gsam_with_rho_0_are_those_by_sgd_and_with_another_rho_are_not(run):
    run("experts")
    plain = thetas()
    for rho, equal in ((0.0, True), (0.1, False)):
        run.set(experts={"optimizer": "gsam", "rho": rho})
        run("experts")
        for own, other in zip(thetas(), plain, strict=True):
            assert torch.equal(own, other) == equal
    before = thetas()
    run.set(experts={"alpha": 0.0})
    run("experts")
    assert not torch.equal(thetas()[0], before[0]), "alpha weighs the surrogate gap"


def test_experts_by_difficulty_see_the_easiest_of_each_class_by_errors_measured_once(run, capsys):
    """Three quarters of the images in the first epoch: fewer steps, and other parameters."""
    run("experts")
    plain = thetas()
    run.set(experts={"order": "difficulty", "difficulty": {"networks": 2, "epochs": 1}})
    run("experts")
    assert not torch.equal(thetas()[0][1], plain[0][1])
    (path,) = run.folder.glob("work/experts/*/difficulty.errors")
    measured, train = tensorfile.load(path, "difficulty")[0]["errors"], imageset.load("data/prepared/train.safetensors")
    assert len(measured) == len(train.images)
    assert measured.min() >= 0
    assert measured.max() <= 2**0.5
    seen = difficulty.among(difficulty.ranked(measured, train.labels), 0, 20)
    steps = sum(-(-len(difficulty.among(difficulty.ranked(measured, train.labels), epoch, 20)) // 64) for epoch in range(3))
    assert len(seen) < 0.76 * len(train.images)
    assert f"{2 * steps}/{2 * steps}" in capsys.readouterr().err
    stamp = path.stat().st_mtime_ns
    run.set(experts={"count": 3})
    run("experts")
    assert path.stat().st_mtime_ns == stamp


def test_an_image_is_hard_that_networks_so_trained_are_wrong_on(run):
    """It is for an expert of as many epochs too: the errors go together."""
    run.set(experts={"epochs": 20, "learning_rate": 0.1, "order": "difficulty", "difficulty": {"networks": 2, "epochs": 20, "growing": 1}})
    run("experts")
    (path,) = run.folder.glob("work/experts/*/difficulty.errors")
    measured, train = tensorfile.load(path, "difficulty")[0]["errors"], imageset.load("data/prepared/train.safetensors")
    own = difficulty.el2n(outputs(network(train, thetas()[0][-1]), train.normalised()), train.labels)
    assert torch.stack([measured, own]).corrcoef()[0, 1] > 0.5


def test_way_points_are_few_rows_and_at_full_number_the_same_segments(ready):
    whole = Buffer("data/buffer")
    wanted = [whole.segment(1, start, 2) for start in range(2)]
    size = sum(file["bytes"] for file in whole.index["files"])
    ready.set(buffer={"waypoints": 4})
    ready("buffer")
    full = Buffer("data/buffer")
    for start, rows in enumerate(wanted):
        assert all(torch.equal(own, row) for own, row in zip(full.segment(1, start, 2), rows, strict=True))
    ready.set(buffer={"waypoints": 2})
    ready("buffer")
    few = Buffer("data/buffer")
    assert sum(file["bytes"] for file in few.index["files"]) < 0.6 * size
    assert few.index["waypoints"] == [0, 3]
    start, end = few.segment(0, 0.0, 3)
    assert torch.equal(start, thetas()[0][0])
    assert torch.equal(end, thetas()[0][3])
    middle = few.segment(0, 1.5, 1)[0]
    assert 0 < float((middle - start).norm()) < float((end - start).norm())


@pytest.mark.parametrize(("dtype", "error"), [("float16", 5e-4), ("bfloat16", 4e-3)])
def test_way_points_are_rounded_as_snapshots_are(ready, dtype, error):
    ready.set(buffer={"waypoints": 4, "dtype": dtype})
    ready("buffer")
    found = Buffer("data/buffer")
    for own, wanted in zip(found.segment(0, 1, 1), thetas()[0][1:3], strict=True):
        assert own.dtype == torch.float32
        assert 0 < float((own - wanted).abs().max() / wanted.abs().max()) < error


def test_a_distillation_from_way_points_starts_anywhere_between_epochs(ready):
    ready.set(buffer={"waypoints": 3}, distill={"max_start_epoch": 1})
    check.main()
    ready("buffer")
    assert distilled(ready).images.isfinite().all()
    starts = curve().start_epoch
    assert starts.between(0, 1, inclusive="left").all()
    assert starts.nunique() == 4


def test_way_points_that_do_not_fit_are_refused_by_name(ready):
    ready.set(buffer={"waypoints": 3})
    ready("buffer")
    with pytest.raises(ValueError, match="data/buffer: found 4 snapshots; wanted .* = 4, and 1 where there are way"):
        ready("distill")
    with pytest.raises(ValueError, match="0000.safetensors: found way-points of a trajectory; wanted all its snapshots"):
        buffer.main("data/buffer", "data/again", "again.csv")


def test_a_damaged_way_point_file_is_refused(ready):
    ready.set(buffer={"waypoints": 3}, distill={"max_start_epoch": 1})
    ready("buffer")
    path = "data/buffer/0000.safetensors"
    tensors, header = tensorfile.load(path, "trajectory")
    for change, says in (
        ({"waypoints": [0, 3, 2]}, r"found waypoints \[0, 3, 2\]; wanted one for each row of theta, from 0 on, in order"),
        ({"waypoints": [0, 2]}, r"found waypoints \[0, 2\]; wanted one for each row"),
        ({"waypoints": [0, 2, 5]}, "found way-points without their progress"),
    ):
        tensorfile.save("bad.safetensors", tensors, {**header, **change})
        with pytest.raises(ValueError, match=f"bad.safetensors: {says}"):
            trajectory.load("bad.safetensors")
    index = json.loads((ready.folder / "data/buffer/index.json").read_text())
    (ready.folder / "data/buffer/index.json").write_text(json.dumps({**index, "waypoints": [0, 1, 3]}))
    with pytest.raises(ValueError, match=r"0000.safetensors: found waypoints \[0, 2, 3\]; wanted \[0, 1, 3\], as the index says"):
        Buffer("data/buffer")


def test_the_truncated_gradient_and_the_deeper_layers_alone_lead_elsewhere(ready):
    """From the same first loss where the loss is the same, and from another where only a part is matched."""
    plain, losses = distilled(ready).images, curve().loss
    assert not torch.equal(distilled(ready, gradient="truncated").images, plain)
    assert curve().loss[0] == losses[0]
    assert not torch.equal(distilled(ready, gradient="exact", layers=0.5).images, plain)
    assert curve().loss[0] != losses[0]


def test_the_share_of_layers_is_that_of_the_first_parameters_left_out(ready, monkeypatch):
    """A quarter of them: what is matched begins after it."""
    seen = spied(monkeypatch, distill, "match")
    distilled(ready, layers=0.25)
    assert [found.args[9] for found in seen] == [int(0.25 * thetas()[0].shape[1])] * 4


def test_nearest_has_no_larger_distance_where_the_last_step_is_too_far(ready):
    """A step size that is far too large: the nearest step is the first."""
    distilled(ready, lr_init=1.0, lr_lr=0.0, iterations=1)
    last = curve().loss[0]
    distilled(ready, stop="nearest")
    assert curve().loss[0] < last


def test_the_average_of_the_images_is_what_is_kept(ready):
    """Of the iterates of the same run, weighed .9^2, .9 and 1."""
    iterates = [distilled(ready, iterations=number).images for number in (1, 2, 3)]
    found = distilled(ready, ema=0.9, iterations=3).images
    weights = torch.tensor([0.81, 0.9, 1.0])
    assert torch.allclose(found, sum(w * x for w, x in zip(weights / weights.sum(), iterates, strict=True)), atol=1e-5)


def spied(monkeypatch, module, name):
    """The list of calls of `module.name`, (args, result) each, as they come; it does what it did."""
    seen, original = [], getattr(module, name)

    def spy(*args):
        seen.append(SimpleNamespace(args=args, result=original(*args)))
        return seen[-1].result

    monkeypatch.setattr(module, name, spy)
    return seen


@pytest.mark.parametrize("labels", ["hard", "learned"])
def test_what_is_scored_is_what_is_kept(ready, monkeypatch, labels):
    """The average of the images, which differs from the images, and their labels as a network is trained on them."""
    seen = []
    monkeypatch.setattr(distill, "scorer", lambda *args, **settings: lambda *what: seen.append(what) or len(seen))
    found = distilled(ready, labels=labels, ema=0.9, validate={"every": 2})
    assert [number for *_, number in seen] == [2, 4]
    images, targets, rate, _ = seen[-1]
    assert torch.equal(images, found.images)
    assert torch.equal(targets, found.labels)
    assert rate == pytest.approx(found.learning_rate)
    assert not torch.equal(distilled(ready, ema=0.0).images, found.images)


def network(train, theta):
    """A network of the tiny run with these parameters."""
    return set_parameters(ConvNet(*train.images.shape[1:3], len(train.classes), 4, 2), theta)


@pytest.mark.parametrize("labels", ["teacher", "learned"])
def test_soft_labels_travel_in_the_set_file_and_are_used_by_evaluation(ready, labels):
    """Rows of probabilities; another score than with the classes alone."""
    found = distilled(ready, labels=labels, validate={"every": 2})
    assert found.labels.shape == (10, 10)
    assert torch.allclose(found.labels.sum(1), torch.ones(10))
    ready("evaluate", method="distilled")
    scores = json.loads((ready.folder / "results/scores/distilled-ConvNet.json").read_text())
    assert scores["soft"]
    with pytest.raises(ValueError, match="distill.start = 'real'; wanted noise, as the set has probabilities for each image"):
        check.main("data/distilled/set.safetensors")
    found.labels = torch.arange(10)
    found.save("data/distilled/set.safetensors")
    ready("evaluate", method="distilled")
    hard = json.loads((ready.folder / "results/scores/distilled-ConvNet.json").read_text())
    assert not hard["soft"]
    assert scores["validation"] != hard["validation"] or scores["accuracies"] != hard["accuracies"]


def test_kept_with_a_teacher_is_what_all_experts_see_at_the_last_target_epoch(ready):
    """Which is not their last: they have one epoch more."""
    ready.set(experts={"epochs": 4})
    ready("experts")
    ready("buffer")
    found, train = distilled(ready, labels="teacher"), imageset.load("data/prepared/train.safetensors")
    with torch.no_grad():
        wanted = sum(network(train, rows[3])(found.images).softmax(1) for rows in thetas()) / 2
    assert torch.allclose(found.labels, wanted, atol=1e-5)


def test_a_teacher_is_the_expert_at_the_epoch_that_the_student_is_led_to(ready, monkeypatch):
    """Not where the student starts: M epochs later."""
    seen = spied(monkeypatch, soft_labels.Taught, "seen")
    distilled(ready, labels="teacher", expert_epochs=1)
    assert len(seen) >= len(curve()) == 4
    for (expert, start), found in zip(curve()[["expert", "start_epoch"]].values, seen, strict=False):
        assert torch.equal(found.args[-1], thetas()[int(expert)][int(start) + 1])


def test_learned_labels_are_learned(ready):
    """At the rate 0 they stay what they began as, at another they move; and the images with them."""
    still = distilled(ready, labels="learned", lr_label=0.0)
    moved = distilled(ready, lr_label=5.0)
    assert not torch.equal(still.labels, moved.labels)
    assert not torch.equal(still.images, moved.images)
    assert torch.equal(still.labels.argmax(1), torch.arange(10)), "an image that no expert is right on keeps its class"


def test_learned_labels_have_a_momentum_of_their_own(ready):
    """Which changes them from the second iteration on, and the images from the third."""
    none, some = (distilled(ready, iterations=2, labels="learned", momentum_label=momentum) for momentum in (0.0, 0.9))
    assert torch.equal(none.images, some.images)
    assert not torch.equal(none.labels, some.labels)


def test_learned_labels_begin_with_what_experts_see_in_the_end(ready):
    """By their last snapshot, which is far beyond the last that a student is led to: mean logits of those that are right."""
    ready.set(experts={"epochs": 12})
    ready("experts")
    ready("buffer")
    found, train = (
        distilled(ready, labels="learned", lr_label=0.0, start_epochs={"threshold": 1e-9}),
        imageset.load("data/prepared/train.safetensors"),
    )
    logits = torch.stack([outputs(network(train, rows[-1]), found.images) for rows in thetas()])
    right = (logits.argmax(2) == torch.arange(10)).unsqueeze(2)
    some = right.any(0).squeeze(1)
    assert some.any()
    wanted = ((logits * right).sum(0) / right.sum(0))[some].softmax(1)
    assert torch.allclose(found.labels[some], wanted, atol=1e-5)


def test_a_distillation_with_labels_average_and_momenta_goes_on_as_in_one_go(ready):
    changes = {"labels": "learned", "ema": 0.9, "start_epochs": {"first": 1, "growing": 3}, "validate": {"every": 2}}
    distilled(ready, **changes)
    wanted = ready.files("data/distilled/**/*") | ready.files("results/distill/*")
    shutil.rmtree(ready.folder / "work/distill")
    distilled(ready, iterations=2)
    distilled(ready, iterations=4)
    assert ready.files("data/distilled/**/*") | ready.files("results/distill/*") == wanted


def test_two_ranks_give_the_labels_and_averages_of_one(ready):
    """Where an iteration's loss is the mean of its segments, some of whose are skipped; to 1e-5."""
    ready.set(distill={"labels": "learned", "segments": 2, "ema": 0.9, "start_epochs": {"threshold": 0.98}})
    each = []
    for count in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MTT_WORK": count, "MTT_RANKS": count}
        command = [sys.executable, "-m", *ready.command("distill")]
        subprocess.run(command, cwd=ready.folder, env=environment, check=True)
        each.append((imageset.load("data/distilled/last.safetensors"), curve()))
    (one, curves), (two, other) = each
    assert curves.skipped.tolist() == other.skipped.tolist()
    assert torch.allclose(one.labels, two.labels, atol=1e-5)
    assert torch.allclose(one.images, two.images, atol=1e-5)
    assert one.learning_rate == pytest.approx(two.learning_rate, abs=1e-6)


def test_the_range_of_start_epochs_grows_and_has_a_floor(ready):
    distilled(ready, iterations=40, syn_steps=1, start_epochs={"first": 1, "growing": 30})
    starts = curve().start_epoch
    assert set(starts[:30]) == {0}
    assert set(starts[30:]) == {0, 1}
    distilled(ready, start_epochs={"first": "all", "floor": 1})
    assert set(curve().start_epoch) == {1}


def test_an_iteration_whose_loss_is_above_the_threshold_changes_nothing(ready, capsys):
    """Its loss stands in the curve all the same, which says so, and so do the metrics; a run of nothing else is warned of."""
    start = distilled(ready, iterations=4, start_epochs={"threshold": 1e-9})
    assert "warning: the loss was above distill.start_epochs.threshold in every iteration" in capsys.readouterr().out
    assert curve().skipped.tolist() == [1] * 4
    assert json.loads((ready.folder / "results/distill/metrics.json").read_text())["skipped"] == 4
    real = imageset.load("data/prepared/train.safetensors").normalised()
    assert all((real == image).flatten(1).all(1).any() for image in start.images)
    assert start.learning_rate == pytest.approx(0.02)
    assert not torch.equal(distilled(ready, start_epochs={"threshold": 100.0}).images, start.images)
    assert "warning" not in capsys.readouterr().out
    few, more = (distilled(ready, labels="learned", iterations=number, start_epochs={"threshold": 1e-9}) for number in (1, 4))
    assert torch.equal(few.labels, more.labels)


def test_distillation_starts_from_the_images_of_another_method(ready):
    """Those of herding, one of each class; DVC makes them first."""
    ready("baseline", method="herding")
    found = distilled(ready, images="data/herding/set.safetensors", start_epochs={"threshold": 1e-9})
    assert torch.equal(found.images, imageset.load("data/herding/set.safetensors").normalised())
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert "${distill.images}" in stages["distill"]["deps"]
    assert stages["baseline"]["outs"] == ["data/${item.method}/set.safetensors"]


@pytest.mark.parametrize(("share", "wanted"), [(1.0, 4), (0.5, 2), (0.3, 1), (0.7, 3)])
def test_of_each_class_a_share_is_learned_and_the_others_stay_as_they_start(ready, share, wanted):
    found, real = distilled(ready, ipc=4, learned=share, ema=0.5), imageset.load("data/prepared/train.safetensors").normalised()
    stays = torch.stack([(real == image).flatten(1).all(1).any() for image in found.images]).view(10, 4)
    assert stays.tolist() == [[number >= wanted for number in range(4)]] * 10


def test_labels_of_images_that_stay_as_they_start_stay_too(ready):
    found, still = (distilled(ready, ipc=4, learned=0.5, labels="learned", lr_label=rate) for rate in (2.0, 0.0))
    assert (found.labels == still.labels).all(1).view(10, 4).tolist() == [[False, False, True, True]] * 10


def test_images_to_start_from_are_those_that_the_first_expert_is_right_on(ready):
    ready.set(experts={"epochs": 12})
    ready("experts")
    ready("buffer")
    found, train = (
        distilled(ready, start_images="right", start_epochs={"threshold": 1e-9}),
        imageset.load("data/prepared/train.safetensors"),
    )
    assert found.labels.tolist() == list(range(10))
    real = train.normalised()
    assert all((real == image).flatten(1).all(1).any() for image in found.images)
    with torch.no_grad():
        seen = torch.stack([network(train, rows[-1])(found.images).argmax(1) == found.labels for rows in thetas()])
    assert seen.any(0).all()
    right = network(train, thetas()[0][-1])(real).argmax(1) == train.labels
    assert all(seen[0, label] for label in range(10) if right[train.labels == label].any())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"distill": {"start_epochs": {"first": 9}}}, "distill.start_epochs.first = 9; wanted at most distill.max_start_epoch = 2"),
        ({"distill": {"start_epochs": {"floor": 2}}}, "distill.start_epochs.floor = 2; wanted less than 2"),
        ({"distill": {"start_epochs": {"first": 1, "floor": 1}}}, "distill.start_epochs.floor = 1; wanted less than 1"),
        ({"distill": {"layers": 0.5, "loss": "task"}}, "distill.layers = 0.5; wanted 0 with distill.loss = task"),
        ({"distill": {"layers": 1.0}}, "distill.layers = 1.0: Input should be less than 1"),
        ({"distill": {"stop": "nearest", "loss": "task"}}, "distill.stop = 'nearest'; wanted last with distill.loss = task"),
        ({"distill": {"labels": "teacher", "loss": "task"}}, "distill.labels = 'teacher'; wanted hard or learned with distill.loss = task"),
        ({"distill": {"start_images": "right", "start": "noise"}}, "distill.start_images = 'right'; wanted any with distill.start = noise"),
        ({"distill": {"labels": "learned", "canvas_size": 2}}, "distill.labels = 'learned'; wanted hard with distill.canvas_size > 1"),
        ({"distill": {"start_images": "right", "canvas_size": 2}}, "distill.start_images = 'right'; wanted any with distill.canvas_size"),
        ({"distill": {"learned": 0.5}}, "distill.learned = 0.5; wanted 1, or a share by which some of distill.ipc = 1 are learned"),
        ({"distill": {"learned": 0.5, "start": "noise"}}, "distill.learned = 0.5; wanted 1 with distill.start = noise"),
        ({"distill": {"learned": 0.0}}, "distill.learned = 0.0: Input should be greater than 0"),
        ({"distill": {"ema": 1.0}}, "distill.ema = 1.0: Input should be less than 1"),
        (
            {"experts": {"order": "difficulty", "difficulty": {"growing": 3}}},
            "experts.difficulty.growing = 3; wanted less than experts.epochs = 3, or no expert sees the hardest images",
        ),
        ({"experts": {"optimizer": "adam"}}, "experts.optimizer = 'adam': Input should be 'sgd' or 'gsam'"),
        ({"buffer": {"waypoints": 9}, "distill": {"max_start_epoch": 1}}, "buffer.waypoints = 9; wanted at most the 4 snapshots"),
        ({"buffer": {"waypoints": 4}}, "experts.epochs = 3; wanted at least distill.max_start_epoch + distill.expert_epochs = 4"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(make_run, changes, says):
    run = make_run()
    run.set(**changes)
    with pytest.raises(ValueError, match=f"^params.yaml: {re.escape(says)}[^\n]*$"):
        check.main()
