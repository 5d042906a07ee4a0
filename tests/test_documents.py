"""README.md and RESULTS.md say what the committed results say."""

import hashlib
import json
import re

import pandas as pd
import pytest
import yaml
from conftest import ROOT

from mtt import imageset, tables
from stages import report
from studies import runs


@pytest.mark.parametrize("name", ["README.md", "RESULTS.md"])
def test_the_table_is_that_of_the_committed_scores(name):
    """`python -m stages.report results/scores results/scores.csv` prints it."""
    found = re.search("<!-- scores -->\n(.*?)<!-- /scores -->", (ROOT / name).read_text(), re.S)[1]
    assert found == report.markdown(pd.read_csv(ROOT / "results/scores.csv"))


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "sets").glob("fashion*.safetensors")))
def test_the_table_of_a_published_set_is_that_of_its_figures(name):
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", (ROOT / "RESULTS.md").read_text(), re.S)[1]
    about = json.loads((ROOT / f"sets/{name}.json").read_text())
    assert found == report.markdown(pd.DataFrame(about["scores"]))
    assert imageset.load(ROOT / f"sets/{name}.safetensors").learning_rate == pytest.approx(about["distill"]["step_size"])


def test_the_tables_of_labels_are_those_of_their_scores():
    """One row a training; what the page shows of them, and the robustness scores that stage report makes of them."""
    rows = pd.read_csv(ROOT / "results/labels.csv")
    cells = {(row.labels, row.method, row.augmented): f"{100 * row.mean:.1f} +- {100 * row.std:.1f} ({row.n})" for row in rows.itertuples()}
    shown = [
        [labels, method, cells[labels, method, True], cells[labels, method, False]] for labels, method, augmented in cells if not augmented
    ]
    robust = []
    for labels in ("hard", "learned"):
        own = rows[(rows.labels == labels) | (rows.method == "whole")]
        known = {
            (row.method, "ConvNet", *([] if row.augmented else ["plain"])): {"mean": row.mean, "soft": labels != "hard"}
            for row in own.itertuples()
        }
        robust += [[labels, *(f"{value:.3f}" for value in found[2:])] for found in report.robust(known)]
    wanted = {
        "labels": tables.markdown(["distill.labels", "set", "test %", "without augmentation"], shown),
        "robustness": tables.markdown(["distill.labels", *report.ROBUST[2:]], robust),
    }
    page = (ROOT / "RESULTS.md").read_text()
    assert runs.shown(page, wanted) == page


def test_the_default_reaches_ninety_percent_and_beats_random_images():
    scores = pd.read_csv(ROOT / "results/scores.csv").set_index(["method", "architecture"])["mean"]
    assert scores["distilled", "ConvNet"] >= 0.9
    assert scores["distilled", "ConvNet"] > scores["random", "ConvNet"]


def test_the_readme_names_the_size_of_what_is_published():
    size = sum(path.stat().st_size for path in (ROOT / "published").rglob("*") if path.is_file())
    assert f"{size / 1e6:.1f} MB" in (ROOT / "README.md").read_text()


def test_the_metrics_are_there_for_scripts():
    metrics = json.loads((ROOT / "results/distill/metrics.json").read_text())
    assert {"loss", "step_size", "clamped", "skipped", "iterations", "validation_accuracy", "best_iteration"} == set(metrics)


def test_every_file_of_the_tree_in_the_readme_is_there():
    tree = (ROOT / "README.md").read_text().split("## Where things are")[1].split("What scripts")[0]
    for name in re.findall(r"\w+\.py\b", tree):
        assert list(ROOT.glob(f"*/{name}")), name


def test_the_moving_picture_is_that_of_the_lock():
    """`cp data/distilled/learning.gif docs/`."""
    outs = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]["distill"]["outs"]
    (wanted,) = [out["md5"] for out in outs if out["path"] == "data/distilled/learning.gif"]
    assert hashlib.md5((ROOT / "docs/learning.gif").read_bytes()).hexdigest() == wanted
