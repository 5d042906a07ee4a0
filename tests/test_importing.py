"""Files of the original code, built here as it builds them."""

import json
import os
import subprocess
from collections import OrderedDict
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT
from torch import nn
from torch.nn import functional as F

from mtt import imageset, importing, original, trajectory, whitening
from mtt.buffer import Buffer
from mtt.convnet import ConvNet
from mtt.functional import set_parameters
from mtt.imageset import ImageSet
from mtt.seeds import generator
from mtt.training import accuracy, initialise

SHAPE, CLASSES, WIDTH, DEPTH = (1, 8, 8), 3, 4, 2
NET = ["--width", str(WIDTH), "--depth", str(DEPTH)]
BY_HAND = ["--set", "toy", "--classes", "ant", "bee", "cow", "--shape", "1", "8", "8", "--mean", "0.5", "--std", "0.25"]


class TheirConvNet(nn.Module):
    """The original's network, its modules registered in its order: the features' layers, then the classifier."""

    def __init__(self, channels, side, classes, width, depth):
        super().__init__()
        layers = []
        for block in range(depth):
            layers += [nn.Conv2d(width if block else channels, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * (side >> depth) ** 2, classes)

    def forward(self, x):
        features = self.features(x)
        return self.classifier(features.view(len(x), -1))


def data(count=60):
    """Images that a network can learn: a class is where the light is."""
    draws, labels = generator("importing"), torch.arange(CLASSES).repeat_interleave(count // CLASSES)
    images = torch.randint(90, (count, *SHAPE), generator=draws).to(torch.uint8)
    for k in range(CLASSES):
        images[labels == k, :, 3 * k : 3 * k + 2] += 120
    return ImageSet(images, labels, "toy", ["ant", "bee", "cow"], [0.5], [0.25])


def trained(seed, net=TheirConvNet, epochs=3, keep=torch.Tensor.clone):
    """An expert as the original keeps it, [epoch][parameter], and its accuracies; `keep` copies a parameter or does not."""
    net, real = initialise(net(1, 8, CLASSES, WIDTH, DEPTH), generator(seed)), data()
    x, y, optimizer = real.normalised(), real.labels, torch.optim.SGD(net.parameters(), 0.1)
    snapshots, accuracies = [[keep(p.detach().cpu()) for p in net.parameters()]], [accuracy(net, x, y)]
    for _ in range(epochs):
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        snapshots.append([keep(p.detach().cpu()) for p in net.parameters()])
        accuracies.append(accuracy(net, x, y))
    return snapshots, accuracies


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data().save("data.safetensors")
    return tmp_path


def imported(*experts, words=(*NET, *BY_HAND), to="experts"):
    """What importing the experts from one replay buffer gives."""
    torch.save(list(experts), "replay_buffer_0.pt")
    importing.trajectories("import", "replay_buffer_0.pt", "--to", to, *words)
    return [trajectory.load(path) for path in sorted((importing.Path(to)).iterdir())]


def test_an_imported_trajectory_has_the_numbers_and_scores_the_accuracy_of_the_original_network(folder):
    """In the original's order of parameters, each epoch, to the last image; scored on request, else unknown."""
    experts = [trained(seed) for seed in (1, 2)]
    found = imported(*[snapshots for snapshots, _ in experts], words=[*NET, "--like", "data.safetensors", "--score", "data.safetensors"])
    ours, real = ConvNet(1, 8, CLASSES, WIDTH, DEPTH), data()
    assert len(found) == 2
    for expert, (snapshots, accuracies) in zip(found, experts, strict=True):
        assert accuracies[-1] > accuracies[0]
        assert expert.header["accuracy"] == accuracies
        assert expert.header["layout"] == trajectory.layout(ours)
        for theta, parameters in zip(expert, snapshots, strict=True):
            assert torch.equal(theta, torch.cat([p.flatten() for p in parameters]))
        assert accuracy(set_parameters(ours, expert[3]), real.normalised(), real.labels) == accuracies[3]


def test_names_given_by_hand_and_by_a_set_file_make_the_same_header(folder):
    (by_hand,), (by_file,) = imported(trained(1)[0]), imported(trained(1)[0], words=[*NET, "--like", "data.safetensors"], to="others")
    assert by_hand.header == by_file.header
    assert by_hand.header["accuracy"] == [None] * 4
    (counted,) = imported(trained(1)[0], words=[*NET, *BY_HAND[:2], "--classes", "3", *BY_HAND[6:]], to="counted")
    assert counted.header["classes"] == ["0", "1", "2"]


def test_several_files_are_numbered_in_order(folder):
    for number in range(3):
        torch.save([trained(10 + number)[0]], f"replay_buffer_{number}.pt")
    importing.trajectories("import", *[f"replay_buffer_{n}.pt" for n in (2, 0, 1)], "--to", "experts", *NET, *BY_HAND)
    first = trajectory.load("experts/0000.safetensors")
    assert torch.equal(first[0], torch.cat([p.flatten() for p in trained(12)[0][0]]))
    assert [trajectory.load(path).header["index"] for path in sorted(importing.Path("experts").iterdir())] == [0, 1, 2]


def spoilt(change):
    """An expert that `change` has altered, in place or by what it gives."""
    expert = trained(1)[0]
    return change(expert) or expert


def without_a_tensor(expert):
    expert[2].pop()


def in_another_order(expert):
    expert[1][0], expert[1][1] = expert[1][1], expert[1][0]


def of_another_width(expert):
    expert[:] = trained(1, lambda channels, side, classes, width, depth: TheirConvNet(channels, side, classes, 6, depth))[0]


def not_finite(expert):
    expert[3][4][1] = float("nan")


def not_trained_for_an_epoch(expert):
    expert[2] = [p.clone() for p in expert[1]]


def with_one_tensor_again(expert):
    expert[3][0] = expert[1][0]


def overlapping():
    """An expert whose tensors are views, each a little further on, of numbers that are kept once: more than its file has."""
    numbers, shapes = torch.rand(6000), [p.shape for p in trained(1, epochs=0)[0][0]]
    return [[numbers[10 * epoch + k :][: shape.numel()].view(shape) for k, shape in enumerate(shapes)] for epoch in range(500)]


def of_whole_numbers(expert):
    expert[0] = [p.long() for p in expert[0]]


@pytest.mark.parametrize(
    ("expert", "says"),
    [
        (lambda: trained(1, keep=lambda p: p)[0], "expert 0, epoch 1: found the very tensors of the epoch before: the known fault"),
        (lambda: spoilt(not_trained_for_an_epoch), "expert 0, epoch 2: found the numbers of the epoch before: the known fault"),
        (lambda: [trained(1)[0][0]] * 3, "expert 0, epoch 1: found the very tensors of the epoch before"),
        (overlapping, r"expert 0: found tensors of \d+ bytes in a file of \d+"),
        (lambda: spoilt(with_one_tensor_again), "expert 0: found one tensor in two places"),
        (lambda: spoilt(without_a_tensor), r"expert 0, epoch 2: found 9 tensors; wanted 10, the parameters of the network$"),
        (lambda: spoilt(in_another_order), r"epoch 1: found a tensor of shape \[4\]; wanted \[4, 1, 3, 3\], for 0.weight"),
        (lambda: spoilt(of_another_width), r"epoch 0: found a tensor of shape \[6, .*it looks like --width 6 --depth 2 on 1 channels"),
        (lambda: spoilt(not_finite), "expert 0, epoch 3: found numbers that are not finite"),
        (lambda: spoilt(of_whole_numbers), "expert 0, epoch 0: found a list of 10; wanted a list of plain tensors in floating point"),
        (lambda: spoilt(lambda expert: [0, 1]), "expert 0, epoch 0: found a int; wanted a list of plain tensors"),
        (lambda: trained(1)[0][:1], "expert 0: found a list of 1; wanted a list of two epochs or more"),
        (lambda: "expert", "expert 0: found a str of 6; wanted a list of two epochs"),
    ],
)
def test_an_expert_that_is_not_what_the_command_line_says_is_refused_by_name_and_nothing_is_written(folder, expert, says):
    with pytest.raises(ValueError, match=says) as caught:
        imported(expert())
    assert str(caught.value).startswith("replay_buffer_0.pt: ")
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir()) == ["data.safetensors", "replay_buffer_0.pt"]


def test_an_expert_that_comes_twice_or_is_shorter_than_the_others_is_refused(folder):
    with pytest.raises(ValueError, match="expert 1: found what replay_buffer_0.pt: expert 0 is; wanted each expert once"):
        imported(trained(1)[0], [[p.clone() for p in epoch] for epoch in trained(1)[0]])
    with pytest.raises(ValueError, match="expert 1: found 3 epochs; wanted 4"):
        imported(trained(1)[0], trained(2, epochs=2)[0])


class Stranger:
    """Something that would be done when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch harm",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (Stranger(), r"found a posix.system; wanted tensors in lists, nothing else is unpickled: where you trust who made it"),
        ([[[Stranger()]]], r"found a posix.system"),
        (SimpleNamespace(a=1), r"found a types.SimpleNamespace"),
        ({"a": torch.ones(2)}, "found a dict of 1; wanted a list of experts"),
        (OrderedDict(), "found a OrderedDict of 0; wanted a list of experts"),
        (torch.ones(2), r"found a tensor of shape \[2\] and torch.float32; wanted a list of experts"),
        ([], "found a list of 0; wanted a list of experts"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_file_that_holds_anything_else_is_refused_and_does_nothing(folder, content, says):
    """In today's format and in that of before 2020."""
    for name, new in {"a.pt": True, "b.pt": False}.items():
        torch.save(content, name, _use_new_zipfile_serialization=new)
        with pytest.raises(ValueError, match=f"{name}: {says}"):
            importing.trajectories("import", name, "--to", "experts", *NET, *BY_HAND)
    assert not os.path.exists("harm")


@pytest.mark.parametrize("size", [0, 3, 100, 1000, -1])
def test_a_broken_file_is_refused_by_name(folder, size):
    torch.save([trained(1)[0]], "a.pt")
    with open("a.pt", "r+b") as file:
        file.truncate(size if size >= 0 else os.path.getsize("a.pt") - 1)
    with pytest.raises(ValueError, match="a.pt: found no file that torch.load takes") as caught:
        importing.trajectories("import", "a.pt", "--to", "experts", *NET, *BY_HAND)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="b.pt: no such file"):
        importing.trajectories("import", "b.pt", "--to", "experts", *NET, *BY_HAND)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*NET], "the command line: found neither --like nor --set, --classes, --mean, --std, --shape; wanted a set file"),
        ([*NET, *BY_HAND[:-2]], "found neither --like nor --std"),
        ([*NET, *BY_HAND[:-1], "-1"], "the command line: found std.0 = -1.0"),
        ([*NET, *BY_HAND[:-1], "1", "1"], "found 1 means and 2 deviations; wanted one of each for 1 channels"),
        (["--width", "0", "--depth", "2", *BY_HAND], "the command line: found width = 0"),
        ([*NET, *BY_HAND, "--score", "other.safetensors"], "other.safetensors: found .*other.*; wanted .*toy"),
    ],
)
def test_a_command_line_that_is_not_whole_is_refused_in_one_line(folder, words, says):
    other = data()
    other.name = "other"
    other.save("other.safetensors")
    with pytest.raises(ValueError, match=says) as caught:
        imported(trained(1)[0], words=words)
    assert "\n" not in str(caught.value)


def test_a_folder_with_files_is_left_alone_and_an_empty_one_is_used(folder):
    os.mkdir("experts")
    assert len(imported(trained(1)[0])) == 1
    with pytest.raises(ValueError, match="experts: found files there; wanted an empty folder or none"):
        imported(trained(2)[0])
    assert os.listdir("experts") == ["0000.safetensors"]


def set_of(images, labels, *words, to="set.safetensors"):
    torch.save(images, "images_best.pt")
    torch.save(labels, "labels_best.pt")
    importing.images("import", "images_best.pt", "labels_best.pt", "--to", to, *words)
    return imageset.load(to)


def synthetic():
    return torch.randn(3, *SHAPE, generator=generator("synthetic"))


def test_images_and_labels_become_a_set(folder):
    """As they are, with the step size that is given, and where they came from."""
    found = set_of(synthetic(), torch.arange(3), "--like", "data.safetensors", "--learning-rate", "0.02")
    assert torch.equal(found.images, synthetic())
    assert found.labels.tolist() == [0, 1, 2]
    assert found.about() == data().about()
    assert found.learning_rate == 0.02
    assert set(found.provenance["imported"]) == {"images", "labels"}
    by_hand = [*BY_HAND[:6], *BY_HAND[10:]]
    assert set_of(nn.Parameter(synthetic()), torch.arange(3.0), *by_hand, to="b.safetensors").about() == data().about()


def test_what_the_original_whitened_is_whitened_as_the_set_that_it_is_like(folder):
    """Images and experts both; and an expert is not scored on a set of another space."""
    plain, like = data(), data()
    like.mean, like.std, like.whitening = [0.0], [1.0], whitening.fit(like.images.float() / 255)
    like.save("whitened.safetensors")
    found = set_of(synthetic(), torch.arange(3), "--like", "whitened.safetensors")
    assert torch.equal(found.images, synthetic())
    assert found.about() == like.about() != plain.about()
    header = imported(trained(0)[0], words=[*NET, "--like", "whitened.safetensors"])[0].header
    assert (header["whitening"], header["normalised_by"]) == (like.whitening.digest, "ZCA")
    with pytest.raises(ValueError, match=r"data.safetensors: found .*; wanted .*whitening.*, as for the experts"):
        imported(trained(0)[0], words=[*NET, "--like", "whitened.safetensors", "--score", "data.safetensors"], to="others")


def test_soft_labels_become_probabilities(folder):
    logits = torch.randn(3, 3, generator=generator("logits"))
    found = set_of(synthetic(), logits, "--like", "data.safetensors", "--softmax")
    assert torch.allclose(found.labels, logits.softmax(1))
    assert torch.equal(set_of(synthetic(), logits.softmax(1), "--like", "data.safetensors").labels, logits.softmax(1))
    with pytest.raises(ValueError, match=r"labels_best.pt: found label rows that are no probabilities; .*--softmax"):
        set_of(synthetic(), logits, "--like", "data.safetensors")


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (synthetic()[:, :, :7], torch.arange(3), r"images_best.pt: found images \[1, 7, 8\]; wanted those of data.safetensors"),
        (synthetic()[0], torch.arange(3), r"images_best.pt: found a tensor of shape \[1, 8, 8\]"),
        ([synthetic()], torch.arange(3), "images_best.pt: found a list of 1; wanted images"),
        (synthetic() / 0, torch.arange(3), "images_best.pt.*: found images or labels that are not finite"),
        (synthetic(), torch.arange(4), r"images_best.pt.*: found images \(3, 1, 8, 8\) and labels \(4,\)"),
        (synthetic(), torch.arange(3) + 1, "found labels from 1 to 3; wanted 0 to 2"),
        (synthetic(), torch.rand(3), "labels_best.pt: found labels of torch.float32; wanted whole numbers"),
        (synthetic(), torch.ones(3, 3, 3), r"labels_best.pt: found a tensor of shape \[3, 3, 3\]"),
        (synthetic(), torch.ones(3, 0), r"labels_best.pt: found a tensor of shape \[3, 0\]"),
        (synthetic(), Stranger(), "labels_best.pt: found a posix.system"),
    ],
)
def test_images_and_labels_that_are_none_are_refused_by_name_and_nothing_is_written(folder, images, labels, says):
    with pytest.raises(ValueError, match=says):
        set_of(images, labels, "--like", "data.safetensors")
    assert not os.path.exists("set.safetensors")
    assert not os.path.exists("harm")


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_a_step_size_that_nobody_can_train_with_is_refused(folder, rate):
    with pytest.raises(ValueError, match="found --learning-rate"):
        set_of(synthetic(), torch.arange(3), "--like", "data.safetensors", f"--learning-rate={rate}")


def test_the_original_is_read_without_bringing_it_into_memory(folder):
    """Its tensors are mapped: a file of 60 MB is opened at the cost of what is looked at."""
    torch.save([[[torch.ones(15_000_000)]]], "a.pt")
    before = importing.Path("/proc/self/statm").read_text().split()[1]
    found = original.unpacked("a.pt")
    after = importing.Path("/proc/self/statm").read_text().split()[1]
    assert (int(after) - int(before)) * os.sysconf("SC_PAGE_SIZE") < 20e6
    assert float(found[0][0][0][-1]) == 1


def commands():
    """The command lines of docs/importing.md."""
    return [line.strip() for line in (ROOT / "docs/importing.md").read_text().splitlines() if line.startswith("    ")]


@pytest.mark.slow
def test_the_commands_of_the_page_take_others_files_to_scores_and_on_through_distillation(tmp_path):
    """On a fresh clone, as they stand there; the experts are not trained again, and their accuracies are those that they had."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    values = yaml.safe_load((clone / "params.yaml").read_text())
    values["distill"] |= {"iterations": 2, "syn_steps": 2, "max_start_epoch": 2, "batch_syn": "all"}
    values["distill"]["validate"] |= {"networks": 1, "epochs": 2}
    values["evaluate"] |= {"networks": 1, "epochs": {"ConvNet": 2}, "learning_rates": [0.01]}
    values["architectures"] = ["ConvNet"]
    (clone / "params.yaml").write_text(yaml.safe_dump(values))
    experts = [[[torch.nn.Parameter(p) for p in snapshot] for snapshot in untrained(seed)] for seed in range(4)]
    for number in range(2):
        torch.save(experts[2 * number : 2 * number + 2], clone / f"replay_buffer_{number}.pt")
    torch.save(torch.randn(10, 1, 8, 8, generator=generator("images")), clone / "images_best.pt")
    torch.save(torch.arange(10), clone / "labels_best.pt")
    environment = {**os.environ, "MTT_WORK": str(tmp_path / "work"), "PYTHONPATH": ""}
    said = ""
    for line in commands():
        found = subprocess.run(["bash", "-c", line], cwd=clone, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, line + found.stdout + found.stderr
        said += found.stdout
    assert "Running stage 'buffer'" in said
    assert "Running stage 'experts'" not in said
    assert 0 <= json.loads((clone / "old.json").read_text())["mean"] <= 1
    assert imageset.load(clone / "data/distilled/set.safetensors").images.shape == (10, 1, 8, 8)
    held_out, net = imageset.load(clone / "data/prepared/validation.safetensors"), ConvNet(1, 8, 10, 32, 2)
    buffer = Buffer(clone / "data/buffer")
    table = pd.read_csv(clone / "results/buffer/experts.csv").set_index(["expert", "epoch"])
    for expert, snapshots in enumerate(experts):
        for epoch, parameters in enumerate(snapshots):
            theta = torch.cat([p.detach().flatten() for p in parameters])
            assert torch.equal(buffer.experts[expert][epoch], theta)
            wanted = accuracy(set_parameters(net, theta), held_out.normalised(), held_out.labels)
            assert table.accuracy[expert, epoch] == pytest.approx(wanted, rel=1e-5)


def untrained(seed, epochs=3):
    """The parameters of the default's network, a little different after each epoch."""
    net, draws = initialise(TheirConvNet(1, 8, 10, 32, 2), generator(seed)), generator("steps", seed)
    yield [p.detach() for p in net.parameters()]
    for _ in range(epochs):
        yield [p.detach() + 0.01 * torch.randn(p.shape, generator=draws) for p in net.parameters()]
