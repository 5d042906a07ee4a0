"""What a distillation leaves behind."""

import pandas as pd
import pytest
import torch

from mtt import history, imageset, outcome
from mtt.soft_labels import Hard
from mtt.state import State

INDEX = {"set": "toy", "classes": ["ant", "bee"], "mean": [0.5], "std": [0.25], "network": {"width": 4, "depth": 1}, "augmentation": {}}
SETTINGS = {"canvas_size": 1, "canvas_samples": 1, "syn_steps": 3}


@pytest.fixture
def state():
    """After three iterations, the second of which was best."""
    found = State.begin(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), 0.02, {})
    for iteration, accuracy in enumerate((0.5, 0.8, 0.7), 1):
        found.step({"x": -torch.ones_like(found.x)}, {"x": 0.1}, {"x": 0.0}, floor=0.01)
        found.curve.append([iteration, 0, iteration % 2, 1 / iteration, 0.02, 0, 0])
        found.score(accuracy)
    return found


def finished(state, tmp_path):
    """What it leaves behind; the folder of its pictures."""
    about, folder = outcome.described(INDEX, SETTINGS, "no whitening"), tmp_path / "frames"
    outcome.shoot(about, folder, state)
    outs = outcome.Outs(
        *(str(tmp_path / name) for name in ("best.safetensors", "last.safetensors", "history", "all.gif")),
        *(str(tmp_path / name) for name in ("curves.csv", "scores.csv", "metrics.json", "set.png", "seen.png")),
    )
    outcome.finish(state, about, Hard(), folder, outs)
    return outs, folder


def test_the_best_images_are_the_set_and_the_last_lie_beside_them(state, tmp_path, capsys):
    """With what a stranger needs; and the numbers say which iteration it is."""
    outs, folder = finished(state, tmp_path)
    assert "warning" not in capsys.readouterr().out
    best, last = imageset.load(outs.best), imageset.load(outs.last)
    assert best.images.unique().item() == pytest.approx(0.2)
    assert last.images.unique().item() == pytest.approx(0.3)
    assert best.learning_rate == pytest.approx(0.02)
    assert best.provenance["distill"] == SETTINGS
    metrics = pd.read_json(outs.metrics, typ="series")
    assert metrics.best_iteration == 2
    assert metrics.validation_accuracy == 0.8
    assert len(pd.read_csv(outs.curves)) == metrics.iterations == 3
    assert [path.name for path in (tmp_path / "history").iterdir()] == [history.frame(folder, 3).name]


def test_the_loss_of_a_run_is_the_mean_of_its_last_tenth(state, tmp_path):
    state.curve = [[iteration, 0, 0, float(iteration), 0.02, 0, 0] for iteration in range(1, 31)]
    outs, _ = finished(state, tmp_path)
    assert pd.read_json(outs.metrics, typ="series").loss == 29


def test_a_step_size_that_was_clamped_is_pointed_out_with_what_to_change(state, tmp_path, capsys):
    state.curve = [[iteration, expert, 0, 1.0, 0.02, int(iteration > 1), 0] for iteration in (1, 2, 3) for expert in range(4)]
    finished(state, tmp_path)
    words = "warning: the step size was clamped at a hundredth of distill.lr_init in 2 of 3 iterations; lower distill.lr_lr"
    assert words in capsys.readouterr().out


def test_an_iteration_of_several_segments_is_clamped_or_skipped_once(state, tmp_path):
    state.curve = [[iteration, expert, 0, 1.0, 0.02, iteration == 2, iteration == 3] for iteration in (1, 2, 3) for expert in range(4)]
    outs = outcome.Outs(*(str(tmp_path / name) for name in outcome.Outs._fields))
    outcome.write_curves(state, 0.02, outs)
    assert pd.read_json(outs.metrics, typ="series")[["clamped", "skipped", "iterations"]].tolist() == [1, 1, 3]
