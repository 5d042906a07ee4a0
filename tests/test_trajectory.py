import mmap
import os

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from mtt import imageset, tensorfile, trajectory
from mtt.convnet import ConvNet
from mtt.seeds import generator
from mtt.training import initialise


def network():
    return initialise(ConvNet(3, 8, 5, width=4, depth=2), generator("trajectory"))


def saved(path, snapshots=4):
    """A small trajectory in `path`; gives its rows."""
    net = network()
    theta = [vector + k for k, vector in enumerate([trajectory.vector(net)] * snapshots)]
    trajectory.save(path, theta, {"layout": trajectory.layout(net), "accuracy": [0.1] * snapshots})
    return torch.stack(theta)


@pytest.mark.parametrize("net", [ConvNet(1, 8, 3, width=4, depth=1), nn.Linear(6, 1, bias=False)], ids=["several", "one"])
def test_a_snapshot_does_not_change_when_training_goes_on(net):
    """Also on a CPU, where `.detach().cpu()` alone is no copy; with several parameters and with a single one."""
    snapshot = trajectory.vector(net)
    kept = snapshot.clone()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 1
    assert torch.equal(snapshot, kept)
    assert torch.equal(trajectory.vector(net), kept + 1)
    assert not snapshot.requires_grad


def test_vector_and_layout_agree_with_pytorch():
    """The layout alone says which number is whose; vector_to_parameters puts them back."""
    net = network()
    theta = trajectory.vector(net)
    assert torch.equal(theta, parameters_to_vector(net.parameters()))
    parts = theta.split([torch.Size(shape).numel() for _, shape in trajectory.layout(net)])
    named = dict(net.named_parameters())
    assert [name for name, _ in trajectory.layout(net)] == list(named)
    for (name, shape), part in zip(trajectory.layout(net), parts, strict=True):
        assert torch.equal(part.view(shape), named[name])
    other = ConvNet(3, 8, 5, width=4, depth=2)
    vector_to_parameters(theta, other.parameters())
    assert torch.equal(trajectory.vector(other), theta)


def test_what_was_saved_is_read_row_by_row(tmp_path):
    theta = saved(tmp_path / "a.safetensors")
    found = trajectory.load(tmp_path / "a.safetensors")
    assert len(found) == 4
    assert found.shape == tuple(theta.shape)
    assert found.header["layout"] == trajectory.layout(network())
    assert found.header["accuracy"] == [0.1] * 4
    for index in (2, 0, 3, 1, -1, -4):
        assert torch.equal(found[index], theta[index])
    for index in (4, -5):
        with pytest.raises(IndexError):
            found[index]
    for rows in (slice(1, 3), slice(None), slice(-2, None), slice(None, -1), slice(2, 2)):
        assert torch.equal(found[rows], theta[rows])
    assert torch.equal(torch.stack(list(found)), theta)


@pytest.mark.parametrize(("dtype", "bytes"), [(torch.float32, 4), (torch.bfloat16, 2), (torch.float16, 2)])
def test_a_trajectory_is_read_as_float32_whatever_it_is_stored_in(tmp_path, dtype, bytes):
    path, theta = tmp_path / "a.safetensors", torch.randn(4, 9, generator=generator("rows"))
    trajectory.save(path, list(theta.to(dtype)), {"layout": [["a", [9]]]})
    found = trajectory.load(path)
    assert found.dtype == str(dtype).removeprefix("torch.")
    assert found.place[3] - found.place[2] == 4 * 9 * bytes
    for rows in (found[2], found[1:3]):
        assert rows.dtype == torch.float32
    assert torch.equal(found[2], theta[2].to(dtype).float())
    assert torch.equal(found[1:3], theta[1:3].to(dtype).float())


def test_opening_a_trajectory_reads_no_row(tmp_path):
    """A row that changes on disk after opening is read as it is then."""
    path = tmp_path / "a.safetensors"
    theta = saved(path)
    found = trajectory.load(path)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as bytes:
        bytes[-4 * theta.shape[1] :] = torch.full_like(theta[3], 7).numpy().tobytes()
    assert torch.equal(found[3], torch.full_like(theta[3], 7))
    assert torch.equal(found[2], theta[2])


LAYOUT = [["a", [2, 3]], ["b", []]]


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        ({"theta": torch.ones(4, 8)}, {"layout": LAYOUT}, r"found theta of shape \(4, 8\); wanted \(snapshots, 7\)"),
        ({"theta": torch.ones(7)}, {"layout": LAYOUT}, r"found theta of shape \(7,\); wanted \(snapshots, 7\)"),
        ({"theta": torch.ones(1, 4, 7)}, {"layout": LAYOUT}, r"found theta of shape \(1, 4, 7\); wanted \(snapshots, 7\)"),
        ({"theta": torch.ones(4, 7).double()}, {"layout": LAYOUT}, "found theta of float64; wanted float32, bfloat16 or float16"),
        ({"theta": torch.ones(4, 7).int()}, {"layout": LAYOUT}, "found theta of int32; wanted float32, bfloat16 or float16"),
        ({"weights": torch.ones(4, 7)}, {"layout": LAYOUT}, r"found tensors \['weights'\]; wanted theta"),
        ({"theta": torch.ones(4, 7)}, {}, "layout"),
        ({"theta": torch.ones(4, 7)}, {"layout": 7}, "layout"),
    ],
)
def test_a_trajectory_that_is_not_what_its_header_says_is_refused_by_name(tmp_path, tensors, header, message):
    path = tmp_path / "a.safetensors"
    tensorfile.save(path, tensors, {"kind": "trajectory", **header})
    with pytest.raises(ValueError, match=message) as caught:
        trajectory.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_set_is_refused_as_a_trajectory(tmp_path):
    path = tmp_path / "set.safetensors"
    imageset.ImageSet(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), "toy", ["a", "b"], [0.5], [0.5]).save(path)
    with pytest.raises(ValueError, match="set.safetensors: found a set file; wanted a trajectory file"):
        trajectory.load(path)


def test_a_truncated_trajectory_is_refused_by_name(tmp_path):
    path = tmp_path / "a.safetensors"
    saved(path)
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(ValueError, match="a.safetensors: found no whole safetensors file"):
        trajectory.load(path)
