"""Distilled sets in other people's hands."""

import hashlib
import json
import os
import re
import subprocess
from copy import deepcopy
from dataclasses import replace
from functools import partial

import nbformat
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT
from nbclient import NotebookClient
from PIL import Image
from sklearn.datasets import load_digits

from mtt import distilled, dsa, exporting, imageset, params, trajectory
from mtt.convnet import ConvNet
from mtt.functional import learner
from mtt.imageset import ImageSet
from mtt.seeds import generator
from mtt.training import fit, halves
from mtt.vision import torchvision
from mtt.whitening import fit as fit_whitening
from stages.distill import Distill

DIGITS = ROOT / "sets/digits-ipc1.safetensors"


def learned(**changes):
    """Six grey images of three classes, partly beyond black and white."""
    images = torch.randn(6, 1, 8, 8, generator=generator("learned"))
    provenance = {"augmentation": {"families": ["crop", "color"]}, "distill": {"validate": {"epochs": 6, "batch": 4, "momentum": 0.8}}}
    found = ImageSet(images, torch.tensor([0, 0, 1, 1, 2, 2]), "toy", ["ant", "bee/wasp", "cow"], [0.5], [0.25], 0.02, provenance)
    return replace(found, **changes)


SOFT = torch.tensor([[0.7, 0.2, 0.1]] * 2 + [[0.1, 0.8, 0.1]] * 2 + [[0.0, 0.25, 0.75]] * 2)


def saved(folder, **changes):
    """The path of such a set."""
    learned(**changes).save(folder / "set.safetensors")
    return folder / "set.safetensors"


def test_a_set_is_a_dataset_of_what_a_network_takes(tmp_path):
    """A DataLoader gives batches of images and class indices, or of probabilities."""
    for labels, wanted in ((learned().labels, torch.int64), (SOFT, torch.float32)):
        data = distilled.load(saved(tmp_path, labels=labels))
        x, y = next(iter(torch.utils.data.DataLoader(data, batch_size=6)))
        assert torch.equal(x, learned().images)
        assert torch.equal(y, labels)
        assert y.dtype == wanted


def test_other_pictures_are_prepared_as_the_sets_own(tmp_path):
    """Larger ones, in colour: resized, cropped, made grey and normalised; whitened for a whitened set."""
    data = distilled.load(saved(tmp_path))
    level = Image.new("RGB", (24, 16), (51, 51, 51))
    assert torch.allclose(data.transform(level), torch.full((1, 8, 8), (0.2 - 0.5) / 0.25))
    glass = Image.new("RGBA", (8, 8), (0, 0, 0, 0))  # on white, as in a set of such files
    assert torch.allclose(data.transform(glass), torch.full((1, 8, 8), (1 - 0.5) / 0.25))
    others = torch.rand(80, 1, 8, 8, generator=generator("others"))
    white = distilled.load(saved(tmp_path, whitening=fit_whitening(others), mean=[0.0], std=[1.0]))
    assert torch.allclose(white.transform(level), white.whitening.forward(torch.full((1, 1, 8, 8), 0.2))[0])
    assert torch.allclose(white.whitening.back(white.transform(level)[None]), torch.full((1, 1, 8, 8), 0.2), atol=1e-4)


@pytest.mark.parametrize("labels", [learned().labels, SOFT], ids=["hard", "soft"])
def test_training_is_the_protocol_of_the_evaluation(tmp_path, labels):
    """A ConvNet ends where the evaluation's own code leads it, in float64, with the same draws."""
    data, net = distilled.load(saved(tmp_path, labels=labels)), ConvNet(1, 8, 3, 4, 2).double()
    data.images, data.labels = data.images.double(), labels.double() if labels.ndim > 1 else labels
    draws, theta, gradient = generator("train", 3), trajectory.vector(net)[None].clone(), learner(deepcopy(net))
    for epochs, rate in halves(6, 0.02):
        fit(
            gradient, theta, data.images, data.labels, epochs=epochs, batch=4, learning_rate=rate, momentum=0.8, weight_decay=0.0005,
            augment=partial(dsa.augment, families=["crop", "color"]), generators=[draws],
        )  # fmt: skip
    assert distilled.train(net, data, seed=3) is net
    assert not net.training
    assert torch.allclose(trajectory.vector(net), theta[0], rtol=1e-9, atol=1e-12)


def test_without_a_step_size_one_is_asked_for(tmp_path):
    data, net = distilled.load(saved(tmp_path, learning_rate=None)), ConvNet(1, 8, 3, 4, 2)
    with pytest.raises(ValueError, match=r"this set of toy has no learned step size; wanted train\(..., learning_rate=0.01\)"):
        distilled.train(net, data)
    before = trajectory.vector(net).clone()
    distilled.train(net, data, learning_rate=0.1, epochs=2)
    assert not torch.equal(trajectory.vector(net), before)


def test_a_set_that_says_nothing_is_trained_on_by_the_papers_protocol_without_augmentation(tmp_path):
    data = distilled.load(saved(tmp_path, provenance={}))
    assert data.protocol == {"epochs": 1000, "batch": 256, "momentum": 0.9, "weight_decay": 0.0005}
    assert data.families == []


def test_canvases_are_cropped_for_a_network(tmp_path):
    canvases = {"images": torch.randn(6, 1, 16, 16, generator=generator("canvases")), "canvas_size": 2, "canvas_samples": 3}
    data = distilled.load(saved(tmp_path, **canvases))
    assert {tuple(data[0][0].shape) for _ in range(3)} == {(1, 8, 8)}
    assert len({float(data[0][0][0, 0, 0]) for _ in range(20)}) > 1
    net = ConvNet(1, 8, 3, 4, 2)
    before = trajectory.vector(net).clone()
    distilled.train(net, data, epochs=2)
    assert not torch.equal(trajectory.vector(net), before)


def export(path, folder, *flags):
    exporting.main("export", str(path), str(folder), *flags)
    return folder


def level(path):
    with Image.open(path) as opened:
        return torch.tensor(list(opened.get_flattened_data())) / 255


@pytest.mark.parametrize("soft", [False, True])
def test_exported_pictures_lie_in_a_folder_for_each_class_with_a_list(tmp_path, soft, capsys):
    """Names of classes become names of folders; what was clipped is said; the set itself lies beside them."""
    path = saved(tmp_path, **({"labels": SOFT} if soft else {}))
    folder = export(path, tmp_path / "out")
    rows = pd.read_csv(folder / "labels.csv").to_dict("records")
    assert [row["class"] for row in rows] == ["ant", "ant", "bee/wasp", "bee/wasp", "cow", "cow"]
    assert rows[3]["file"] == "001-bee-wasp/00003.png"
    for row, pixels in zip(rows, learned().pixels(), strict=True):
        assert (level(folder / row["file"]) - pixels.flatten()).abs().max() <= 0.5 / 255 + 1e-6
    assert [rows[4][f"p{label}"] for label in range(3)] == [0.0, 0.25, 0.75] if soft else set(rows[0]) == {"file", "label", "class"}
    assert (folder / "set.safetensors").read_bytes() == path.read_bytes()
    assert "% of the pixels are clipped to 0..255" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
def test_hugging_faces_library_opens_an_exported_set(tmp_path, soft, monkeypatch):
    """Offline: images, class indices with their names, probabilities."""
    folder = export(saved(tmp_path, **({"labels": SOFT} if soft else {})), tmp_path / "out", "--huggingface")
    program = f"""
import datasets, json
found = datasets.load_dataset({str(folder)!r}, split="train", cache_dir={str(tmp_path / "cache")!r})
print(json.dumps([found.features["label"].names, found["label"][:], [list(image.get_flattened_data()) for image in found["image"]],
                  found["probabilities"][:] if "probabilities" in found.features else None]))
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    found = subprocess.run(["python", "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    names, labels, images, probabilities = json.loads(found.stdout.splitlines()[-1])
    assert (names, labels) == (["ant", "bee/wasp", "cow"], [0, 0, 1, 1, 2, 2])
    assert (torch.tensor(images) / 255 - learned().pixels().flatten(1)).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.allclose(torch.tensor(probabilities), SOFT) if soft else probabilities is None


def test_an_export_goes_nowhere_where_something_is_and_its_command_line_is_checked(tmp_path):
    path = saved(tmp_path)
    for place, found in ((tmp_path, "files there"), (path, "a file")):
        with pytest.raises(ValueError, match=f"found {found}; wanted a new folder, or an empty one"):
            export(path, place)
    for words in ([], ["show", "a", "b"], ["export", "a"], ["export", "a", "b", "--zip"]):
        with pytest.raises(ValueError, match=r"the command line: found .*; wanted export SET FOLDER \[--huggingface\]"):
            exporting.main(*words)


def test_pictures_of_real_pixels_are_exact(tmp_path, capsys):
    images = torch.randint(256, (6, 3, 8, 8), generator=generator("real")).to(torch.uint8)
    folder = export(saved(tmp_path, images=images, mean=[0.5] * 3, std=[0.25] * 3), tmp_path / "out")
    assert "all pixels are exact" in capsys.readouterr().out
    for image, path in zip(images, sorted(folder.glob("*/*.png")), strict=True):
        with Image.open(path) as opened:
            assert torch.equal(torchvision.transforms.functional.pil_to_tensor(opened), image)


def test_the_published_digits_are_the_defaults_of_the_lock_with_its_scores():
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]["distill"]["outs"]
    (wanted,) = [out["md5"] for out in lock if out["path"] == "data/distilled/set.safetensors"]
    assert hashlib.md5(DIGITS.read_bytes()).hexdigest() == wanted
    about = json.loads(DIGITS.with_suffix(".json").read_text())
    assert about["distill"] == json.loads((ROOT / "results/distill/metrics.json").read_text())
    scores = {(row["method"], row["architecture"]): row["mean"] for row in about["scores"]}
    rows = pd.read_csv(ROOT / "results/scores.csv").itertuples()
    assert scores == {(row.method, row.architecture): pytest.approx(row.mean) for row in rows}


def test_the_published_digits_say_what_they_were_made_with_as_the_code_writes_it_now():
    """Or a fresh clone's first run would give other bytes than the lock names."""
    found = imageset.load(DIGITS).provenance["distill"]
    assert found == params.read("distill", Distill, ROOT / "recipes/default.yaml").model_dump(by_alias=True)


@pytest.mark.parametrize("page", ["README.md", "docs/using-a-set.md"])
def test_the_lines_of_the_pages_train_a_network(page, monkeypatch):
    """They are given a network, and digits that it has not seen."""
    monkeypatch.chdir(ROOT)
    (lines,) = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    digits = load_digits()
    images = torch.tensor((digits.images * 255 / 16).round(), dtype=torch.uint8).unsqueeze(1)
    torch.manual_seed(0)
    given = {"network": ConvNet(1, 8, 10, width=32, depth=1), "images": images, "labels": torch.tensor(digits.target)}
    exec(lines, given)
    assert eval(lines.splitlines()[-1], given) > 0.8


@pytest.mark.slow
def test_the_notebook_runs_and_says_what_it_shows():
    """From start to end in a kernel of its own; ten distilled images are worth far more than ten real ones.

    Each accuracy is within five points of what stands there: rounding alone, other on each kind of processor, has made two.
    """
    notebook = nbformat.read(ROOT / "examples/use_a_set.ipynb", as_version=4)
    wanted = accuracies(notebook)
    NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(ROOT / "examples")}}).execute()
    found = accuracies(notebook)
    assert len(found) == len(wanted) == 2
    assert found[0] > found[1] + 0.1
    assert found == pytest.approx(wanted, abs=0.05)


def accuracies(notebook):
    """The percentages that a notebook prints, as fractions."""
    texts = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stdout"]
    return [float(text.split("%")[0]) / 100 for text in texts if "%" in text[:6]]


@pytest.mark.slow
def test_dvc_get_and_import_bring_a_set_from_the_repositorys_url(tmp_path):
    """Into a folder, and into another repository, where it is tracked with where it came from."""
    names = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **names}

    def call(*words):
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    call("git", "clone", "--quiet", str(ROOT), "theirs")
    call("git", "init", "--quiet")
    call("dvc", "init", "--quiet")
    call("dvc", "get", str(tmp_path / "theirs"), "sets/digits-ipc1.safetensors", "-o", "got.safetensors")
    call("dvc", "import", str(tmp_path / "theirs"), "sets/digits-ipc1.safetensors")
    for name in ("got.safetensors", "digits-ipc1.safetensors"):
        assert (tmp_path / name).read_bytes() == DIGITS.read_bytes()
    assert "rev_lock" in (tmp_path / "digits-ipc1.safetensors.dvc").read_text()
    assert imageset.load(tmp_path / "got.safetensors").classes == [str(digit) for digit in range(10)]
