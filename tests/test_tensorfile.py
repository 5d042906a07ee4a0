import hashlib
import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mtt import tensorfile
from mtt.seeds import generator

ROOT = Path(__file__).parents[1]
HEADER = {"kind": "note", "list": [1, 2.5, None], "word": "é", "nested": {"b": 1, "a": [True]}}
SAVE = """
import torch
from mtt import tensorfile
tensors = {"ones": torch.ones(3, 4), "more": torch.arange(9), "few": torch.arange(5, dtype=torch.uint8)}
header = {"kind": "note", **{name: len(name) for name in order}}
tensorfile.save(path, {name: tensors[name] for name in order}, header)
"""


def example():
    draws = generator("tensorfile")
    return {
        "real": torch.randn(3, 5, generator=draws),
        "whole": torch.randint(-9, 9, (4,), generator=draws),
        "bytes": torch.randint(256, (2, 2), generator=draws).to(torch.uint8),
        "turned": torch.randn(3, 5, generator=draws, requires_grad=True).T,
        "scalar": torch.tensor(0.25, dtype=torch.float64),
    }


def test_what_was_saved_is_loaded(tmp_path):
    """Values, types, shapes and header; the folder is made; tensors may be views and need gradients."""
    path, tensors = tmp_path / "deep" / "er" / "a.safetensors", example()
    tensorfile.save(path, tensors, HEADER)
    found, header = tensorfile.load(path, "note")
    assert header == HEADER
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor.detach())


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path):
    """This one and another, in whatever order the tensors and the header's keys come, and however strings are hashed."""
    exec(SAVE, {"path": tmp_path / "here", "order": ["ones", "more", "few"]})
    there = f"path, order = {str(tmp_path / 'there')!r}, ['few', 'ones', 'more']\n{SAVE}"
    subprocess.run([sys.executable, "-c", there], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)
    digests = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("here", "there")}
    assert digests["here"] == digests["there"]


def test_the_bytes_are_those_that_safetensors_writes(tmp_path):
    """Tensors of every type, so in its order; also where one is written row by row."""
    draws = generator("bytes")
    tensors = {
        f"{k}{name}": torch.randint(2, (3, k, 5), generator=draws).to(dtype) for name, dtype in tensorfile.DTYPES.items() for k in (1, 2)
    }
    text = json.dumps(HEADER, sort_keys=True, separators=(",", ":"))
    save_file(tensors, tmp_path / "theirs", {"header": text})
    tensorfile.save(tmp_path / "ours", tensors, HEADER)
    rows = {name: (tensor.dtype, tensor.shape, (row for row in tensor)) for name, tensor in tensors.items()}
    tensorfile.stream(tmp_path / "rows", rows, HEADER)
    assert (tmp_path / "theirs").read_bytes() == (tmp_path / "ours").read_bytes() == (tmp_path / "rows").read_bytes()


def test_rows_that_cannot_be_made_leave_the_old_file(tmp_path):
    def rows():
        yield torch.ones(3)
        raise ValueError("no image")

    tensorfile.save(tmp_path / "a.safetensors", {"x": torch.zeros(2)}, {"kind": "note"})
    with pytest.raises(ValueError, match="no image"):
        tensorfile.stream(tmp_path / "a.safetensors", {"x": (torch.float32, (2, 3), rows())}, {"kind": "note"})
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert torch.equal(tensorfile.load(tmp_path / "a.safetensors", "note")[0]["x"], torch.zeros(2))


def test_saving_replaces_a_file_and_leaves_what_others_hold_open(tmp_path):
    """A reader that has opened the old file goes on reading the old numbers."""
    path = tmp_path / "a.safetensors"
    tensorfile.save(path, {"x": torch.zeros(1000)}, {"kind": "note"})
    old = safe_open(path, framework="pt")
    tensorfile.save(path, {"x": torch.ones(10)}, {"kind": "note"})
    assert torch.equal(old.get_tensor("x"), torch.zeros(1000))
    assert torch.equal(tensorfile.load(path, "note")[0]["x"], torch.ones(10))
    assert os.listdir(tmp_path) == ["a.safetensors"]


def missing(path):
    path.unlink()


def a_folder(path):
    path.unlink()
    path.mkdir()


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("x,y\n" * 100)


def without_its_last_byte(path):
    path.write_bytes(path.read_bytes()[:-1])


def with_half_a_header(path):
    path.write_bytes(path.read_bytes()[:40])


def with_a_gap(path):
    """A tensor that says of itself that it is shorter than its bytes."""
    path.write_bytes(path.read_bytes().replace(b'"shape":[4]', b'"shape":[3]'))


def without_header(path):
    save_file({"x": torch.ones(2)}, path)


def of_another_project(path):
    save_file({"x": torch.ones(2)}, path, {"format": "pt"})


def with_a_header_that_is_no_json(path):
    save_file({"x": torch.ones(2)}, path, {"header": "{'kind'"})


def with_a_header_that_is_no_mapping(path):
    save_file({"x": torch.ones(2)}, path, {"header": '["note"]'})


def without_kind(path):
    save_file({"x": torch.ones(2)}, path, {"header": "{}"})


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (missing, "no such file"),
        (a_folder, "found no whole safetensors file"),
        (empty, "found no whole safetensors file"),
        (text, "found no whole safetensors file"),
        (without_its_last_byte, "found no whole safetensors file"),
        (with_a_gap, "found a safetensors file without this project's header"),
        (with_half_a_header, "found no whole safetensors file"),
        (without_header, "found a safetensors file without this project's header"),
        (of_another_project, "found a safetensors file without this project's header"),
        (with_a_header_that_is_no_json, "found a safetensors file without this project's header"),
        (with_a_header_that_is_no_mapping, "found a safetensors file without this project's header"),
        (without_kind, "found a safetensors file without this project's header"),
    ],
)
def test_a_foreign_file_is_refused_by_name(tmp_path, spoil, found):
    """The message has the path, what was found, and what was wanted."""
    path = tmp_path / "a.safetensors"
    tensorfile.save(path, example(), HEADER)
    spoil(path)
    for read in (tensorfile.load, tensorfile.read_header):
        with pytest.raises(ValueError, match=found) as caught:
            read(path, "note")
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).endswith("wanted a note file")


def test_a_file_of_another_kind_is_refused_by_name(tmp_path):
    path = tmp_path / "a.safetensors"
    tensorfile.save(path, example(), HEADER)
    with pytest.raises(ValueError, match="found a note file; wanted a set file") as caught:
        tensorfile.load(path, "set")
    assert str(path) in str(caught.value)


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path):
    """A limit on the size of files stands for the full disk."""
    path, limits = tmp_path / "a.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    tensorfile.save(path, {"x": torch.ones(2)}, {"kind": "note"})
    old = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="could not be written") as caught:
            tensorfile.save(path, {"x": torch.ones(1 << 20)}, {"kind": "note"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(path) in str(caught.value)
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert path.read_bytes() == old


def test_a_header_that_json_cannot_hold_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        tensorfile.save(tmp_path / "a.safetensors", example(), {"kind": torch.ones(2)})
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_way_is_left_alone(tmp_path):
    path = tmp_path / "a.safetensors"
    path.mkdir()
    with pytest.raises(OSError, match="a.safetensors"):
        tensorfile.save(path, example(), HEADER)
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert os.listdir(path) == []


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_file_gets_the_mode_that_the_umask_gives(tmp_path, mask):
    before = os.umask(mask)
    try:
        tensorfile.save(tmp_path / "a.safetensors", example(), HEADER)
        assert os.umask(mask) == mask, "saving must put the umask back"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o666 & ~mask
