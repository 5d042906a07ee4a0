"""Readers are given files that were changed at random, and traps.

Each is refused by a ValueError of one line that names the file, or accepted unchanged. A changed number may be a valid file of another
number, so *unchanged* means: what is read is what an independent reader of the same bytes finds there, and nothing was made up,
dropped or turned into another type. Of a buffer it means more: whatever was changed in a trajectory, the index's digest refuses.
Never a crash, a hang, or more memory than the file's size plus 64 MiB: tests/guard.py reads each file first, in a process of its own.
"""

import copy
import hashlib
import json
import re

import pytest
import torch
import yaml
from conftest import ROOT
from guard import SECTIONS, guarding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open

from mtt import images, imageset, params, tensorfile, trajectory
from mtt.buffer import Buffer
from mtt.imageset import ImageSet
from mtt.seeds import generator
from mtt.state import State
from mtt.vision import torchvision
from mtt.whitening import Whitening
from stages.check import SCHEMAS

pytestmark = pytest.mark.slow
PARAMS = (ROOT / "recipes/default.yaml").read_text()
UNSAID = [("canvas_size", 1), ("canvas_samples", 1)]  # in no provenance
HUGE = {'"@huge"': "1" * 5000, '"@large"': "1e999", '"@nan"': "NaN", '"@deep"': "[" * 3000 + "]" * 3000}  # what json.dumps does not write
ODD = [
    None, True, False, -1, 0, 1, 3, 255, 1 << 31, 1 << 63, 1 << 64, 10**300, 0.5, -1.5, 1e308, "@huge", "@large", "@nan", "@deep", "", "x",
    "F32", "BF16", "set", "../0000.safetensors", "/etc/passwd", "0001.safetensors", "a\nb", "\x1b[2J", "\0", "\ud800", "a" * 300, [], {},
    [[]], [0], [0, 0], [-1, 4], [1 << 62, 4], ["a"], {"a": 1}, [None, 1.5],
]  # fmt: skip
SNIPPETS = [
    "&a ", "*a", "&a [*a]", "<<: *a", "<<: {a: 1}", "!!python/object/apply:os.system [id]", "!!binary x", "!!int ''", "!!int x", "!!bool x",
    "!!float x", "!!timestamp x", "!!map x", "!!set {a}", "!!omap [a]", "2001-99-99", "2001-01-01", "? [a]\n: 1\n", "{[]: 1, []: 2}",
    "{a: 1, a: 2}", "{1: 1, 0x1: 2}", "[" * 2000, "{" * 2000, "- " * 2000, "\t", "---\n", "...\n", "%YAML 9.9\n", "'", '"', "|\n", ".nan",
    ".inf", "1e999", "1.0e+999", "9" * 5000, "0b", "1:99:99", "\x00", "\x85", "\u2028", "\ufeff", '"a\\nb": 1', "? ", ": ", "[", "]", "}",
]  # fmt: skip


def vectors(rows=3):
    """A layout and as many vectors of it."""
    return [["0.weight", [2, 3]], ["0.bias", [2]]], list(torch.randn(rows, 8, generator=generator("fuzz")))


def write_trajectory(path):
    layout, rows = vectors()
    about = {"network": {"width": 2, "depth": 1}, "augmentation": {"families": ["color"]}, "set": "toy", "classes": ["a", "b"]}
    about |= {"shape": [1, 4, 4], "mean": [0.5], "std": [0.25], "normalised_by": "mean and std", "experts": {"epochs": 2}}
    about |= {"whitening": "0" * 64}
    trajectory.save(path, rows, {"layout": layout, **about, "index": 0, "accuracy": [0.5, 0.75, 1.0]})
    return about | {"layout": layout}


def write_set(path):
    pixels = torch.randn(4, 1, 3, 3, generator=generator("fuzz"))
    ImageSet(pixels, torch.tensor([0, 0, 1, 1]), "toy", ["a", "b"], [0.5], [0.25], 0.02, {"distill": {"ipc": 2}}).save(path)


def write_whitened(path):
    pixels = torch.randn(4, 1, 3, 3, generator=generator("fuzz"))
    map = Whitening(torch.rand(9), torch.eye(9))
    ImageSet(pixels, torch.tensor([0, 0, 1, 1]), "toy", ["a", "b"], [0.0], [1.0], 0.02, whitening=map).save(path)


def write_canvases(path):
    pixels = torch.randn(2, 1, 6, 6, generator=generator("fuzz"))
    ImageSet(pixels, torch.tensor([0, 1]), "toy", ["a", "b"], [0.5], [0.25], 0.02, canvas_size=2, canvas_samples=3).save(path)


def write_index(path):
    files = []
    for number in range(2):
        file = path.parent / f"{number:04d}.safetensors"
        about = write_trajectory(file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        files.append({"file": file.name, "sha256": digest, "bytes": file.stat().st_size})
    path.write_text(json.dumps({**about, "snapshots": 3, "files": files}, indent=1, sort_keys=True))


def write_params(path):
    path.write_text(PARAMS)


def write_checkpoint(path):
    state = State.begin(torch.randn(2, 1, 3, 3, generator=generator("fuzz")), torch.arange(2), 0.02, {"compiled": False})
    state.curve, state.scores, state.iteration = [[1, 0, 0, 0.5, 0.02, 0]], [[1, 0.5]], 1
    state.save(path)


def write_record(path):
    """The first file of CIFAR-10, two records; the others beside it."""
    record = bytes([1, *[7] * 3072, 9, *[200] * 3072])
    for name in [path.name, *[f"data_batch_{k}.bin" for k in range(2, 6)], "test_batch.bin"]:
        (path.parent / name).write_bytes(record)
    (path.parent / "batches.meta.txt").write_text("\n".join("abcdefghij"))


def write_picture(path):
    """One of two classes of a folder set."""
    for name in (path.parent, path.parent.parent / "other"):
        name.mkdir(exist_ok=True)
        Image.fromarray(torch.randint(256, (9, 10, 3), generator=generator("fuzz")).to(torch.uint8).numpy()).save(name / path.name)


WRITE = {
    "trajectory": write_trajectory, "set": write_set, "whitened": write_whitened, "canvases": write_canvases, "index": write_index,
    "params": write_params, "checkpoint": write_checkpoint, "record": write_record, "picture": write_picture,
}  # fmt: skip
PLACES = {
    "index": "index.json", "params": "params.yaml", "record": "cifar-10-batches-bin/data_batch_1.bin", "picture": "one/picture.png"
}  # fmt: skip


class Case:
    """A kind of file, a place for it, and the bytes of a good one."""

    def __init__(self, kind, folder, guard):
        self.kind, self.guard, self.path = kind, guard, folder / kind / PLACES.get(kind, "0000.safetensors")
        self.path.parent.mkdir(parents=True)
        WRITE[kind](self.path)
        self.good = self.path.read_bytes()

    def refusal(self, data):
        """Put `data` there; None where it is accepted, else the refusal, each line of which names the file."""
        self.path.write_bytes(data)
        found = self.guard.read(self.kind, self.path)
        place = self.path.parent if self.kind in ("index", "record") else self.path  # or another file of the folder
        for line in [] if found is None else found.split("\n"):
            assert line.startswith(str(place)), found
            assert line.isprintable(), found
            assert self.kind == "params" or len(line) < 1000, found
        assert found is None or self.kind == "params" or "\n" not in found, found
        return found


@pytest.fixture(scope="module")
def guard():
    with guarding() as guard:
        yield guard


@pytest.fixture(scope="module")
def case(guard, tmp_path_factory):
    """A function kind -> its Case, of which there is one."""
    folder, made = tmp_path_factory.mktemp("fuzz"), {}
    return lambda kind: made.setdefault(kind, None) or made.update({kind: Case(kind, folder, guard)}) or made[kind]


# changed bytes


@st.composite
def damaged(draw, good):
    """The bytes `good`, a few times flipped, cut, inserted into or repeated; mostly near the start, where headers are."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        last = max(len(data) - 1, 0)
        place = draw(st.one_of(st.integers(0, min(last, 60)), st.integers(0, min(last, 900)), st.integers(0, last)))
        length = draw(st.sampled_from([1, 2, 8, 100]))
        change = draw(st.sampled_from(["flip", "flip", "set", "cut", "insert", "delete", "repeat", "length"]))
        if change == "flip":
            data[place : place + 1] = bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[place : place + 1])
        elif change == "set":
            data[place : place + 1] = draw(st.sampled_from([b"0", b"9", b"-", b"[", b"{", b'"', b",", b"e", b"\n", b"\0", b"\xff"]))
        elif change == "cut":
            del data[place:]
        elif change == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=9))
        elif change == "delete":
            del data[place : place + length]
        elif change == "repeat":
            data[place:place] = data[place : place + length]
        else:
            number = draw(st.sampled_from([0, 1, 2, 7, len(data) - 8, len(data), 1 << 20, 1 << 31, 1 << 63, (1 << 64) - 1]))
            data[:8] = max(number, 0).to_bytes(8, "little")
    return bytes(data)


# changed structure


def places(value, path=()):
    """The paths of all that stands in a nested value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, child in inner for found in places(child, (*path, key)))]


@st.composite
def altered(draw, value):
    """A copy of `value`, a few entries of which are replaced, removed, doubled or renamed."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 2))):
        options = [path for path in places(value) if path]
        if not options:
            break
        *path, key = draw(st.sampled_from(options))
        inner = value
        for step in path:
            inner = inner[step]
        change = draw(st.sampled_from(["replace"] * 4 + ["remove", "double", "rename"]))
        if change == "replace":
            odd = draw(st.one_of(st.sampled_from(ODD), st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
            inner[key] = copy.deepcopy(odd)  # the next change may be within it
        elif change == "remove":
            del inner[key]
        elif isinstance(inner, list):
            inner.insert(key, inner[key])
        else:
            name = draw(st.sampled_from(["images", "__metadata__", "kind", "a\nb", "", "\ud800", "theta"]))
            inner[name] = inner[key] if change == "double" else inner.pop(key)
    return value


def text_of(value):
    """JSON with what json.dumps does not write."""
    text = json.dumps(value, separators=(",", ":"))
    for word, raw in HUGE.items():
        text = text.replace(word, raw)
    return text


@st.composite
def restructured(draw, good):
    """A tensor file whose entries or header are altered, its length right again; its numbers cut or drawn out too, at times."""
    length = int.from_bytes(good[:8], "little")
    entries, body = json.loads(good[8 : 8 + length]), good[8 + length :]
    if draw(st.booleans()):
        entries["__metadata__"]["header"] = text_of(draw(altered(json.loads(entries["__metadata__"]["header"]))))
    else:
        entries = draw(altered(entries))
    text = text_of(entries).encode()
    if draw(st.booleans()):  # a key twice
        text = text.replace(b"{", draw(st.sampled_from([b'{"theta":1,', b'{"__metadata__":{},', b'{"":0,"":0,'])), 1)
    body = draw(st.sampled_from([body, body, body, body[:-4], body + bytes(4), body * 2, b""]))
    return len(text).to_bytes(8, "little") + text + body


@st.composite
def rewritten(draw, good):
    """params.yaml with values altered, or with YAML's own oddities put somewhere into its text."""
    if draw(st.booleans()):
        text = yaml.safe_dump(draw(altered(yaml.safe_load(good))), allow_unicode=draw(st.booleans()))
        for word, raw in HUGE.items():
            text = text.replace(word[1:-1], raw)
        return text.encode("utf-8", "surrogatepass")
    text = good.decode()
    for _ in range(draw(st.integers(1, 2))):
        lines = text.split("\n")
        number = draw(st.integers(0, len(lines) - 1))
        place = draw(st.integers(0, len(lines[number])) | st.just(lines[number].find(":") + 1))
        lines[number] = lines[number][:place] + " " * draw(st.integers(0, 1)) + draw(st.sampled_from(SNIPPETS)) + lines[number][place:]
        text = "\n".join(lines)
    return text.encode()


# what unchanged means


def same_tensors(path, kind):
    """A tensor file reads as safetensors' own reader has it: names, types, shapes, bytes, and the header, loaded by itself."""
    found, header = tensorfile.load(path, kind)
    with safe_open(path, framework="pt") as wanted:
        assert set(wanted.keys()) == set(found)
        for name in found:
            assert found[name].dtype == wanted.get_tensor(name).dtype
            assert found[name].shape == wanted.get_tensor(name).shape
            assert found[name].numpy().tobytes() == wanted.get_tensor(name).numpy().tobytes()
        assert header == json.loads(wanted.metadata()["header"])
    return found, header


def check_trajectory(path):
    found, (tensors, header) = trajectory.load(path), same_tensors(path, "trajectory")
    assert found.header == header
    assert torch.equal(found[:].view(torch.uint8), tensors["theta"].view(torch.uint8))
    assert len(found) >= 1


def check_set(path):
    found, (tensors, header) = imageset.load(path), same_tensors(path, "set")
    whitening = zip(imageset.WHITENING, (found.whitening.mean, found.whitening.matrix), strict=True) if found.whitening else ()
    read = {"images": found.images, "labels": found.labels, **dict(whitening)}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    named = {"learning_rate": None, "provenance": {}, "canvas_size": 1, "canvas_samples": 1, **header}
    assert {name: getattr(found, name) for name in named if name != "kind"} == {name: named[name] for name in named if name != "kind"}
    assert found.normalised().isfinite().all()


def check_index(path):
    found = Buffer(path.parent)
    assert found.index == json.loads(path.read_text())
    assert [expert.path for expert in found.experts] == [str(path.parent / file["file"]) for file in found.index["files"]]


class Wanted(yaml.SafeLoader):
    """PyYAML's, where 1e-05 is a number."""


Wanted.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)[eE][-+]?[0-9]+$"), None)


def check_params(path):
    values = Wanted(path.read_text()).get_single_data()
    assert repr(params.read_all(path)) == repr(values)
    for section in SECTIONS:
        found, wanted = params.read(section, SCHEMAS[section], path).model_dump(by_alias=True), values[section]
        assert found == {key: value for key, value in wanted.items() if key in found or (key, value) not in UNSAID}


def check_checkpoint(path):
    same_tensors(path, "checkpoint")


def check_record(path):
    data = path.read_bytes()
    found = images.load("CIFAR10", path.parent.parent, 32)
    count = len(data) // 3073
    assert found.train[1][:count].tolist() == list(data[::3073])
    assert found.train[0][:count].numpy().tobytes() == b"".join(data[k * 3073 + 1 : (k + 1) * 3073] for k in range(count))


def check_picture(path):
    with Image.open(path) as picture:
        wanted = torchvision.transforms.functional.center_crop(torchvision.transforms.functional.resize(picture.convert("RGB"), 8), 8)
    found = images.load("folder", path.parent.parent, 8).train[0][:]
    assert torch.equal(found[0], torchvision.transforms.functional.pil_to_tensor(wanted)[: found.shape[1]])


CHECK = {
    "trajectory": check_trajectory, "set": check_set, "whitened": check_set, "canvases": check_set, "index": check_index,
    "params": check_params, "checkpoint": check_checkpoint, "record": check_record, "picture": check_picture,
}  # fmt: skip
STRUCTURE = {"index": lambda good: altered(json.loads(good)).map(lambda value: text_of(value).encode()), "params": rewritten}


def fuzzed(count):
    """Settings of a test over `count` files, the same ones each time."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=quiet)


@pytest.mark.parametrize("kind", WRITE)
def test_a_good_file_is_accepted(case, kind):
    found = case(kind)
    assert found.refusal(found.good) is None
    CHECK[kind](found.path)


@pytest.mark.parametrize("kind", WRITE)
@fuzzed(150)
@given(data=st.data())
def test_a_file_of_changed_bytes_is_accepted_as_it_is_or_refused_by_name(case, kind, data):
    found = case(kind)
    if found.refusal(data.draw(damaged(found.good))) is None:
        CHECK[kind](found.path)


@pytest.mark.parametrize("kind", ["trajectory", "set", "whitened", "canvases", "index", "params", "checkpoint"])
@fuzzed(200)
@given(data=st.data())
def test_a_file_of_changed_structure_is_accepted_as_it_is_or_refused_by_name(case, kind, data):
    found = case(kind)
    if found.refusal(data.draw(STRUCTURE.get(kind, restructured)(found.good))) is None:
        CHECK[kind](found.path)


@fuzzed(150)
@given(data=st.data())
def test_a_trajectory_that_was_changed_in_any_way_is_refused_by_its_buffer(case, data):
    index = case("index")
    file = index.path.parent / "0001.safetensors"
    good = file.read_bytes()
    bad = data.draw(damaged(good))
    file.write_bytes(bad)
    try:
        found = index.refusal(index.good)
    finally:
        file.write_bytes(good)
    assert (found is None) == (bad == good)


# traps: what was found by the above or set on purpose, each refused


def tensors(good, change=lambda entries: None, header=lambda header: None, body=None):
    """A tensor file whose entries and header were changed by the two functions, in place or by what they give."""
    length = int.from_bytes(good[:8], "little")
    entries = json.loads(good[8 : 8 + length])
    inner = json.loads(entries["__metadata__"]["header"])
    inner = header(inner) or inner
    entries["__metadata__"]["header"] = inner if isinstance(inner, str) else text_of(inner)
    text = change(entries) or entries
    text = (text if isinstance(text, str) else text_of(text)).encode()
    return len(text).to_bytes(8, "little") + text + (good[8 + length :] if body is None else body)


def sized(good, shape, body=b"", dtype="F32"):
    """A trajectory whose theta has that shape and these bytes."""
    return tensors(good, lambda entries: entries["theta"].update(shape=shape, data_offsets=[0, len(body)], dtype=dtype), body=body)


def header(good, **changes):
    return tensors(good, header=lambda inner: inner.update(changes))


def index(good, **changes):
    return text_of({**json.loads(good), **changes}).encode()


def first(good, **changes):
    """An index whose first file is changed."""
    files = json.loads(good)["files"]
    return index(good, files=[{**files[0], **changes}, *files[1:]])


def full(opening, closing="", size=1 << 20):
    """JSON of nearly `size` bytes: the opening, over and over, and the closing as often."""
    count = (size - 2000) // len(opening + closing)
    return opening * count + closing * count


LETTERS = zip("abcdefgh", "bcdefghi", strict=True)
BILLION = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in LETTERS)
NESTED = b"&a [x], " + b"".join(b"&%c [%s], " % (b, b",".join([b"*%c" % a] * 9)) for a, b in zip(b"abcdefgh", b"bcdefghi", strict=True))
LISTS = '{"kind":"%s","classes":[%s],"layout":[%s],"mean":[%s]}'
TRAPS = {
    "a header longer than any memory": ("trajectory", lambda good: (1 << 62).to_bytes(8, "little") + good[8:]),
    "a header longer than allowed, and there": ("trajectory", lambda good: header(good, x="x" * (1 << 20))),
    "a header of two million objects": ("trajectory", lambda good: tensors(good, lambda entries: "[" + full("{},")[:-1] + "]")),
    "objects in objects": ("trajectory", lambda good: tensors(good, lambda entries: '{"a":[' + full('{"":{"":{}}},')[:-1] + "]}")),
    "brackets in brackets": ("trajectory", lambda good: tensors(good, lambda entries: full("[", "]"))),
    "brackets in brackets of the inner header": ("set", lambda good: tensors(good, header=lambda inner: full("[", "]"))),
    "brackets forty deep": ("set", lambda good: header(good, provenance={"a": json.loads("[" * 40 + "]" * 40)})),
    "a million faults": ("set", lambda good: tensors(good, header=lambda inner: LISTS % ("set", full("1,", size=1 << 19) + "1", "", ""))),
    "a million faults in a layout": (
        "trajectory", lambda good: tensors(good, header=lambda inner: LISTS % ("trajectory", "", full("1,", size=1 << 19) + "1", ""))
    ),
    "a million names": (
        "set", lambda good: tensors(good, header=lambda inner: {**inner, **{f"{k:x}": 0 for k in range(80000)}})
    ),
    "a million tensors": (
        "set", lambda good: tensors(good, lambda entries: {**entries, **{f"{k:x}": 0 for k in range(80000)}})
    ),
    "a number of 5,000 digits": ("trajectory", lambda good: sized(good, ["@huge", 8])),
    "rows of nothing": ("trajectory", lambda good: tensors(
        sized(good, [1 << 60, 0]), header=lambda inner: {**inner, "layout": [["a", [0]]]}, body=b"")),
    "no rows": ("trajectory", lambda good: sized(good, [0, 8])),
    "no rows of a great many dimensions": ("trajectory", lambda good: sized(good, [0] + [1 << 40] * 40)),
    "no rows, but long ones": ("trajectory", lambda good: sized(good, [0, 1 << 62])),
    "a negative shape": ("trajectory", lambda good: sized(good, [-3, -8], bytes(96))),
    "a fraction for a shape": ("trajectory", lambda good: sized(good, [3.0, 8], bytes(96))),
    "whole numbers for parameters": ("trajectory", lambda good: sized(good, [3, 8], bytes(96), "I32")),
    "an unknown type": ("trajectory", lambda good: sized(good, [3, 8], bytes(96), "F31")),
    "a type that is a list": ("trajectory", lambda good: sized(good, [3, 8], bytes(96), ["F32"])),
    "an offset before the start": ("trajectory", lambda good: tensors(
        good, lambda entries: entries["theta"].update(data_offsets=[-96, 0]))),
    "tensors that overlap": ("set", lambda good: tensors(good, lambda entries: entries["images"].update(data_offsets=[16, 160]))),
    "tensors with a gap between them": ("set", lambda good: tensors(
        good, lambda entries: entries["images"].update(data_offsets=[40, 184]), body=bytes(184))),
    "bytes that belong to no tensor": ("set", lambda good: good + bytes(8)),
    "a tensor twice": ("trajectory", lambda good: tensors(good, lambda entries: text_of(entries).replace("{", '{"theta":1,', 1))),
    "a key of the header twice": ("set", lambda good: tensors(good, header=lambda inner: text_of(inner).replace("{", '{"kind":"set",', 1))),
    "a header in UTF-16": ("set", lambda good: (64).to_bytes(8, "little") + "{\"__metadata__\":1}".ljust(31).encode("utf-16")),
    "a kind that breaks the line": ("set", lambda good: header(good, kind="set\nerror: all is lost")),
    "a kind that fills the screen": ("set", lambda good: header(good, kind="set" * 100000)),
    "a kind that is a list": ("set", lambda good: header(good, kind=["set"])),
    "a mean that is no number": ("set", lambda good: header(good, mean=["@nan"])),
    "a mean beyond all numbers": ("set", lambda good: header(good, mean=["@large"])),
    "a mean of three hundred digits": ("set", lambda good: header(good, mean=[10**400])),
    "a mean that is true": ("set", lambda good: header(good, mean=[True])),
    "a deviation of zero": ("set", lambda good: header(good, std=[0.0])),
    "classes that are a word": ("set", lambda good: header(good, classes="ab")),
    "classes that are null": ("set", lambda good: header(good, classes=None)),
    "classes that are numbers": ("set", lambda good: header(good, classes=[1, 2])),
    "a step size below zero": ("set", lambda good: header(good, learning_rate=-0.01)),
    "a name that breaks the line": ("set", lambda good: header(good, name="toy\nerror: all is lost")),
    "canvases of one and a half images": ("set", lambda good: header(good, canvas_size=2)),
    "canvases of no image": ("set", lambda good: header(good, canvas_size=0)),
    "crops without a canvas": ("set", lambda good: header(good, canvas_samples=2)),
    "half a whitening": ("whitened", lambda good: tensors(
        good, lambda entries: {("x" if name == "whitening_mean" else name): entry for name, entry in entries.items()})),
    "a whitening of other images": ("whitened", lambda good: tensors(
        good, lambda entries: entries["images"].update(shape=[4, 1, 1, 9]) or entries["whitening_matrix"].update(shape=[27, 3]))),
    "a whitening of a whole canvas": ("whitened", lambda good: header(good, canvas_size=3)),
    "images that are not finite": ("set", lambda good: good[:-4] + b"\xff\xff\xff\xff"),
    "images of no pixels": ("set", lambda good: tensors(
        good, lambda entries: entries["images"].update(shape=[4, 1, 0, 3], data_offsets=[32, 32]), body=good[-176:-144])),
    "an accuracy for each of two epochs of three": ("trajectory", lambda good: header(good, accuracy=[0.5, 0.5])),
    "an accuracy above one": ("trajectory", lambda good: header(good, accuracy=[0.5, 0.5, 1.5])),
    "a layout of words": ("trajectory", lambda good: header(good, layout=[["a", "8"]])),
    "a layout beyond all numbers": ("trajectory", lambda good: header(good, layout=[["a", [1 << 62, 1 << 62]]])),
    "a file of the folder above": ("index", lambda good: first(good, file="../trajectory/0000.safetensors")),
    "a file of the root": ("index", lambda good: first(good, file="/etc/passwd")),
    "a file with a zero in its name": ("index", lambda good: first(good, file="a\0.safetensors")),
    "a file of too long a name": ("index", lambda good: first(good, file="a" * 300 + ".safetensors")),
    "a file that is no word": ("index", lambda good: first(good, file=["0000.safetensors"])),
    "a file twice": ("index", lambda good: first(good, file="0001.safetensors")),
    "a digest that is none": ("index", lambda good: first(good, sha256="0")),
    "no files": ("index", lambda good: index(good, files=[])),
    "files that are a word": ("index", lambda good: index(good, files="0000")),
    "a million faulty files": ("index", lambda good: index(good, files=[0] * 500000)),
    "an image larger than any memory": ("index", lambda good: index(good, shape=[1, 1 << 40, 1 << 40])),
    "fewer means than channels": ("index", lambda good: index(good, shape=[3, 4, 4])),
    "snapshots below zero": ("index", lambda good: index(good, snapshots=-1)),
    "an index that is a list": ("index", lambda good: b"[]"),
    "an index that is null": ("index", lambda good: b"null"),
    "an index in no UTF-8": ("index", lambda good: b"\xfb" + good),
    "an index of many megabytes": ("index", lambda good: b" " * (100 << 20)),
    "an index of brackets": ("index", lambda good: full("[", "]").encode()),
    "a checkpoint without its history": ("checkpoint", lambda good: tensors(
        good, header=lambda inner: {"kind": "checkpoint", "iteration": 1})),
    "a checkpoint without its momentum": ("checkpoint", lambda good: tensors(
        good, lambda entries: text_of(entries).replace("velocity_x", "velocity_y"))),
    "a billion words by aliases": ("params", lambda good: BILLION.encode() + good),
    "a billion words where they are read": ("params", lambda good: good.replace(b"families: [", b"families: [" + NESTED)),
    "a value within itself": ("params", lambda good: good.replace(b"families: [", b"families: &a [*a, ")),
    "brackets in YAML": ("params", lambda good: b"a: " + b"[" * 20000),
    "dashes in YAML": ("params", lambda good: b"- " * 15000),
    "many faults in YAML": ("params", lambda good: good.replace(b"families: [", b"families: [" + b"1," * 14000)),
    "many keys in YAML": ("params", lambda good: good.replace(
        b"augmentation:", b"augmentation:\n  " + b"\n  ".join(b"%x: 1" % k for k in range(3000)))),
    "many megabytes of YAML": ("params", lambda good: good + b"#" * (100 << 20)),
    "a date that there is not": ("params", lambda good: good.replace(b"seed: 0", b"seed: 2001-99-99", 1)),
    "a whole number that is empty": ("params", lambda good: good.replace(b"seed: 0", b"seed: !!int ''", 1)),
    "a truth that is neither": ("params", lambda good: good.replace(b"seed: 0", b"seed: !!bool x", 1)),
    "a mapping that is a word": ("params", lambda good: good.replace(b"seed: 0", b"seed: !!map x", 1)),
    "a list for a key, twice": ("params", lambda good: good.replace(b"seed: 0", b"seed: {[]: 1, []: 2}", 1)),
    "a number of 5,000 digits in YAML": ("params", lambda good: good.replace(b"seed: 0", b"seed: " + b"9" * 5000, 1)),
    "a key that breaks the line": ("params", lambda good: good.replace(b"network:", b'network:\n  "a\\nerror": 1')),
    "an object": ("params", lambda good: good.replace(b"seed: 0", b"seed: !!python/object/apply:os.system [exit 1]", 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_refused(case, name):
    kind, make = TRAPS[name]
    found = case(kind)
    assert found.refusal(make(found.good)) is not None
