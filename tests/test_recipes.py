"""Every recipe merges, passes the check, says what it costs, and runs through all stages, on a few images in the format of its set."""

import math
import os
import subprocess
from fnmatch import fnmatch
from urllib.error import URLError

import pandas as pd
import pytest
import yaml
from conftest import ROOT, Run
from raw import write_cifar, write_idx, write_imagenet, write_tiny_imagenet

from benchmarks import cost, estimate
from mtt import imageset, whitening
from mtt.vision import torchvision
from recipes import __main__ as recipes
from stages import check

NAMES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
CHANGES = {name: yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text()) for name in NAMES if name != "default"}
BASES = {name: changes.pop("base", "default") for name, changes in CHANGES.items()}


FEW = {"CIFAR100": {"classes": [*range(90, 100)]}, "TinyImageNet": {"classes": [*range(0, 200, 20)]}}  # of sets that have many


class Small(Run):
    """A recipe, so small that it runs in a second or two: ten classes, few epochs, iterations and networks, of width 8.

    `folder` is the current one, in which params.yaml is written. Images of 64 px are not whitened: their map takes 0.6 GB wherever a
    set is kept, and half a minute.
    """

    def __init__(self, name, folder, raw):
        self.folder = folder
        recipes.write(name)
        self.values = yaml.safe_load((folder / "params.yaml").read_text())
        distill, images = self.values["distill"], self.values["prepare"]["set"]
        epochs = distill["expert_epochs"] + (self.values["buffer"]["waypoints"] != "none")  # from way-points start epochs are real
        self.set(
            prepare={
                "raw": str(raw),
                "validation": 0.34,
                "zca": self.values["prepare"]["zca"] and images != "TinyImageNet",
                **FEW.get(images, {}),
            },
            network={"width": 8},
            experts={"count": 2, "epochs": epochs, "difficulty": {"networks": 1, "epochs": 1, "growing": 1}},
            buffer={"snapshots": "all", "segment": 1},
            distill={
                "iterations": 2,
                "syn_steps": 2,
                "max_start_epoch": 1,
                "start_epochs": {"floor": 0, "first": "all"},
                "validate": {"every": 2, "networks": 1, "epochs": 2},
                "ipc": min(distill["ipc"], 2),
                "batch_syn": distill["batch_syn"] if distill["batch_syn"] == "all" else 5,
            },
            baseline={"ipc": min(distill["ipc"], 2)},
            architectures=["ConvNet"],
            evaluate={"networks": 1, "learning_rates": [0.01], "epochs": {"ConvNet": 2}},
            whole={"networks": 1, "learning_rates": [0.01], "epochs": {"ConvNet": 2}},
        )

    def command(self, stage, **item):
        """As dvc.yaml has it, but for where raw images lie."""
        return [self.values["prepare"]["raw"] if word == "raw" else word for word in super().command(stage, **item)]


def by_pixel(pixels):
    """A whitening that is fitted and undone in no time; kornia's takes 20 s at 32 px (the run through DVC has it)."""
    x = pixels.flatten(1)
    return whitening.Whitening(x.mean(0), (1 / (x.std(0) + 0.1)).diag())


def by_division(fitted):
    """The inverse of such a one."""
    return (1 / fitted.matrix.diagonal().double()).diag()


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """A folder with a few images of every set, in its own format: enough of each class for every part."""
    root = tmp_path_factory.mktemp("raw")
    for name in ("MNIST", "FashionMNIST"):
        write_idx(root, name)
    write_cifar(root, "CIFAR10", train_records=10, test_records=10)
    write_cifar(root, "CIFAR100", train_records=300, test_records=100)
    write_tiny_imagenet(root)
    write_imagenet(root, {index for changes in CHANGES.values() for index in changes.get("prepare", {}).get("classes", [])}, train=6)
    return root


@pytest.fixture
def _inside(tmp_path, monkeypatch):
    """Stages run in this process, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTT_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(whitening, "fit", by_pixel)
    monkeypatch.setattr(whitening.Whitening, "inverse", property(by_division))


def looked_at(run):
    """What a run of all stages must leave behind."""
    scores = pd.read_csv(run.folder / "results/scores.csv")
    assert set(scores.method) == {"distilled", "distilled_best_rate", "random", "whole"}
    assert scores["mean"].between(0, 1).all()
    train, found = [imageset.load(run.folder / f"data/{path}.safetensors") for path in ("prepared/train", "distilled/set")]
    assert found.about() == train.about()
    assert len(found.images) == run.values["distill"]["ipc"] * len(train.classes)
    assert found.images.isfinite().all()
    assert (run.folder / "results/distill/images.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES)
def test_the_comparison_methods_have_their_published_settings(name):
    """Outer steps and inner epochs of DC and DSA by images per class; and, but for the digits and two cores, real images and iterations."""
    values = recipes.merged(name)
    ours = values["baseline"]
    for method in ("dc", "dsa"):
        assert (ours[method]["outer"], ours[method]["inner"]) == {1: (1, 1), 10: (10, 50), 50: (50, 10)}[ours["ipc"]]
        assert (ours[method]["iterations"], ours[method]["lr_img"]) == (1000, 0.1)
    if values["prepare"]["set"] != "digits" and not name.endswith("-cpu"):
        assert [ours[method]["batch_real"] for method in ("dc", "dsa", "dm")] == [256, 256, 256]
        assert (ours["dm"]["iterations"], ours["dm"]["lr_img"]) == (20000, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("_inside")
def test_every_recipe_runs_through_all_stages(name, raw, tmp_path):
    recipes.write(name)
    check.main()
    run = Small(name, tmp_path, raw)
    check.main()
    for stage in ("prepare", "experts", "buffer"):
        run(stage)
    for method in run.values["baselines"]:  # one of which may give the images to start from
        run("baseline", method=method)
    run("distill")
    check.main("data/prepared/train.safetensors")
    for method in run.values["methods"]:
        run("evaluate", method=method)
    run("evaluate_whole")
    run("report")
    looked_at(run)


@pytest.mark.parametrize("name", ["mnist-ipc10", "fashion-mnist-ipc1-cpu", "cifar10-ipc1", "tiny-imagenet-ipc10", "imagenet-nette-ipc1"])
@pytest.mark.usefixtures("_inside")
def test_the_comparison_methods_run_with_a_recipes_settings(name, raw, tmp_path):
    """Two iterations of each, of two outer steps where a recipe has several, and fewer real images than it asks for."""
    run = Small(name, tmp_path, raw)
    for method in ("dc", "dsa"):
        ours = run.values["baseline"][method]
        run.set(baseline={method: {"iterations": 2, "outer": min(ours["outer"], 2), "inner": min(ours["inner"], 2)}})
    run.set(baseline={"dm": {"iterations": 2}})
    run("prepare")
    train = imageset.load(tmp_path / "data/prepared/train.safetensors")
    for method in ("random", "herding", "k_center", "dc", "dsa", "dm"):
        run("baseline", method=method)
        found = imageset.load(tmp_path / f"data/{method}/set.safetensors")
        assert found.about() == train.about()
        assert len(found.images) == run.values["baseline"]["ipc"] * len(train.classes)
        assert found.images.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10-ipc1", "tiny-imagenet-ipc1", "imagenet-nette-texture"])
def test_recipes_run_through_dvc(name, raw, tmp_path, monkeypatch):
    """One whitened, one by annotations, one of classes by index that learns canvases."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    for part in ("mtt", "stages", "dvc.yaml"):  # as they stand, so that a test can be tried before a commit
        subprocess.run(["cp", "-r", str(ROOT / part), str(tmp_path / "clone")], check=True)
    monkeypatch.chdir(tmp_path / "clone")
    run = Small(name, tmp_path / "clone", raw)
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "MTT_WORKERS": "1", "MTT_WORK": ""}
    found = subprocess.run(["dvc", "repro"], cwd=run.folder, env=environment, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout + found.stderr
    looked_at(run)


def pairs(changes, values):
    """What a recipe says, and what the default does, key by key."""
    for key, change in changes.items():
        if isinstance(change, dict):
            yield from pairs(change, values[key])
        else:
            yield change, values[key]


# As its author gave them: whether whitened, depth, N, M, T+, synthetic batch, lr of pixels, of alpha, and alpha_0.
PAPER = {
    "cifar10-ipc1": (True, 3, 50, 2, 2, "all", 100, 1e-7, 0.01),
    "cifar10-ipc10": (True, 3, 30, 2, 20, "all", 100, 1e-5, 0.001),
    "cifar10-ipc50": (False, 3, 30, 2, 40, "all", 1000, 1e-5, 0.001),
    "cifar100-ipc1": (True, 3, 20, 3, 20, "all", 1000, 1e-5, 0.01),
    "cifar100-ipc10": (False, 3, 20, 2, 20, "all", 1000, 1e-5, 0.01),
    "cifar100-ipc50": (True, 3, 80, 2, 40, 125, 1000, 1e-5, 0.01),
    "tiny-imagenet-ipc1": (False, 4, 10, 2, 10, "all", 10000, 1e-4, 0.01),
    "tiny-imagenet-ipc10": (False, 4, 20, 2, 40, 200, 10000, 1e-4, 0.01),
    "tiny-imagenet-ipc50": (False, 4, 20, 2, 40, 300, 10000, 1e-4, 0.01),
    "imagenet-*-ipc1": (False, 5, 20, 2, 10, "all", 100000, 1e-6, 0.01),
    "imagenet-*-ipc10": (False, 5, 20, 2, 10, 20, 100000, 1e-6, 0.01),
}
CLASSES = {
    "nette": [0, 217, 482, 491, 497, 566, 569, 571, 574, 701],
    "woof": [193, 182, 258, 162, 155, 167, 159, 273, 207, 229],
    "meow": [281, 282, 283, 284, 285, 291, 292, 290, 289, 287],
    "squawk": [84, 130, 88, 144, 145, 22, 96, 9, 100, 89],
    "fruit": [953, 954, 949, 950, 951, 957, 952, 945, 943, 948],
    "yellow": [309, 986, 954, 951, 987, 779, 599, 291, 72, 11],
}


@pytest.mark.parametrize(("pattern", "settings"), PAPER.items())
def test_the_recipes_of_the_paper_have_its_settings(pattern, settings):
    """And its hundred experts, iterations, starts and protocol."""
    found = [name for name in NAMES if fnmatch(name, pattern)]
    assert len(found) == (len(CLASSES) if "*" in pattern else 1)
    for name in found:
        values = recipes.merged(name)
        distill, experts, scored = values["distill"], values["experts"], values["evaluate"]
        keys = ("syn_steps", "expert_epochs", "max_start_epoch", "batch_syn", "lr_img", "lr_lr", "lr_init")
        assert (values["prepare"]["zca"], values["network"]["depth"], *(distill[key] for key in keys)) == settings
        assert (values["network"]["width"], distill["iterations"], distill["momentum"], distill["start"]) == (128, 5000, 0.5, "real")
        assert f"-ipc{distill['ipc']}" in name
        assert [experts[key] for key in ("count", "epochs", "batch", "learning_rate", "optimizer")] == [100, 50, 256, 0.01, "sgd"]
        assert [scored[key] for key in ("networks", "batch", "momentum", "weight_decay")] == [5, 256, 0.9, 0.0005]
        assert [scored["epochs"][architecture] for architecture in ("ConvNet", "AlexNet", "VGG11", "ResNet18")] == [1000] * 4
        assert values["augmentation"]["families"] == ["color", "crop", "cutout", "flip", "scale", "rotate"]
        if "*" in pattern:
            assert (values["prepare"]["classes"], values["prepare"]["side"]) == (CLASSES[name.split("-")[1]], 128)


LABELS, ANY = {"lr_label": 10, "threshold": 1}, {"start_images": "any"}
# As gathered from the publications, their configurations and commands: N, M, T+, synthetic batch, lr of pixels, of alpha, alpha_0, and what
# is the idea's own.
PUBLISHED = {
    "cifar10-ipc1-ftd": (50, 2, 2, "all", 100, 1e-7, 0.01, {"ema": 0.9999}, {"alpha": 0.3}),
    "cifar10-ipc10-ftd": (30, 2, 20, "all", 100, 1e-5, 0.001, {"ema": 0.9995}, {"alpha": 0.3}),
    "cifar10-ipc50-ftd": (30, 2, 40, "all", 1000, 1e-5, 0.01, {"ema": 0.999}, {"alpha": 1.0}),
    "cifar100-ipc1-ftd": (40, 3, 20, "all", 1000, 1e-5, 0.01, {"ema": 0.9995}, {"alpha": 1.0}),
    "cifar100-ipc10-ftd": (20, 2, 40, "all", 1000, 1e-5, 0.01, {"ema": 0.9995}, {"alpha": 1.0}),
    "cifar100-ipc50-ftd": (80, 2, 40, 1000, 1000, 1e-5, 0.01, {"ema": 0.999}, {"alpha": 1.0}),
    "tiny-imagenet-ipc1-ftd": (30, 2, 10, "all", 10000, 1e-4, 0.01, {"ema": 0.999}, {"alpha": 1.0}),
    "tiny-imagenet-ipc10-ftd": (20, 2, 40, 500, 10000, 1e-4, 0.01, {"ema": 0.999}, {"alpha": 1.0}),
    "cifar10-ipc1-tesla": (50, 2, 5, "all", 500, 1e-7, 0.01, {"gradient": "truncated"}, {}),
    "cifar100-ipc50-tesla": (80, 2, 40, 125, 500, 1e-5, 0.01, {"gradient": "truncated"}, {}),
    "cifar10-ipc1-datm": (80, 2, 4, "all", 100, 1e-7, 0.01, {"lr_label": 5, "first": "all", "threshold": 1.1}, {"alpha": 0.3}),
    "cifar10-ipc10-datm": (
        80,
        2,
        20,
        "all",
        100,
        1e-5,
        0.01,
        {"lr_label": 2, "first": 10, "growing": 1000, "threshold": 1},
        {"alpha": 0.3},
    ),
    "cifar10-ipc50-datm": (
        80,
        2,
        40,
        "all",
        1000,
        1e-5,
        0.01,
        {"lr_label": 2, "first": 20, "growing": 2000, "threshold": 1},
        {"alpha": 0.3},
    ),
    "cifar100-ipc1-datm": (40, 3, 20, "all", 1000, 1e-5, 0.01, {"first": 10, "growing": 1000, **LABELS}, {"epochs": 100}),
    "cifar100-ipc10-datm": (80, 2, 50, 1000, 1000, 1e-5, 0.01, {"first": 30, "growing": 2000, **LABELS}, {"epochs": 100}),
    "cifar100-ipc50-datm": (80, 2, 70, 1000, 1000, 1e-5, 0.01, {"floor": 20, "first": "all", **ANY, **LABELS}, {"epochs": 100}),
    "tiny-imagenet-ipc1-datm": (40, 2, 20, "all", 10000, 1e-4, 0.01, {"first": 15, "growing": 2000, **LABELS}, {"epochs": 100}),
    "tiny-imagenet-ipc10-datm": (40, 2, 50, 500, 100, 1e-4, 0.01, {"floor": 10, "first": "all", **LABELS}, {"epochs": 100}),
    "tiny-imagenet-ipc50-datm": (20, 2, 70, 1000, 100, 1e-4, 0.01, {"floor": 40, "first": "all", **LABELS}, {"epochs": 100}),
    "cifar10-ipc1-att": (80, 4, 2, "all", 100, 1e-7, 0.01, {"stop": "nearest"}, {"batch": 512, "optimizer": "sgd"}),
    "cifar10-ipc10-att": (30, 2, 20, "all", 10000, 1e-4, 0.01, {"stop": "nearest"}, {"batch": 512}),
    "cifar10-ipc50-att": (50, 2, 40, "all", 100, 1e-5, 0.001, {"stop": "nearest"}, {"batch": 512}),
    "cifar100-ipc1-att": (50, 4, 20, "all", 500, 1e-5, 0.01, {"stop": "nearest"}, {"batch": 512}),
    "cifar100-ipc10-att": (20, 2, 40, "all", 1000, 1e-5, 0.01, {"stop": "nearest"}, {"batch": 512}),
    "cifar100-ipc50-att": (80, 2, 40, 1200, 1000, 1e-5, 0.01, {"stop": "nearest"}, {"batch": 512}),
    "tiny-imagenet-ipc1-att": (30, 2, 10, "all", 10000, 1e-4, 0.01, {"stop": "nearest"}, {"batch": 512}),
    "tiny-imagenet-ipc10-att": (20, 2, 40, "all", 10000, 1e-6, 0.001, {"stop": "nearest"}, {"batch": 512}),
}
DATM = {"labels": "learned", "momentum_label": 0.9, "iterations": 10000, "ema": 0.0}
PAD = {"cifar10": (0, 0.25, 0.25), "cifar100": (0, 0.25, 0.5), "tiny-imagenet": (0, 0.25, 0.5)}  # the share of layers left out at 1, 10, 50


@pytest.mark.parametrize("name", [name for name in NAMES if name.rpartition("-")[2] in ("ftd", "tesla", "datm", "att", "pad")])
def test_the_recipes_of_successors_have_the_published_settings(name):
    base, _, idea = name.rpartition("-")
    values = recipes.merged(name)
    distill, experts = values["distill"], values["experts"]
    if idea == "pad":
        left_out = PAD[base.rpartition("-")[0]][(1, 10, 50).index(distill["ipc"])]
        assert (distill["layers"], experts["order"], experts["difficulty"]["growing"]) == (left_out, "difficulty", 20)
    n, m, last, batch, lr_img, lr_lr, lr_init, own, trained = PUBLISHED[f"{base}-datm" if idea == "pad" else name]
    found = [distill[key] for key in ("syn_steps", "expert_epochs", "max_start_epoch", "batch_syn", "lr_img", "lr_lr", "lr_init")]
    assert found == [n, m, last, batch, lr_img, lr_lr, lr_init]
    assert {**distill, **distill["start_epochs"]}.items() >= own.items()
    assert experts.items() >= trained.items()
    if idea in ("datm", "pad"):
        assert values["prepare"]["zca"]
        assert {"start_images": "right", **own}["start_images"] == distill["start_images"]
        assert distill.items() >= DATM.items()
        assert experts.items() >= {"epochs": 100, "alpha": 0.3}.items()
    if idea in ("datm", "pad", "ftd"):
        assert (experts["optimizer"], experts["rho"], experts["learning_rate"]) == ("gsam", 0.01, 0.01)


@pytest.mark.parametrize("name", CHANGES)
def test_a_recipe_holds_what_differs_from_its_base_and_no_more(name):
    """The default, where it names none."""
    assert all(change != value for change, value in pairs(CHANGES[name], recipes.merged(BASES[name])))
    assert all(found == change for change, found in pairs(CHANGES[name], recipes.merged(name)))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_costs_as_the_formulas_have_it(name, tmp_path, monkeypatch):
    """And so does params.yaml once it is that recipe's."""
    assert recipes.heading(name).endswith(cost.comment(name))
    monkeypatch.chdir(tmp_path)
    recipes.write(name)
    written = (tmp_path / "params.yaml").read_text()
    assert written.startswith(recipes.heading(name))
    assert "\n\n# The run. " in written
    assert written.count("# Cost by") == 1


def test_the_cost_of_a_recipe_is_that_of_the_table_of_estimates():
    """CIFAR-10 and Tiny ImageNet at 1 image per class, less the images that are held out to validate."""
    for name, case in (("cifar10-ipc1", estimate.CASES[0]), ("tiny-imagenet-ipc1", estimate.CASES[1])):
        found = cost.cost(recipes.merged(name))
        assert found["parameters"] == case.parameters
        assert found["snapshot"] == estimate.EXPERTS * case.file(1, 4)
        assert found["epoch"] == pytest.approx(0.9 * case.training(2))
        assert found["distillation"] == case.matching()
        assert found["read"] == case.read


@pytest.mark.parametrize("name", NAMES)
def test_the_depth_of_a_recipe_follows_the_side_of_its_images(name):
    """D3 at 28 and 32 px, D4 at 64, D5 at 128, and so on; digits, of 8 px, are beyond the rule."""
    values = recipes.merged(name)
    side = cost.SETS[values["prepare"]["set"]][1] or values["prepare"]["side"]
    assert values["network"]["depth"] == (2 if side == 8 else math.ceil(math.log2(side)) - 2)


@pytest.mark.parametrize(
    "name", ["mnist-ipc1", "fashion-mnist-ipc1", "cifar10-ipc1", "cifar100-ipc1", "tiny-imagenet-ipc1", "imagenet-nette-ipc1"]
)
@pytest.mark.usefixtures("_inside")
def test_a_recipe_without_its_data_says_in_one_line_what_to_put_where(name, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fail)
    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fail)
    run = Small(name, tmp_path, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="put ") as caught:
        run("prepare")
    assert str(caught.value).startswith(str(tmp_path / "nowhere"))
    assert "\n" not in str(caught.value)
    assert run.files("data/**/*") == {}


def test_an_unknown_recipe_or_key_is_refused():
    with pytest.raises(ValueError, match="found NAME=cifar11; wanted one of cifar10-ipc1, "):
        recipes.merged("cifar11")
    with pytest.raises(ValueError, match="recipes/x.yaml: distill.syn_stepz: unknown key"):
        recipes.update(recipes.merged("default"), {"distill": {"syn_stepz": 1}}, "recipes/x.yaml: ")


def test_a_recipe_may_score_on_a_network_of_which_the_default_has_no_epochs():
    values = recipes.merged("default")
    recipes.update(values, {"evaluate": {"epochs": {"LeNet": 100}}, "whole": {"epochs": {"MLP": 5}}}, "recipes/x.yaml: ")
    assert values["evaluate"]["epochs"]["ConvNet"] == 300
    assert values["evaluate"]["epochs"]["LeNet"] == 100
    assert values["whole"]["epochs"]["MLP"] == 5
    for changes in ({"evaluate": {"epochz": 1}}, {"experts": {"LeNet": 1}}, {"evaluate": {"epochs": {"LeNt": {"x": 1}}}}):
        with pytest.raises(ValueError, match="unknown key"):
            recipes.update(recipes.merged("default"), changes, "")


def test_the_committed_params_equal_the_default():
    committed = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert committed == (ROOT / "recipes/default.yaml").read_text()
