"""All stages, tiny."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from conftest import ROOT
from PIL import Image

from mtt import imageset, tensorfile, trajectory
from mtt.buffer import Buffer
from mtt.imageset import ImageSet
from mtt.robustness import augmentation_robust, label_robust
from mtt.workers import made_with
from stages import buffer, check, evaluate, report
from stages.report import COLUMNS, ROBUST

pytestmark = pytest.mark.slow


@pytest.fixture
def run(make_run):
    """A run whose images are prepared."""
    run = make_run()
    run("prepare")
    return run


def start(run, stage, method="random", **environment):
    """A stage in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", *run.command(stage, method=method)]
    return subprocess.Popen(command, cwd=run.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process):
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_all_stages_from_images_to_the_table(ready, capsys):
    """What scripts read is there: the set, the metrics, a row for each method and architecture with the fixed columns."""
    ready("distill")
    ready("baseline")
    for method in ("distilled", "random"):
        for architecture in ("ConvNet", "AlexNet"):
            ready("evaluate", method=method, architecture=architecture)
    ready("evaluate_whole")
    ready.set(robustness_architectures=["ConvNet"])
    for method in ("distilled", "random"):
        ready("evaluate_plain", method=method)
    ready("report")
    scores = pd.read_csv("results/scores.csv")
    assert list(scores.columns) == ["method", "architecture", "mean", "std", "n"]
    cells = {(method, architecture) for method in ("distilled", "distilled_best_rate", "random") for architecture in ("ConvNet", "AlexNet")}
    assert {(row.method, row.architecture) for row in scores.itertuples()} == cells | {("whole", "ConvNet")}
    assert scores["mean"].between(0, 1).all()
    robust, mean = pd.read_csv("results/robustness.csv").set_index(["method", "architecture"]), scores.set_index(COLUMNS[:2])["mean"]
    assert list(robust.index) == [("distilled", "ConvNet"), ("distilled", "AlexNet")]
    found, other = robust.loc["distilled", "ConvNet"], robust.loc["distilled", "AlexNet"]
    assert pytest.approx(mean["whole", "ConvNet"] - mean["distilled", "ConvNet"], abs=1e-5) == found.HLR
    assert pytest.approx(mean["distilled", "ConvNet"] - mean["random", "ConvNet"], abs=1e-5) == found.IOR
    assert found[["LRS", "ARS"]].between(0, 1).all()
    assert other.drop("IOR").isna().all()
    assert "ARS" in capsys.readouterr().out
    ready.set(architectures=["ConvNet"], robustness_architectures=[], whole_architectures=[])
    ready("report")
    assert set(pd.read_csv("results/scores.csv").architecture) == {"ConvNet"}
    assert pd.read_csv("results/robustness.csv").dropna(axis=1).columns.tolist() == ["method", "architecture", "IOR"]
    distilled = imageset.load("data/distilled/set.safetensors")
    assert distilled.images.shape == (10, 1, 8, 8)
    assert distilled.learning_rate == json.loads((ready.folder / "results/distill/metrics.json").read_text())["step_size"]
    assert len(pd.read_csv("results/distill/curves.csv")) == 4
    assert [path.stem for path in sorted(Path("data/distilled/history").iterdir())] == ["000000", "000001", "000002", "000003", "000004"]
    for path in (*Path("results/distill").glob("*.png"), *Path("data/distilled/history").iterdir(), Path("data/distilled/learning.gif")):
        with Image.open(path) as opened:
            assert opened.size == (684, 72), path


@pytest.mark.parametrize("architecture", ["LeNet", "MLP", "ConvNetBN", "ResNet18BN", "ViT"])
def test_an_architecture_that_is_off_by_default_is_scored_alone_and_together(run, architecture, monkeypatch):
    """Fresh networks trained as one score as each of them alone, to rounding."""
    run.set(evaluate={"networks": 2, "epochs": {architecture: 2}, "learning_rates": [0.01]})
    run("baseline")
    found = {}
    for together in ("1", "2"):
        monkeypatch.setenv("MTT_TOGETHER", together)
        run("evaluate", architecture=architecture)
        found[together] = json.loads((run.folder / f"results/scores/random-{architecture}.json").read_text())["accuracies"]
    assert found["1"] == pytest.approx(found["2"], abs=0.02)
    assert all(0 <= accuracy <= 1 for accuracy in found["1"])


def test_a_learned_step_size_that_is_also_a_rate_of_the_list_is_tried_once(run, monkeypatch):
    """As float32 it is not quite that rate."""
    run.set(evaluate={"learning_rates": [0.01, 0.1]})
    run("baseline")
    found = imageset.load("data/random/set.safetensors")
    found.learning_rate = float(torch.tensor(0.01))
    found.save("data/random/set.safetensors")
    tried, pool = [], evaluate.workers.pool

    @contextmanager
    def noted(most):
        with pool(most) as each:
            yield lambda functions, tasks, *words: (tried.append(len(tasks)), each(functions, tasks, *words))[1]

    monkeypatch.setattr(evaluate.workers, "pool", noted)
    run("evaluate")
    scores = json.loads((run.folder / "results/scores/random-ConvNet.json").read_text())
    assert list(scores["validation"]) == ["0.01", "0.1"]
    assert tried[0] == 2


def test_plain_is_the_evaluation_without_augmentation_and_no_other_word_is_taken(run):
    run("baseline")
    run("evaluate_plain")
    run("evaluate")
    augmented = (run.folder / "results/scores/random-ConvNet.json").read_text()
    run.set(augmentation={"families": []})
    run("evaluate")
    plain = (run.folder / "results/scores/random-ConvNet-plain.json").read_text()
    assert plain == (run.folder / "results/scores/random-ConvNet.json").read_text() != augmented
    with pytest.raises(ValueError, match=r"found plane; wanted plain \(without augmentation\) or nothing after out.json"):
        evaluate.main("random", "ConvNet", "evaluate", "set", "validation", "test", "out.json", "plane")


def robust(**means):
    """The rows of report.robust where methods have these means on MLP: NAME_s of soft labels, NAME_plain without augmentation."""
    cells = {}
    for words, mean in means.items():
        method, plain = words.removesuffix("_plain"), words.endswith("_plain") * ("plain",)
        cells[method.removesuffix("_s"), "MLP", *plain] = {"mean": mean, "soft": method.endswith("_s")}
    return pd.DataFrame(report.robust(cells), columns=ROBUST).set_index("method")


def test_cells_that_are_not_there_leave_robustness_empty():
    found = robust(dm=0.6, distilled_s=0.7, random=0.4, whole=0.9)
    assert found.index.tolist() == ["dm", "distilled"]
    assert found.loc["dm", ["HLR", "IOR"]].tolist() == pytest.approx([0.3, 0.2])
    assert found.notna().sum(axis=1).tolist() == [4, 1], "what random images with classes reach says nothing of soft labels"


def test_soft_labels_are_held_against_classes_alone_and_against_random_images_with_soft_labels():
    plain = {"distilled_s_plain": 0.6, "distilled_hard_plain": 0.5, "random_plain": 0.3, "random_soft_s_plain": 0.55}
    found = robust(distilled_s=0.7, distilled_hard=0.65, random=0.4, random_soft_s=0.6, whole=0.9, **plain)
    assert found.index.tolist() == ["distilled"]
    hlr, ior = 0.9 - 0.65, 0.7 - 0.6
    wanted = [hlr, ior, label_robust(hlr, ior), augmentation_robust(ior, 0.6 - 0.55)]
    assert found.loc["distilled", ROBUST[2:]].tolist() == pytest.approx(wanted)


def test_growing_from_two_to_four_experts_trains_two(run):
    run("experts")
    before = {path.name: path.stat().st_ino for path in run.folder.glob("data/experts/*")}
    run.set(experts={"count": 4})
    run("experts")
    after = {path.name: path.stat().st_ino for path in run.folder.glob("data/experts/*")}
    assert len(after) == 4
    assert before.items() < after.items()
    run.set(experts={"count": 2})
    run("experts")
    assert {path.name: path.stat().st_ino for path in run.folder.glob("data/experts/*")} == before


def test_two_processes_with_one_seed_write_the_same_bytes_whatever_the_number_of_workers(make_run):
    found = []
    for number in ("1", "2"):
        run = make_run(f"with {number}")
        for stage in ("prepare", "experts", "buffer", "distill"):
            finished(start(run, stage, MTT_WORKERS=number, MTT_WORK=str(run.folder / "work")))
        found.append({path: hashlib.sha256(data).hexdigest() for path, data in run.files("data/**/*.*").items()})
    assert len(found[0]) == 3 + 2 + 3 + 3 + 5  # prepared, experts, buffer, distilled, its history
    assert found[0] == found[1]


def test_killed_experts_resume(run):
    """Killed after the first is finished, the next run trains the others; all are those of an undisturbed run."""
    run.set(experts={"count": 5, "epochs": 8})
    first = start(run, "experts", MTT_WORKERS="1")
    wait_for(lambda: list(run.folder.glob("work/experts/*/0000.safetensors")), first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    done = {path: path.stat().st_mtime_ns for path in run.folder.glob("work/experts/*/*.safetensors")}
    assert 1 <= len(done) < 5
    assert f"{len(done)} of 5 experts are there" in finished(start(run, "experts"))
    assert {path: path.stat().st_mtime_ns for path in done} == done
    resumed = run.files("data/experts/*")
    finished(start(run, "experts", MTT_WORK=str(run.folder / "undisturbed")))
    assert run.files("data/experts/*") == resumed
    assert len(resumed) == 5


def test_an_expert_goes_on_from_the_middle(run):
    """A half-trained expert's file, with the epochs so far, gives the bytes of one trained in one go."""
    run("experts")
    whole = run.folder / "data/experts/0000.safetensors"
    wanted = whole.read_bytes()
    stored = next(run.folder.glob("work/experts/*/0000.safetensors"))
    half = trajectory.load(stored)
    header = {key: value for key, value in half.header.items() if key != "kind"}
    how = {"made_with": made_with({"compiled": False, "together": 1}) | {"threads": 1}}
    trajectory.save(stored.with_suffix(".part"), list(half[:3]), {**header, **how, "accuracy": header["accuracy"][:3]})
    stored.unlink()
    whole.unlink()
    run("experts")
    assert whole.read_bytes() == wanted
    assert not stored.with_suffix(".part").exists()


def test_an_expert_that_goes_on_in_another_way_says_so(run, capfd):
    run.set(experts={"epochs": 1})
    run("experts")
    stored = next(run.folder.glob("work/experts/*/0000.safetensors"))
    half = trajectory.load(stored)
    header = {key: value for key, value in half.header.items() if key != "kind"}
    trajectory.save(
        stored.with_suffix(".part"), list(half[:1]), {**header, "made_with": {"threads": 64}, "accuracy": header["accuracy"][:1]}
    )
    stored.unlink()
    run("experts")
    assert "warning: it was made with {'threads': 64}, now" in capfd.readouterr().err


def test_distill_and_evaluation_compiled_and_together_give_the_same(ready):
    """To rounding: images, step size, and the accuracies of networks trained on one set."""
    found = {}
    for name, how in {"plain": {"MTT_COMPILE": "0"}, "other": {"MTT_COMPILE": "1", "MTT_TOGETHER": "2", "MTT_WORKERS": "1"}}.items():
        output = finished(start(ready, "distill", MTT_WORK=str(ready.folder / name), **how))
        finished(start(ready, "evaluate", method="distilled", **how))
        assert "warning" not in output
        scores = json.loads((ready.folder / "results/scores/distilled-ConvNet.json").read_text())
        found[name] = imageset.load("data/distilled/last.safetensors"), scores["accuracies"]
    assert torch.allclose(found["plain"][0].images, found["other"][0].images, atol=1e-4)
    assert found["plain"][0].learning_rate == pytest.approx(found["other"][0].learning_rate, rel=1e-5)
    assert found["plain"][1] == pytest.approx(found["other"][1], abs=0.01)


def test_distill_keeps_cudas_convolutions_in_float32(ready, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    ready("distill")
    assert not torch.backends.cudnn.allow_tf32


def test_distill_goes_on_and_equals_a_run_in_one_go(ready):
    """2 -> 4 iterations goes on from 2; going back to 2 takes what was there."""
    ready("distill")
    wanted = ready.files("data/distilled/**/*") | ready.files("results/distill/*")
    shutil.rmtree(ready.folder / "work/distill")
    ready.set(distill={"iterations": 2})
    ready("distill")
    assert len(pd.read_csv("results/distill/curves.csv")) == 2
    ready.set(distill={"iterations": 4})
    ready("distill")
    assert ready.files("data/distilled/**/*") | ready.files("results/distill/*") == wanted


def test_a_killed_distill_resumes_from_its_last_checkpoint(ready):
    ready.set(distill={"iterations": 400, "validate": {"every": 0}})
    undisturbed = finished(start(ready, "distill", MTT_WORK=str(ready.folder / "undisturbed")))
    assert "going on" not in undisturbed
    wanted = ready.files("data/distilled/**/*")
    ready.set(distill={"iterations": 100})
    finished(start(ready, "distill"))
    ready.set(distill={"iterations": 400})
    process = start(ready, "distill")
    time.sleep(4)
    process.kill()
    process.communicate()
    assert "going on from iteration" in finished(start(ready, "distill"))
    assert ready.files("data/distilled/**/*") == wanted


def test_more_images_a_step_than_the_set_has_are_refused_by_the_stage_too(ready):
    ready.set(distill={"batch_syn": 11})
    with pytest.raises(ValueError, match="distill.batch_syn = 11; wanted at most the 10 images of the set"):
        ready("distill")


def test_distill_reads_no_test_image_and_with_noise_and_no_validation_no_real_image(ready):
    for part in ("test", "train", "validation"):
        (ready.folder / f"data/prepared/{part}.safetensors").unlink()
    ready.set(distill={"start": "noise", "validate": {"every": 0}})
    ready("distill")
    found = imageset.load("data/distilled/set.safetensors")
    assert torch.equal(found.images, imageset.load("data/distilled/last.safetensors").images)


def test_distill_goes_on_from_the_images_of_a_set_file(ready):
    """Such as an imported one: with pixels that hardly move they stay what they were. Refused with soft labels."""
    old = imageset.load("data/prepared/train.safetensors")
    draws = torch.Generator().manual_seed(0)
    old = ImageSet(torch.randn(10, 1, 8, 8, generator=draws), torch.randperm(10, generator=draws), old.name, old.classes, old.mean, old.std)
    old.save("old.safetensors")
    ready.set(distill={"images": "old.safetensors", "lr_img": 1e-12, "validate": {"every": 0}})
    ready("distill")
    found = imageset.load("data/distilled/set.safetensors")
    assert torch.equal(found.images, old.images[old.labels.argsort()])
    assert found.labels.tolist() == list(range(10))
    old.labels = torch.full((10, 10), 0.1)
    old.save("old.safetensors")
    with pytest.raises(ValueError, match="old.safetensors: found a row of probabilities for each image; wanted its class"):
        ready("distill")


@pytest.mark.parametrize("loss", ["raw", "cosine", "logits", "task"])
def test_every_ablated_loss_learns_from_its_own_value(ready, loss):
    """The images differ from those that are matched, and the curve's losses from the matching loss."""
    ready.set(distill={"validate": {"every": 0}})
    ready("distill")
    matched, losses = imageset.load("data/distilled/last.safetensors").images, pd.read_csv("results/distill/curves.csv").loss
    ready.set(distill={"loss": loss, "batch_real": 20})
    ready("distill")
    assert not torch.equal(imageset.load("data/distilled/last.safetensors").images, matched)
    assert not (pd.read_csv("results/distill/curves.csv").loss == losses).any()


def test_a_mini_batch_kept_for_an_iteration_moves_its_images_alone(ready):
    ready.set(distill={"batch_syn": 3, "batch_per": "iteration", "iterations": 1, "validate": {"every": 0}})
    found = []
    for lr_img in (1e-12, 10.0):
        ready.set(distill={"lr_img": lr_img})
        ready("distill")
        found.append(imageset.load("data/distilled/last.safetensors").images)
    assert int((found[0] != found[1]).flatten(1).any(1).sum()) == 3


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(ready):
    ready.set(distill={"lr_img": 1e30, "iterations": 50, "validate": {"every": 0}})
    with pytest.raises(ArithmeticError, match=r"stopped at iteration \d+, start epoch [01]: loss \S+, step size \S+: .* finite") as error:
        ready("distill")
    stopped = int(str(error.value).split("iteration ")[1].split(",")[0])
    (kept,) = ready.folder.glob("work/distill/*/towards-*.safetensors")
    tensors, header = tensorfile.load(kept, "checkpoint")
    assert header["iteration"] == stopped - 1
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert not list(ready.folder.glob("data/distilled/*"))
    assert str(error.value).endswith(f"or keep what was good with distill.iterations = {stopped - 1}")
    ready.set(distill={"iterations": stopped - 1})
    ready("distill")
    assert torch.equal(imageset.load("data/distilled/last.safetensors").images, tensors["average"])


def test_two_ranks_give_the_images_of_one(ready):
    """Three segments an iteration, two in one rank and one in the other; to 1e-6. And a row of the curve for each."""
    ready.set(distill={"segments": 3})
    finished(start(ready, "distill", MTT_WORK=str(ready.folder / "one"), MTT_COMPILE="0"))
    one, curves = imageset.load("data/distilled/last.safetensors"), pd.read_csv("results/distill/curves.csv")
    output = finished(start(ready, "distill", MTT_WORK=str(ready.folder / "two"), MTT_RANKS="2"))
    two = imageset.load("data/distilled/last.safetensors")
    assert output.count("4/4") == 1
    assert float((one.images - two.images).abs().max()) < 1e-6
    assert one.learning_rate == pytest.approx(two.learning_rate, abs=1e-6)
    assert curves.iteration.tolist() == [k for k in (1, 2, 3, 4) for _ in range(3)]
    assert json.loads((ready.folder / "results/distill/metrics.json").read_text())["iterations"] == 4


def test_ranks_of_several_hosts_join_by_their_environment(ready):
    """Each is started by hand; the second writes nothing and needs no store that the first has."""
    ready.set(distill={"segments": 2})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    second = start(ready, "distill", RANK="1", MTT_WORK=str(ready.folder / "second"), **address)
    finished(start(ready, "distill", RANK="0", **address))
    finished(second)
    assert imageset.load("data/distilled/last.safetensors").images.isfinite().all()
    assert not list(ready.folder.glob("second/distill/*/*.safetensors"))


def test_one_rank_that_is_killed_ends_the_run_and_the_same_command_goes_on(ready):
    ready.set(distill={"segments": 2, "iterations": 100000, "validate": {"every": 0}})
    process = start(ready, "distill", MTT_RANKS="2")
    wait_for(lambda: list(ready.folder.glob("work/distill/*/towards-*.safetensors")), process)
    (other,) = [child for child in psutil.Process(process.pid).children() if "stages.distill" in child.cmdline()]
    other.kill()
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "goes on from the last checkpoint" in output
    assert "Traceback" not in output
    (kept,) = ready.folder.glob("work/distill/*/towards-*.safetensors")
    done = tensorfile.load(kept, "checkpoint")[1]["iteration"]
    ready.set(distill={"iterations": done + 2})
    assert f"going on from iteration {done}" in finished(start(ready, "distill", MTT_RANKS="2"))


def test_experts_trained_as_one_and_compiled_ones_are_those_trained_alone(run):
    """To rounding: how they are trained is no parameter."""
    paths = {}
    for name, how in {"alone": {}, "as one": {"MTT_TOGETHER": "2"}, "compiled": {"MTT_COMPILE": "1"}}.items():
        assert "warning" not in finished(start(run, "experts", MTT_WORK=str(run.folder / name), **how))
        paths[name] = [trajectory.load(path)[:].clone() for path in sorted(run.folder.glob("data/experts/*"))]
    for name in ("as one", "compiled"):
        for found, wanted in zip(paths[name], paths["alone"], strict=True):
            assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_mini_batches_and_a_warning_where_not_every_image_is_used(ready, capsys):
    ready.set(distill={"batch_syn": 3})
    ready("distill")
    assert "warning: 9 of 10 images at most are used" in capsys.readouterr().out


def test_the_buffer_links_the_experts_own_bytes_and_cuts_where_asked(ready):
    ready("buffer")
    assert (ready.folder / "data/experts/0001.safetensors").samefile(ready.folder / "data/buffer/0001.safetensors")
    whole = trajectory.load("data/experts/0001.safetensors")[:]
    ready.set(buffer={"snapshots": 3})
    ready("buffer")
    cut = Buffer("data/buffer")
    assert len(cut.experts[1]) == 3
    theta, target = cut.segment(1, 0, 2)
    assert torch.equal(theta, whole[0])
    assert torch.equal(target, whole[2])
    found = pd.read_csv("results/buffer/experts.csv")
    row = found[(found.expert == 1) & (found.epoch == 0)].iloc[0]
    assert row.length == pytest.approx(float((whole[0] - whole[2]).norm()), rel=1e-4)


def test_a_buffer_cut_to_what_is_read_distils_to_the_same_bytes(ready):
    """T+ + M snapshots of each expert, here 4 of 6."""
    ready.set(experts={"epochs": 5})
    found = {}
    for snapshots in ("all", 4):
        ready.set(buffer={"snapshots": snapshots})
        for stage in ("experts", "buffer", "distill"):
            ready(stage)
        found[snapshots] = ready.files("data/distilled/**/*"), sum(map(len, ready.files("data/buffer/*.safetensors").values()))
    assert found["all"][0] == found[4][0]
    assert found[4][1] < 0.8 * found["all"][1]


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_a_rounded_buffer_takes_half_the_bytes_and_is_read_rounded_to_nearest(ready, dtype, error):
    """`error`: by how much a normal number may be off, relative to itself: half a unit in its last place."""
    exact, size = Buffer("data/buffer").segment(1, 1, 2), sum(map(len, ready.files("data/buffer/*.safetensors").values()))
    ready.set(buffer={"dtype": dtype})
    ready("buffer")
    rounded = Buffer("data/buffer")
    assert json.loads((ready.folder / "data/buffer/index.json").read_text())["dtype"] == dtype
    assert sum(map(len, ready.files("data/buffer/*.safetensors").values())) < 0.6 * size
    for found, wanted in zip(rounded.segment(1, 1, 2), exact, strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted.to(getattr(torch, dtype)).float())
        assert ((found - wanted).abs() <= error * wanted.abs() + 2**-25).all()  # below float16's normal numbers, absolute
    ready("distill")
    assert imageset.load("data/distilled/set.safetensors").images.isfinite().all()


def test_float32_leaves_the_index_as_it_was_before_there_was_another(ready):
    index = json.loads((ready.folder / "data/buffer/index.json").read_text())
    assert "dtype" not in index
    assert Buffer("data/buffer").dtype == "float32"


def test_a_parameter_past_the_largest_number_of_the_dtype_is_refused_by_name(run):
    run("experts")
    path = run.folder / "data/experts/0001.safetensors"
    tensors, header = tensorfile.load(path, "trajectory")
    tensors["theta"][2, 3] = -70000
    path.unlink()
    tensorfile.save(path, tensors, header)
    run.set(buffer={"dtype": "float16"})
    with pytest.raises(
        ValueError, match="experts/0001.safetensors: found a parameter of 70000; wanted at most 65504, or another buffer.dtype"
    ):
        run("buffer")
    assert not (run.folder / "data/buffer/index.json").exists()
    run.set(buffer={"dtype": "bfloat16"})
    run("buffer")
    assert float(Buffer("data/buffer").experts[1][2][3]) == pytest.approx(-70000, rel=2**-8)


def test_a_file_of_another_dtype_than_the_index_says_is_refused(ready):
    """Though of the size that the index names."""
    path = ready.folder / "data/buffer/index.json"
    index = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**index, "dtype": "bfloat16"}))
    with pytest.raises(ValueError, match="0000.safetensors: found theta of float32; wanted bfloat16, as the index says"):
        Buffer("data/buffer")


def test_a_buffer_that_was_rounded_can_be_cut_again(ready):
    """Its folder stands in for the experts'; what is already of that length and dtype is linked."""
    ready.set(buffer={"dtype": "float16"})
    ready("buffer")
    buffer.main("data/buffer", "same", "same.csv")
    assert (ready.folder / "same/0001.safetensors").samefile(ready.folder / "data/buffer/0001.safetensors")
    ready.set(buffer={"snapshots": 3})
    buffer.main("data/buffer", "cut", "cut.csv")
    assert torch.equal(Buffer("cut").experts[1][2], Buffer("data/buffer").experts[1][2])
    assert Buffer("cut").dtype == "float16"


def test_snapshots_differ_from_epoch_to_epoch(ready):
    theta = trajectory.load("data/experts/0000.safetensors")[:]
    assert ((theta[1:] - theta[:-1]).norm(dim=1) > 0).all()


def test_a_buffer_whose_bytes_were_altered_or_of_another_set_is_refused(ready):
    path = ready.folder / "data/buffer/0001.safetensors"
    good = path.read_bytes()
    path.unlink()
    path.write_bytes(good[:-8] + bytes(8))
    with pytest.raises(ValueError, match=r"0001.safetensors: found sha256 \w+; wanted \w+, as the index says"):
        ready("distill")
    path.write_bytes(good)
    train = imageset.load("data/prepared/train.safetensors")
    train.name = "MNIST"
    train.save("data/prepared/train.safetensors")
    with pytest.raises(ValueError, match="train.safetensors: found .*MNIST.*; wanted .*digits.*, as in data/buffer"):
        ready("distill")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "found no such file; wanted"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), r"found \d+ bytes; wanted"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "found no whole safetensors file"),
    ],
    ids=["missing", "truncated", "foreign"],
)
def test_a_damaged_buffer_is_refused_by_name(ready, damage, says):
    damage(ready.folder / "data/buffer/0001.safetensors")
    with pytest.raises(ValueError, match=f"0001.safetensors: {says}"):
        ready("distill")


def test_a_buffer_too_short_or_of_another_network_is_refused(ready):
    ready.set(distill={"max_start_epoch": 9})
    with pytest.raises(ValueError, match="found 4 snapshots; wanted distill.max_start_epoch .* = 11"):
        ready("distill")
    ready.set(distill={"max_start_epoch": 2}, network={"width": 5})
    with pytest.raises(ValueError, match="found experts of network .*'width': 4.*; wanted .*'width': 5"):
        ready("distill")


def test_trajectories_that_do_not_belong_together_are_refused(run):
    run("experts")
    stranger = run.folder / "data/experts/0001.safetensors"
    tensors, header = tensorfile.load(stranger, "trajectory")
    stranger.unlink()
    tensorfile.save(stranger, tensors, {**header, "set": "MNIST"})
    with pytest.raises(ValueError, match="0001.safetensors: found set MNIST; wanted digits, as in .*0000.safetensors"):
        run("buffer")
    stranger.unlink()
    tensorfile.save(stranger, tensors, {"kind": "trajectory", "layout": header["layout"]})
    with pytest.raises(ValueError, match="0001.safetensors: found a header without network, .*; wanted a trajectory"):
        run("buffer")
    stranger.write_bytes(stranger.read_bytes()[:1000])
    with pytest.raises(ValueError, match="0001.safetensors: found no whole safetensors file"):
        run("buffer")


def test_a_buffer_that_says_one_network_and_holds_another_is_refused_before_a_network_is_made(ready):
    """Its index agrees with params.yaml, and its images' size with nothing: a network for them would take terabytes."""
    path = ready.folder / "data/buffer/index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "shape": [1, 60000, 60000]}))
    ready.set(distill={"start": "noise", "validate": {"every": 0}})
    with pytest.raises(ValueError, match="data/buffer: found experts whose parameters are not those of its network, images and classes"):
        ready("distill")


def test_experts_of_unknown_accuracy_make_a_buffer_too(ready):
    """As imported ones are, where nobody scored them."""
    for path in sorted(ready.folder.glob("data/experts/*")):
        expert = trajectory.load(path)
        rows, header = list(expert[:]), {key: value for key, value in expert.header.items() if key != "kind"}
        path.unlink()
        trajectory.save(path, rows, {**header, "accuracy": [None] * len(rows)})
    ready.set(buffer={"snapshots": 3})
    ready("buffer")
    found = pd.read_csv("results/buffer/experts.csv")
    assert found.accuracy.isna().all()
    assert len(Buffer("data/buffer").experts) == 2


@pytest.fixture
def white(make_run):
    """A run whose images are whitened, and whose buffer is there."""
    run = make_run("white")
    run.set(prepare={"zca": True})
    for stage in ("prepare", "experts", "buffer"):
        run(stage)
    return run


def test_all_stages_of_whitened_images(white):
    """Every set file holds the whitening and every header its digest; the picture shows pixels; a start from noise is whitened too."""
    for stage in ("distill", "baseline", "evaluate"):
        white(stage, method="distilled" if stage == "evaluate" else "random")
    names = ["prepared/train", "prepared/validation", "prepared/test", "distilled/set", "distilled/last", "random/set"]
    train, *others = [imageset.load(f"data/{name}.safetensors") for name in names]
    assert all(other.about() == train.about() for other in others)
    assert (train.mean, train.std) == ([0.0], [1.0])
    covariance = torch.cov(train.normalised().flatten(1).double().T)
    v = torch.linalg.eigvalsh(torch.cov((train.images.double() / 255).flatten(1).T))
    assert torch.allclose(torch.linalg.eigvalsh(covariance), v / (v + 0.1), atol=1e-4)
    assert train.provenance["prepare"]["zca"] is True
    header = trajectory.load("data/experts/0000.safetensors").header
    index = Buffer("data/buffer").index
    assert header["whitening"] == index["whitening"] == train.about()["whitening"]
    assert header["normalised_by"] == "ZCA"
    white.set(distill={"start": "noise", "validate": {"every": 0}})
    white("distill")
    assert imageset.load("data/distilled/set.safetensors").about() == train.about()


def test_experts_and_sets_of_another_whitening_or_of_none_are_refused(white):
    """By distillation, by the buffer, by evaluation; and textures, by distillation, where a buffer comes from elsewhere."""
    stranger = imageset.load("data/prepared/train.safetensors")
    stranger.whitening.matrix[0, 0] += 0.001
    stranger.save("stranger.safetensors")
    white.set(distill={"images": "stranger.safetensors"})
    with pytest.raises(ValueError, match=r"stranger.safetensors: found .*whitening.*; wanted .*whitening.*, as in data/buffer"):
        white("distill")
    white.set(distill={"images": "data/prepared/train.safetensors", "canvas_size": 2})
    with pytest.raises(ValueError, match="distill.canvas_size = 2; wanted 1: the buffer's experts saw whitened images"):
        white("distill")
    white.set(prepare={"zca": False}, distill={"canvas_size": 1})
    white("prepare")
    with pytest.raises(ValueError, match=r"train.safetensors: found .*; wanted .*whitening.*, as in data/buffer"):
        white("distill")
    white("baseline")
    stranger.save("data/prepared/test.safetensors")
    with pytest.raises(ValueError, match=r"random/set.safetensors: found .*; wanted .*whitening.*, as in data/prepared/test"):
        white("evaluate")
    path = white.folder / "data/experts/0001.safetensors"
    tensors, header = tensorfile.load(path, "trajectory")
    for other in ({"whitening": "0" * 64}, {}):
        path.unlink()
        tensorfile.save(path, tensors, {key: value for key, value in header.items() if key != "whitening"} | other)
        with pytest.raises(ValueError, match=r"0001.safetensors: found whitening (0+|None); wanted \w+, as in .*0000.safetensors"):
            white("buffer")


def test_images_too_large_to_be_whitened_are_refused_before_any_work(make_run):
    run = make_run()
    for name in ("ant", "bee"):
        (run.folder / "raw" / name).mkdir()
        Image.effect_noise((80, 80), 50).save(run.folder / "raw" / name / "0.png")
    run.set(prepare={"set": "folder", "side": 80, "zca": True, "test": 0.5, "validation": 0.5})
    with pytest.raises(ValueError, match=r"wanted at most 64"):
        check.main()
    assert not list(run.folder.glob("data/**/*"))


def test_canvases_are_learned_validated_and_evaluated(ready):
    """Tiled of four images each; scored on ordinary images; gone on from; shown twice in each direction."""
    ready.set(distill={"canvas_size": 2, "canvas_samples": 3, "lr_img": 1e-12})
    ready("distill")
    found, train = [imageset.load(f"data/{name}.safetensors") for name in ("distilled/set", "prepared/train")]
    assert found.images.shape == (10, 1, 16, 16)
    assert (found.canvas_size, found.canvas_samples) == (2, 3)
    assert found.about() == train.about()
    assert found.provenance["distill"]["canvas_samples"] == 3
    for label, canvas in enumerate(found.images):
        tiles = canvas.unfold(1, 8, 8).unfold(2, 8, 8).reshape(4, 1, 8, 8)
        assert len(tiles.flatten(1).unique(dim=0)) == 4
        own = train.normalised()[train.of_class(label)]
        assert all(bool((own == tile).flatten(1).all(1).any()) for tile in tiles), "real images of its class"
    ready("evaluate", method="distilled")
    scores = json.loads((ready.folder / "results/scores/distilled-ConvNet.json").read_text())
    assert scores["images"] == 10
    with Image.open("results/distill/images.png") as picture:
        assert picture.size == (10 * 68 + 4, 68 + 4)
    found.save("old.safetensors")
    ready.set(distill={"images": "old.safetensors", "validate": {"every": 0}})
    ready("distill")
    assert torch.equal(imageset.load("data/distilled/set.safetensors").images, found.images)
    ready.set(distill={"canvas_size": 3})
    with pytest.raises(ValueError, match="old.safetensors: found canvas_size 2; wanted distill.canvas_size = 3, or images"):
        ready("distill")
    ready.set(distill={"start": "noise", "lr_img": 10.0})
    ready("distill")
    noise = imageset.load("data/distilled/set.safetensors")
    assert noise.images.shape == (10, 1, 24, 24)
    assert noise.images.isfinite().all()
