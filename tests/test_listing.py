"""prepare.set: csv"""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from raw import random_bytes

from mtt import images, imageset, listing, photos
from stages import check

ROWS = [("a/0.png", "bee", "train"), ("b/1.png", "ant", "train"), ("2.png", "bee", "test"), ("a/3.png", "ant", "test")]


def write(root, rows=ROWS, columns=("path", "label", "split"), shape=(8, 8)):
    """The images and their labels.csv; gives {path: array}."""
    found = {}
    for number, (path, *_) in enumerate(rows):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        found[path] = random_bytes(*shape, seed=number)
        Image.fromarray(found[path]).save(root / path)
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *(row[: len(columns)] for row in rows)])
    return found


def test_images_and_labels_are_those_of_the_rows_and_classes_the_sorted_labels(tmp_path):
    found = write(tmp_path)
    raw = images.load("csv", tmp_path, 8)
    assert raw.classes == ["ant", "bee"]
    for (x, y), part in ((raw.train, "train"), (raw.test, "test")):
        rows = [row for row in ROWS if row[2] == part]
        assert [raw.classes[label] for label in y] == [label for _, label, _ in rows]
        assert torch.equal(x[:], torch.stack([torch.from_numpy(found[path])[None] for path, *_ in rows]))


@pytest.mark.parametrize("columns", [("path", "label"), ("path", "label", "split")])
def test_without_a_test_row_the_test_set_is_cut_from_train(tmp_path, columns):
    write(tmp_path, [(path, label, "train") for path, label, _ in ROWS], columns)
    raw = images.load("csv", tmp_path, 8)
    assert len(raw.train[0]) == 4
    assert raw.test is None


def test_the_same_images_as_a_tree_and_as_a_csv_are_prepared_alike(make_run):
    """But for the name of the set; with colour, other columns, spaces, a byte order mark, and names that need quotes."""
    run, rows = make_run(), [(f"{name}/a, {k}.png", name, f"note {k}") for name in ("ant", "bee") for k in range(9)]
    write(run.folder / "raw", rows, ("path", "label", "remark"), (9, 8, 3))
    text = (run.folder / "raw/labels.csv").read_text().replace(",ant,", ", ant ,")
    (run.folder / "raw/labels.csv").write_text("\ufeff" + text)
    run.set(prepare={"set": "folder"})
    run("prepare")
    tree = [imageset.load(f"data/prepared/{part}.safetensors") for part in ("train", "validation", "test")]
    run.set(prepare={"set": "csv"})
    run("prepare")
    for part, wanted in zip(("train", "validation", "test"), tree, strict=True):
        found = imageset.load(f"data/prepared/{part}.safetensors")
        assert torch.equal(found.images, wanted.images)
        assert torch.equal(found.labels, wanted.labels)
        assert found.about() == {**wanted.about(), "name": "csv"}


PLAIN = "path,label\n0.png,ant\n1.png,bee\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,label\n0.png,ant\n", "found the first line 'file,label'; wanted a CSV of path,label"),
        ("path;label\n0.png;ant\n", "found the first line 'path;label'; wanted a CSV of path,label and, if the set has a test part"),
        ("path,label,label\n0.png,ant,bee\n", "found the first line 'path,label,label'"),
        ("", "found the first line ''"),
        ("path,label\n", "found no row; wanted two classes"),
        ("path,label\n0.png,ant\n1.png,ant\n", "found the single class 'ant'"),
        ("path,label\n0.png,ant\n\n1.png, \n", "line 4: found the label ''"),
        ("path,label\n0.png,ant\n1.png\n", "line 3: found the label ''"),
        ('path,label\n0.png,"a\nb"\n', "line 3: found the label 'a\\nb'"),
        (f"path,label\n0.png,{'a' * 201}\n", "line 2: found the label 'aaa"),
        ("path,label\n,ant\n", "line 2: found the path ''; wanted one that begins at {root} and stays in it"),
        ("path,label\n../0.png,ant\n", "line 2: found the path '../0.png'"),
        ("path,label\na/../../0.png,ant\n", "line 2: found the path 'a/../../0.png'"),
        ("path,label\n/tmp/0.png,ant\n", "line 2: found the path '/tmp/0.png'"),
        ("path,label\n9.png,ant\n", "line 2: found no file {root}/9.png; wanted the image there"),
        ("path,label\na,ant\n", "line 2: found no file {root}/a"),
        (PLAIN + "./0.png,bee\n", "line 4: found ./0.png, which stands in line 2 too; wanted each image once"),
        ("path,label\n0.png,ant,bee\n", "line 2: found more values than columns; wanted quotes"),
        ("path,label,split\n0.png,ant,train\n1.png,bee,valid\n", "line 3: found the split 'valid'; wanted train or test (validation"),
        ("path,label,split\n0.png,ant,train\n1.png,bee,\n", "line 3: found the split ''"),
        ("path,label,split\n0.png,ant,train\n1.png,bee,test\n", "found no test image of ['ant']; wanted some of every class"),
        ("path,label,split\n0.png,ant,test\n1.png,bee,test\n", "found no train image of ['ant', 'bee']"),
        ('path,label\n"0.png,ant\n', "unexpected end of data; wanted a CSV of"),
        ("path,label\n" + "a" * 140_000 + ",ant\n", "field larger than field limit (131072); wanted a CSV of"),
        (b"path,label\n\xff.png,ant\n", "'utf-8' codec can't decode"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_fault_of_the_csv_is_refused_in_one_line_that_names_it(tmp_path, text, says):
    write(tmp_path, [("0.png", "ant"), ("1.png", "bee")], ("path", "label"))
    (tmp_path / "a").mkdir()
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=".") as caught:
        listing.read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/labels.csv: {says.format(root=tmp_path)}")
    assert "\n" not in str(caught.value)


def test_a_missing_csv_is_refused_with_what_it_should_hold(tmp_path):
    with pytest.raises(ValueError, match="labels.csv: no such file; wanted a CSV of path,label .* in the folder prepare.raw"):
        images.load("csv", tmp_path, 8)


def test_an_image_that_cannot_be_read_is_refused_by_its_file(tmp_path):
    write(tmp_path)
    (tmp_path / "2.png").write_text("no image")
    with pytest.raises(ValueError, match=r"2.png: found no readable image"):
        images.load("csv", tmp_path, 8).test[0][:]


# what people bring


def test_a_class_of_three_beside_one_of_three_thousand_has_an_image_in_each_part(make_run):
    """And the check says what ipc may be."""
    run = make_run()
    rows = [(f"{k}.png", "common") for k in range(300)] + [(f"rare{k}.png", "rare") for k in range(3)]
    write(run.folder / "raw", rows, ("path", "label"))
    text = "path,label\n" + "".join(f"{path},{label}\n" for path, label in rows)
    for copy in range(1, 10):
        for k in range(300):
            (run.folder / f"raw/{k}-{copy}.png").hardlink_to(run.folder / f"raw/{k}.png")
            text += f"{k}-{copy}.png,common\n"
    (run.folder / "raw/labels.csv").write_text(text)
    run.set(prepare={"set": "csv", "test": 0.2, "validation": 0.1})
    run("prepare")
    counts = [imageset.load(f"data/prepared/{part}.safetensors").labels.bincount().tolist() for part in ("train", "validation", "test")]
    assert counts == [[2160, 1], [240, 1], [600, 1]]
    run.set(distill={"ipc": 10}, baseline={"ipc": 10})
    with pytest.raises(
        ValueError, match=r"^params.yaml: distill.ipc = 10; wanted at most 1, the images of class 'rare', or prepare.classes w"
    ):
        check.main("data/prepared/train.safetensors")


BLUE = np.array([[[0, 0, 255]]] * 64, dtype=np.uint8).reshape(8, 8, 3)


@pytest.mark.parametrize(
    ("name", "mode"), [("x.jpg", "CMYK"), ("x.tif", "CMYK"), ("x.png", "P"), ("x.gif", "P"), ("x.webp", "RGBA"), ("x.bmp", "P")]
)
def test_a_blue_image_is_blue_however_it_is_stored(tmp_path, name, mode):
    Image.fromarray(BLUE).convert(mode).save(tmp_path / name)
    found = photos.decoded(tmp_path / name, 8).int()
    assert (found - torch.tensor([0, 0, 255])[:, None, None]).abs().max() <= 2


@pytest.mark.parametrize(("mode", "name"), [("RGBA", "x.png"), ("LA", "x.png"), ("RGBA", "x.gif"), ("RGBA", "x.webp")])
def test_what_is_transparent_is_white(tmp_path, mode, name):
    """And not the black that may stand under it; half transparent black is grey."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 8, 4))
    image = image.convert(mode)
    image.save(tmp_path / name, **({"lossless": True} if name == "x.webp" else {}))
    found = photos.decoded(tmp_path / name, 8)
    assert found[:, :4].max() == 0
    assert found[:, 4:].min() == 255


def test_half_transparent_black_is_grey(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 128)).save(tmp_path / "x.png")
    assert photos.decoded(tmp_path / "x.png", 8).unique().tolist() == [127]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_a_photograph_is_turned_as_its_exif_says(tmp_path, name, orientation):
    """A stored corner goes where the EXIF standard has it: row 0 and column 0 of the file are these sides of the picture."""
    row, column = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "lt", 6: "rt", 7: "rb", 8: "lb"}[orientation]
    stored = np.zeros((16, 16), dtype=np.uint8)
    stored[:8, :8] = 255  # beside row 0 and column 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / name, exif=exif)
    found = photos.decoded(tmp_path / name, 16)[0]
    corner = found[:8] if "t" in (row, column) else found[8:]
    corner = corner[:, :8] if "l" in (row, column) else corner[:, 8:]
    assert corner.float().mean() > 250
    assert found.float().mean() == pytest.approx(255 / 4, abs=3)


def test_broken_exif_harms_nobody_and_turns_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(BLUE).save(tmp_path / "x.jpg", exif=exif)
    good = (tmp_path / "x.jpg").read_bytes()
    place = good.index(b"Exif\0\0") + 20
    (tmp_path / "x.jpg").write_bytes(good[:place] + b"\xff" + good[place + 1 :])
    assert photos.decoded(tmp_path / "x.jpg", 8).shape == (3, 8, 8)


def test_of_an_animated_picture_the_first_is_taken(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), grey, dtype=np.uint8)) for grey in (10, 200)]
    for name in ("x.gif", "x.webp", "x.tif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        assert photos.decoded(tmp_path / name, 8).float().mean() < 20


def test_sixteen_bits_of_grey_are_turned_and_keep_their_brightness(tmp_path):
    exif, wide = Image.Exif(), np.zeros((8, 8), dtype=np.uint16)
    exif[0x0112], wide[:4] = 3, 257 * 100
    Image.fromarray(wide).save(tmp_path / "x.png", exif=exif)
    found = photos.decoded(tmp_path / "x.png", 8)
    assert found[:, 4:].unique().tolist() == [100]
    assert found[:, :4].unique().tolist() == [0]


def test_a_tree_says_which_files_it_leaves_out(tmp_path, capsys):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.fromarray(random_bytes(8, 8)).save(tmp_path / name / "0.png")
    images.load("folder", tmp_path, 8)
    assert capsys.readouterr().out == ""
    (tmp_path / "bee/1.heic").write_text("")
    (tmp_path / "bee/notes").write_text("")
    images.load("folder", tmp_path, 8)
    assert f"warning: {tmp_path}: left out files that are no images by their names: *, *.heic (" in capsys.readouterr().out
