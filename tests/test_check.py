import multiprocessing.spawn
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from conftest import ROOT

from mtt import imageset
from stages import check, report


def faults(run):
    with pytest.raises(ValueError, match=r"params\.yaml") as error:
        check.main()
    return str(error.value)


def test_the_default_passes(make_run):
    make_run()
    check.main()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"distill": {"syn_stepz": 80}}, "distill.syn_stepz = 80: unknown key"),
        ({"distill": {"syn_steps": "many"}}, "distill.syn_steps = 'many'"),
        ({"distill": {"lr_lr": "0.1"}}, "in quotes it is a word: write it without"),
        ({"distill": {"validate": {"every": -1}}}, "distill.validate.every = -1"),
        ({"evaluate": {"networks": 0}}, "evaluate.networks = 0"),
        ({"architectures": ["ConvNet", "LeNet5"]}, "architectures.1 = 'LeNet5'"),
        ({"methods": ["distilled", "random", "random"]}, "each name once"),
        ({"experts": {"epochs": 2}}, "wanted at least distill.max_start_epoch + distill.expert_epochs - 1 = 3"),
        ({"buffer": {"snapshots": 3}}, "buffer.snapshots = 3; wanted at least"),
        ({"buffer": {"snapshots": 30}}, "at most experts.epochs + 1 = 4"),
        ({"buffer": {"dtype": "float8"}}, "buffer.dtype = 'float8': Input should be 'float32', 'bfloat16' or 'float16'"),
        ({"baseline": {"ipc": 2}}, "baseline.ipc = 2; wanted distill.ipc = 1"),
        ({"baselines": []}, r"['random'] too, as methods has it"),
        (
            {"distill": {"images": "data/k_center/set.safetensors"}},
            "baselines = ['random']; wanted k_center too, whose set distill.images is",
        ),
        ({"baselines": ["random", "gm"]}, "baselines.1 = 'gm'"),
        ({"relabelled": ["random_soft"]}, "relabelled = ['random_soft']; wanted [] with distill.labels = hard"),
        ({"methods": ["random_soft"]}, "relabelled = []; wanted ['random_soft'] too, as methods has it"),
        (
            {"relabelled": ["distilled_hard"], "distill": {"labels": "learned"}, "methods": ["distilled"], "baselines": []},
            "baselines = []; wanted random too, with relabelled",
        ),
        ({"baselines": ["random", "dsa"], "augmentation": {"families": []}}, "augmentation.families = []; wanted one at least for dsa"),
        ({"baseline": {"dsa": {"outer": 0}}}, "baseline.dsa.outer = 0"),
        ({"baseline": {"random": {"epochs": 1}}}, "baseline.random.epochs = 1: unknown key"),
        ({"evaluate": {"learning_rates": [-0.1]}}, "evaluate.learning_rates.0 = -0.1"),
        ({"architectures": ["VGG11"], "evaluate": {"epochs": {"VGG11": 1}}}, "evaluate.epochs.VGG11 = 1"),
        ({"prepare": {"classes": [0, 10]}}, "prepare.classes = [0, 10]; wanted no 10: digits has the classes 0 to 9"),
        ({"distill": {"batch_syn": 11}}, "distill.batch_syn = 11; wanted at most the 10 images of the set"),
        ({"prepare": {"zca": 1}}, "prepare.zca = 1: Input should be a valid boolean"),
        (
            {"prepare": {"zca": True, "set": "folder", "side": 128}},
            "prepare.side = 128; wanted at most 64 with prepare.zca: the covariance",
        ),
        ({"prepare": {"zca": True}, "distill": {"canvas_size": 2}}, "distill.canvas_size = 2; wanted 1 with prepare.zca"),
        (
            {"distill": {"canvas_size": 2, "images": "data/herding/set.safetensors"}, "baselines": ["random", "herding"]},
            "distill.images = 'data/herding/set.safetensors'; wanted no set of a method with distill.canvas_size > 1",
        ),
        ({"distill": {"canvas_size": 0}}, "distill.canvas_size = 0: Input should be greater than or equal to 1"),
        ({"distill": {"canvas_size": 0.5}}, "distill.canvas_size = 0.5: Input should be a valid integer"),
        ({"distill": {"canvas_samples": 2}}, "distill.canvas_samples = 2; wanted 1 with distill.canvas_size = 1"),
        ({"architectures": ["ViT"]}, "those of ['ViT'] too"),
        ({"evaluate": {"epochs": {"Convnet": 3}}}, "evaluate.epochs.Convnet = 3; wanted one of ConvNet, AlexNet, "),
        ({"architectures": ["ConvNet"], "robustness_architectures": ["VGG11"]}, "wanted no ['VGG11'], which architectures has not"),
        ({"surplus": 1}, "params.yaml: surplus: unknown key"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named_in_one_line(make_run, change, says):
    run = make_run()
    run.set(**change)
    found = faults(run)
    assert says in found
    assert len(found.splitlines()) == 1


def test_a_missing_section_is_named(make_run):
    run = make_run()
    del run.values["evaluate"]
    run.set()
    assert "found no evaluate" in faults(run)


def test_more_images_per_class_than_there_are_is_refused_before_experts_are_trained(make_run):
    run = make_run()
    run("prepare")
    run.set(distill={"ipc": 500}, baseline={"ipc": 500})
    with pytest.raises(ValueError, match=r"distill.ipc = 500; wanted at most \d+, the images of class"):
        check.main("data/prepared/train.safetensors")
    run.set(distill={"ipc": 50, "canvas_size": 2}, baseline={"ipc": 50})
    with pytest.raises(ValueError, match=r"distill.ipc x distill.canvas_size\^2 = 200; wanted at most \d+, the images of class"):
        check.main("data/prepared/train.safetensors")
    run.set(distill={"ipc": 1, "canvas_size": 1, "batch_syn": 11}, baseline={"ipc": 1})
    with pytest.raises(ValueError, match="distill.batch_syn = 11; wanted at most the 10 images of the set"):
        check.main("data/prepared/train.safetensors")


def test_noise_needs_no_real_images_but_the_methods_beside_it_do(make_run):
    run = make_run()
    run("prepare")
    run.set(distill={"ipc": 500, "start": "noise"}, baseline={"ipc": 500}, baselines=["random", "dc"])
    with pytest.raises(ValueError, match=r"baselines = \['random'\]; wanted \[dc\] or none with baseline.ipc = 500: class .* has \d+"):
        check.main("data/prepared/train.safetensors")
    run.set(baselines=["dc"], methods=["distilled", "dc"])
    check.main("data/prepared/train.safetensors")


def test_a_set_to_start_from_that_the_run_cannot_use_is_refused_before_it(ready):
    found = imageset.load("data/prepared/train.safetensors")
    replace(found, images=found.normalised()).save("learned.safetensors")
    for loss in ("logits", "task"):
        ready.set(distill={"loss": loss})
        with pytest.raises(ValueError, match=f"distill.loss = '{loss}'; wanted a set of real images for it, these were learned"):
            check.main("learned.safetensors")
    replace(found, images=found.images.tile(1, 1, 2, 2), canvas_size=2).save("canvases.safetensors")
    ready.set(distill={"loss": "match"})
    with pytest.raises(ValueError, match="distill.canvas_size = 1; wanted 2, as the set has it, or a set of images"):
        check.main("canvases.safetensors")
    ready.set(distill={"canvas_size": 2})
    check.main("canvases.safetensors")


def test_stages_that_begin_work_or_end_it_check_first():
    """Those with images to start from or to compare, against what is there of each class."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    train, words = "data/prepared/train.safetensors", "exec python -m stages.check{} then stages.{} "
    for stage, images in {
        "prepare": "",
        "experts": f" {train}",
        "distill": ' "${distill.images}"',
        "baseline": f" {train}",
        "report": "",
    }.items():
        assert stages[stage]["cmd"].startswith(words.format(images, stage))


@pytest.mark.slow
def test_a_wrong_key_ends_with_one_line_and_status_one(make_run):
    run = make_run()
    run.set(distill={"syn_stepz": 80})
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-m", "stages.check"], cwd=run.folder, env=environment, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr == "error: params.yaml: distill.syn_stepz = 80: unknown key\n"


def test_what_stands_behind_then_is_what_workers_are_told_to_load(monkeypatch):
    """They load `__main__` by its name; with the check there, each would load every stage."""
    seen, told = [], multiprocessing.spawn.get_preparation_data
    monkeypatch.setattr(report, "main", lambda *words: seen.append((told("worker")["init_main_from_name"], words)))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "argv", sys.argv)
    check.become("stages.report", "results/scores", "scores.csv")
    assert seen == [("stages.report", ("results/scores", "scores.csv"))]


@pytest.mark.slow
def test_behind_then_a_stage_is_run_if_nothing_is_wrong(make_run):
    run = make_run()
    words = [sys.executable, "-m", "stages.check", "then", *run.command("prepare")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for value, error in ((0.2, ""), (2.0, "error: params.yaml: prepare.validation = 2.0: Input should be less than 1\n")):
        run.set(prepare={"validation": value})
        found = subprocess.run(words, cwd=run.folder, env=environment, capture_output=True, text=True)
        assert (found.returncode, found.stderr) == (bool(error), error)
        assert bool(run.files("data/prepared/*")) == (not error)
        shutil.rmtree(run.folder / "data", ignore_errors=True)
