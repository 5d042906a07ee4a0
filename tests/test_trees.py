import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from raw import write_imagenet, write_jpegs, write_tiny_imagenet

from mtt import images, imageset, photos
from mtt.vision import torchvision


def picture(path):
    with Image.open(path) as opened:
        return torchvision.transforms.functional.pil_to_tensor(opened.convert("RGB"))


@pytest.fixture
def undecoded(monkeypatch):
    """No image file may be looked into."""

    def fail(path, side):
        raise AssertionError(path)

    monkeypatch.setattr(photos, "decoded", fail)


def test_tiny_imagenet_is_read_in_its_own_layout(tmp_path):
    """Classes in the order of wnids.txt, with their first words; train by folder, test by annotations; grey in three channels."""
    ids = write_tiny_imagenet(tmp_path, classes=6, train=2, test=2)
    raw = images.load("TinyImageNet", tmp_path, 8)
    root, (x, y), (x_test, y_test) = tmp_path / "tiny-imagenet-200", raw.train, raw.test
    assert ids != sorted(ids)
    assert raw.classes == [f"thing {name}" for name in ids]
    assert sorted(y.tolist()) == sorted([*range(6)] * 2)
    assert x.shape == (12, 3, 64, 64)
    for k, label in enumerate(y):
        folder = root / "train" / ids[label] / "images"
        assert any(torch.equal(x[:][k], picture(path)) for path in folder.iterdir())
    annotated = [line.split("\t")[:2] for line in (root / "val/val_annotations.txt").read_text().splitlines()]
    assert [ids[label] for label in y_test] == [name for _, name in annotated]
    assert all(torch.equal(a, picture(root / "val/images" / file)) for a, (file, _) in zip(x_test[:], annotated, strict=True))
    assert (raw.mean, raw.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_without_words_the_classes_are_called_by_their_ids(tmp_path):
    ids = write_tiny_imagenet(tmp_path, classes=3)
    (tmp_path / "tiny-imagenet-200/words.txt").unlink()
    assert images.load("TinyImageNet", tmp_path, 8).classes == ids


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """ImageNet's layout with images of three classes; gives its folder and the ids."""
    root = tmp_path_factory.mktemp("large")
    return root, write_imagenet(root, {0, 217, 999})


def test_a_class_of_imagenet_is_its_place_among_the_sorted_folders(large):
    """Kept in the order that is asked for; shorter side resized, centre cropped, as in `folder`; each by its own folder."""
    root, ids = large
    raw = images.load("ImageNet", root, 32, [999, 0])
    assert raw.classes == [ids[999], ids[0]]
    for part, (x, y) in {"train": raw.train, "val": raw.test}.items():
        paths = [path for name in (ids[0], ids[999]) for path in sorted((root / "ImageNet" / part / name).iterdir())]
        assert y.tolist() == [1 if ids[0] in str(path) else 0 for path in paths]
        assert torch.equal(x[:], torch.stack([photos.decoded(path, 32) for path in paths]))


def test_names_come_from_the_mapping_of_imagenet(tmp_path):
    ids = write_imagenet(tmp_path, {0, 1})
    lines = [f"{name} thing {k}, stuff\n" for k, name in enumerate(ids)]
    (tmp_path / "ImageNet/LOC_synset_mapping.txt").write_text("".join(lines))
    assert images.load("ImageNet", tmp_path, 32, [1, 0]).classes == ["thing 1", "thing 0"]


@pytest.mark.usefixtures("undecoded")
def test_an_index_beyond_the_classes_is_refused_in_one_line_before_an_image_is_read(large):
    with pytest.raises(ValueError, match="params.yaml: prepare.classes: found 1000; wanted 0 to 999, the classes of ImageNet") as caught:
        images.load("ImageNet", large[0], 32, [0, 1000])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [[3], [], [1, 2, 1], [-1, 2], "some"])
@pytest.mark.usefixtures("undecoded")
def test_classes_that_are_no_list_of_two_or_more_indices_once_each_are_refused_in_one_line(make_run, classes):
    run = make_run()
    run.set(prepare={"set": "ImageNet", "classes": classes})
    with pytest.raises(ValueError, match=r"^params.yaml: prepare.classes") as caught:
        run("prepare")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [[3, 8], [8, 3], [9, 0, 4]])
def test_classes_of_any_set_are_kept_in_their_order_and_numbered_anew(make_run, classes):
    x, y = images.load("digits", "", 8).train
    run = make_run()
    run.set(prepare={"classes": classes})
    run("prepare")
    parts = [imageset.load(f"data/prepared/{part}.safetensors") for part in ("train", "validation", "test")]
    assert parts[0].classes == [str(digit) for digit in classes]
    for label, digit in enumerate(classes):
        found = torch.cat([part.images[part.labels == label] for part in parts])
        assert sorted(found.flatten(1).tolist()) == sorted(x[y == digit].flatten(1).tolist())


TINY, LARGE = "tiny-imagenet-200", "ImageNet"


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("TinyImageNet", lambda root: (root / TINY).rename(root / "old"), "{}/tiny-imagenet-200: no such folder; put http"),
        (
            "TinyImageNet",
            lambda root: (root / TINY / "wnids.txt").unlink(),
            "{}/tiny-imagenet-200/wnids.txt: no such file; wanted the whole",
        ),
        (
            "TinyImageNet",
            lambda root: (root / TINY / "wnids.txt").write_bytes(b"\n"),
            "wnids.txt: found no line; wanted lines of 1 columns",
        ),
        ("TinyImageNet", lambda root: (root / TINY / "wnids.txt").write_bytes(b"\xff\xfe"), "wnids.txt: 'utf-8' codec can't decode"),
        ("TinyImageNet", lambda root: (root / TINY / "train").rename(root / "old"), "train: found no image in a folder of a class"),
        ("TinyImageNet", lambda root: (root / TINY / "val/val_annotations.txt").write_text("a.JPEG\n"), "wanted lines of 3 columns"),
        (
            "TinyImageNet",
            lambda root: (root / TINY / "val/val_annotations.txt").write_text("a n7 0\n"),
            "found the class 'n7'; wanted those of",
        ),
        ("TinyImageNet", lambda root: (root / TINY / "val/images/val_0.JPEG").unlink(), "val_0.JPEG: found no readable image"),
        ("ImageNet", lambda root: (root / LARGE).rename(root / "old"), "{}/ImageNet/train: found 0 folders of classes; put the 1000 of"),
        ("ImageNet", lambda root: next((root / LARGE / "train").iterdir()).rename(root / "old"), "found 999 folders of classes"),
        (
            "ImageNet",
            lambda root: (root / LARGE / "val").rename(root / "old"),
            "val: found no image in a folder of a class; wanted images in",
        ),
    ],
)
def test_what_is_missing_or_broken_says_in_one_line_what_was_wanted(tmp_path, name, spoil, says):
    if name == "TinyImageNet":
        write_tiny_imagenet(tmp_path, classes=3)
    else:
        write_imagenet(tmp_path, {0, 1})
    spoil(tmp_path)
    with pytest.raises(ValueError, match=".") as caught:
        images.load(name, tmp_path, 32).test[0][:]
    assert says.format(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_image_of_a_class_that_is_not_kept_harms_nobody(tmp_path):
    ids = write_imagenet(tmp_path, {0, 1, 2})
    (tmp_path / "ImageNet/train" / ids[2] / "more.JPEG").write_bytes(b"no image")
    assert len(images.load("ImageNet", tmp_path, 32, [0, 1]).train[0][:]) == 6
    with pytest.raises(ValueError, match="more.JPEG: found no readable image"):
        images.load("ImageNet", tmp_path, 32, [0, 2]).train[0][:]


def test_colour_of_a_class_that_is_not_kept_leaves_the_others_grey(tmp_path):
    for name, shape in {"ant": (8, 8), "bee": (8, 8), "cat": (8, 8, 3)}.items():
        write_jpegs(tmp_path / name, [shape])
    assert images.load("folder", tmp_path, 8, [0, 1]).train[0].shape == (2, 1, 8, 8)
    assert images.load("folder", tmp_path, 8, [0, 2]).train[0].shape == (2, 3, 8, 8)


GROWTH = """
import resource
from mtt import images
from stages import prepare
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
images.load("folder", "small", 256).train[0][:]
before = peak()
prepare.main("raw", "train.safetensors", "validation.safetensors", "test.safetensors")
print(peak() - before)
"""


@pytest.mark.slow
def test_preparing_takes_memory_for_a_few_images_whatever_their_number(make_run):
    """A process that prepares 94 MB of images grows by less than a third of them; all of its statistics are taken on the way."""
    run = make_run()
    run.set(prepare={"set": "folder", "side": 256})
    for root, count in (("small", 2), ("raw", 240)):
        for name in ("ant", "bee"):
            first = write_jpegs(run.folder / root / name, [(256, 256, 3)])[0]
            for number in range(1, count):
                os.link(first, first.with_name(f"{number}.JPEG"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", GROWTH], cwd=run.folder, env=environment, capture_output=True, text=True, check=True)
    written = sum(os.path.getsize(f"{part}.safetensors") for part in ("train", "validation", "test")) / 2**20
    assert written == pytest.approx(480 * 3 * 256**2 / 2**20, rel=0.01)
    assert float(found.stdout.splitlines()[-1]) < written / 3
    assert np.isfinite(imageset.load("train.safetensors").std).all()
