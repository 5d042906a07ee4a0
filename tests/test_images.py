import struct
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from raw import CIFAR, idx, random_bytes, write_cifar, write_idx

from mtt import images, imageset
from mtt.seeds import generator
from mtt.vision import torchvision


def tensor(array):
    return torch.from_numpy(array)


def refusal(name, root, side=8):
    """The message with which the set is refused."""
    with pytest.raises(ValueError, match=".") as caught:
        images.load(name, root, side).train[0][:]
    return str(caught.value)


# digits


def test_digits_come_with_the_package_and_are_scaled_to_bytes(tmp_path):
    """1,797 images of ten classes; their 17 grey levels spread over 0 to 255."""
    raw = images.load("digits", tmp_path / "nowhere", 8)
    x, y = raw.train
    assert x.shape == (1797, 1, 8, 8)
    assert x.dtype == torch.uint8
    assert x.unique().tolist() == [round(level * 255 / 16) for level in range(17)]
    assert y.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert raw.test is None
    assert raw.classes == list("0123456789")


# MNIST and Fashion-MNIST: idx files


@pytest.fixture
def _offline(monkeypatch):
    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fail)
    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fail)


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize(
    ("name", "last", "mean", "std"), [("MNIST", "9 - nine", [0.1307], [0.3081]), ("FashionMNIST", "Ankle boot", [0.2861], [0.3530])]
)
def test_idx_files_are_read_as_they_are(tmp_path, name, last, mean, std):
    written = write_idx(tmp_path, name)
    raw = images.load(name, tmp_path, 28)
    for (x, y), part in ((raw.train, "train"), (raw.test, "t10k")):
        assert torch.equal(x, tensor(written[part][0]).unsqueeze(1))
        assert torch.equal(y, tensor(written[part][1]).long())
    assert (len(raw.classes), raw.classes[-1]) == (10, last)
    assert (raw.mean, raw.std) == (mean, std)


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_without_files_and_network_the_message_says_where_to_put_which_files(tmp_path, name):
    message = refusal(name, tmp_path)
    assert message.startswith(f"{tmp_path / name / 'raw'}: found no data, and the download failed")
    assert "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte" in message


@pytest.mark.usefixtures("_offline")
def test_without_one_of_the_four_files_the_message_is_the_same(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    assert "found no data, and the download failed" in refusal("MNIST", tmp_path)


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda good: b"",
        lambda good: good[:3],
        lambda good: good[:6],
        lambda good: good[:-1],
        lambda good: good + b"\0",
        lambda good: b"<html>Moved permanently</html>\n" * 30,
        lambda good: b"\0\0\x0d" + good[3:],
        lambda good: b"\0\0\x0a" + good[3:],
        lambda good: idx(random_bytes(4, 4)),
    ],
    ids=["empty", "cut in its first number", "cut in its header", "a byte short", "a byte long", "html", "floats", "no type", "two axes"],
)
def test_a_broken_idx_file_is_refused_as_broken(tmp_path, file, spoil):
    """And not as missing: the user would put the same file there again."""
    write_idx(tmp_path)
    path = tmp_path / "MNIST/raw" / file
    path.write_bytes(spoil(path.read_bytes()))
    message = refusal("MNIST", tmp_path)
    assert message.startswith(f"{tmp_path / 'MNIST' / 'raw'}")
    assert "broken" in message
    assert "download" not in message


def test_more_images_than_labels_are_refused(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(idx(np.zeros(29, dtype=np.uint8)))
    assert refusal("MNIST", tmp_path) == f"{tmp_path}: found 30 train images of MNIST and 29 labels; wanted as many"


def test_labels_beyond_the_classes_are_refused(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(20, dtype=np.uint8)))
    assert refusal("MNIST", tmp_path) == f"{tmp_path}: found test labels of MNIST from 0 to 19; wanted 0 to 9"


# CIFAR: binary records


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_records_are_read_channel_by_channel_in_the_order_of_their_files(tmp_path, name):
    """The label is the record's last label byte: of CIFAR-100, the fine one."""
    written, label_bytes = write_cifar(tmp_path, name), CIFAR[name][4]
    raw = images.load(name, tmp_path, 32)
    for (x, y), records in zip((raw.train, raw.test), written, strict=True):
        assert x.shape == (len(records), 3, 32, 32)
        assert torch.equal(y, tensor(records[:, label_bytes - 1]).long())
        for channel, row, column in [(0, 0, 0), (0, 0, 31), (1, 5, 9), (2, 31, 31)]:
            assert torch.equal(x[:, channel, row, column], tensor(records[:, label_bytes + 1024 * channel + 32 * row + column]))
        assert torch.equal(x.flatten(1), tensor(records[:, label_bytes:]))
    assert raw.classes == [f"class_{k}" for k in range(CIFAR[name][5])]
    assert (raw.mean, raw.std) == ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize(("name", "archive"), [("CIFAR10", "cifar-10-binary.tar.gz"), ("CIFAR100", "cifar-100-binary.tar.gz")])
def test_without_folder_and_network_the_message_says_which_archive_to_unpack_where(tmp_path, name, archive):
    message = refusal(name, tmp_path)
    assert message.startswith(f"{tmp_path / CIFAR[name][0]}: no such folder, and the download failed")
    assert message.endswith(f"put {archive} unpacked into {tmp_path}")


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("bytes", [0, 1, 3072, 3072 * 2])
def test_a_truncated_record_is_refused_by_its_file(tmp_path, name, bytes):
    write_cifar(tmp_path, name)
    path = tmp_path / CIFAR[name][0] / CIFAR[name][2]
    path.write_bytes(path.read_bytes()[:bytes])
    wanted = 3072 + CIFAR[name][4]
    assert refusal(name, tmp_path) == f"{path}: found {bytes} bytes; wanted a multiple of {wanted}, the size of a record"


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("part", [1, 2, 3], ids=["train", "test", "names"])
def test_a_file_missing_from_cifars_folder_is_refused_by_name(tmp_path, name, part):
    """As an interrupted unpacking leaves it."""
    write_cifar(tmp_path, name)
    file = CIFAR[name][part][-1] if part == 1 else CIFAR[name][part]
    (tmp_path / CIFAR[name][0] / file).unlink()
    assert refusal(name, tmp_path).startswith(f"{tmp_path / CIFAR[name][0] / file}: ")


@pytest.mark.parametrize("name", CIFAR)
def test_a_cifar_label_beyond_the_classes_is_refused(tmp_path, name):
    write_cifar(tmp_path, name)
    path, label_bytes, classes = tmp_path / CIFAR[name][0] / CIFAR[name][2], *CIFAR[name][4:]
    path.write_bytes(bytes([200] * label_bytes) + path.read_bytes()[label_bytes:])
    assert refusal(name, tmp_path) == f"{path}: found the label 200; wanted 0 to {classes - 1}"


# folder


def write_tree(root, shapes, seed=0, suffix="png"):
    """One folder per class, shapes {class: [shape of each image]}; gives {class: [array]}."""
    written = {}
    for name, each in shapes.items():
        (root / name).mkdir(parents=True)
        written[name] = [random_bytes(*shape, seed=seed + k) for k, shape in enumerate(each)]
        for k, array in enumerate(written[name]):
            Image.fromarray(array).save(root / name / f"{k}.{suffix}")
    return written


def test_images_of_the_wanted_size_are_read_as_they_are(tmp_path):
    """Classes in alphabetical order, images in that of their names."""
    written = write_tree(tmp_path, {"bee": [(8, 8, 3)] * 2, "ant": [(8, 8, 3)] * 3})
    raw = images.load("folder", tmp_path, 8)
    assert raw.classes == ["ant", "bee"]
    assert raw.train[1].tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(raw.train[0][:], tensor(np.stack(written["ant"] + written["bee"])).permute(0, 3, 1, 2))
    assert raw.test is None
    assert raw.mean is raw.std is None


def test_train_and_test_folders_are_two_parts(tmp_path):
    train = write_tree(tmp_path / "train", {"ant": [(8, 8)] * 3, "bee": [(8, 8)] * 2})
    test = write_tree(tmp_path / "test", {"ant": [(8, 8)], "bee": [(8, 8)] * 2}, seed=9)
    raw = images.load("folder", tmp_path, 8)
    for (x, y), written, labels in ((raw.train, train, [0, 0, 0, 1, 1]), (raw.test, test, [0, 1, 1])):
        assert torch.equal(x[:], tensor(np.stack(written["ant"] + written["bee"])).unsqueeze(1))
        assert y.tolist() == labels


@pytest.mark.parametrize("shape", [(8, 14), (14, 8), (8, 9)])
def test_an_oblong_image_is_cropped_to_its_centre(tmp_path, shape):
    written = write_tree(tmp_path, {"ant": [shape], "bee": [shape]})
    top, left = (round((size - 8) / 2) for size in shape)
    assert torch.equal(images.load("folder", tmp_path, 8).train[0][:][0, 0], tensor(written["ant"][0][top : top + 8, left : left + 8]))


def test_the_shorter_side_is_resized_with_antialiasing(tmp_path):
    """Every pixel of a fine checkerboard turns to its mean grey; a coarse stripe stays in its place."""
    board = ((np.indices((32, 48)).sum(0) % 2) * 255).astype(np.uint8)
    stripe = np.zeros((48, 32), dtype=np.uint8)
    stripe[24:] = 200
    for name, array in {"board": board, "stripe": stripe}.items():
        (tmp_path / name).mkdir()
        Image.fromarray(array).save(tmp_path / name / "0.png")
    found = images.load("folder", tmp_path, 8).train[0][:][:, 0].int()
    assert (found[0] - 127).abs().max() <= 12
    assert found[1, :3].unique().tolist() == [0]
    assert found[1, 5:].unique().tolist() == [200]


def test_one_channel_is_kept_where_every_image_is_grey(tmp_path):
    """Also where grey is stored as colour; a single colour image makes all of them colour."""
    for k, (name, third) in enumerate({"grey": "grey", "colour": "colour"}.items()):
        root = tmp_path / name
        grey = random_bytes(8, 8)
        last = grey if third == "grey" else random_bytes(8, 8, 3)
        for kind, array in {"ant": grey, "bee": np.stack([grey] * 3, 2), "cat": last}.items():
            (root / kind).mkdir(parents=True)
            Image.fromarray(array).save(root / kind / "0.png")
        x = images.load("folder", root, 8).train[0][:]
        assert x.shape == (3, (1, 3)[k], 8, 8)
        assert torch.equal(x[0], tensor(grey).expand(x.shape[1], 8, 8))
        assert torch.equal(x[1], x[0])


def test_train_and_test_have_as_many_channels(tmp_path):
    """A network takes one number of channels: where either part has colour, both have."""
    write_tree(tmp_path / "train", {"ant": [(8, 8)], "bee": [(8, 8)]})
    write_tree(tmp_path / "test", {"ant": [(8, 8, 3)], "bee": [(8, 8)]})
    raw = images.load("folder", tmp_path, 8)
    assert raw.train[0].shape[1] == raw.test[0].shape[1] == 3


def test_sixteen_bits_of_grey_keep_their_brightness(tmp_path):
    """Pillow alone clips them: all above 255 of 65,535 would be white."""
    wide = (random_bytes(8, 8).astype(np.uint16) * 257).astype(np.uint16)
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.fromarray(wide).save(tmp_path / name / "0.png")
    assert torch.equal(images.load("folder", tmp_path, 8).train[0][:][0, 0], tensor(random_bytes(8, 8)))


def test_a_missing_folder_is_refused_by_name(tmp_path):
    assert refusal("folder", tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'}: ")


def test_a_folder_without_class_folders_is_refused_by_name(tmp_path):
    Image.fromarray(random_bytes(8, 8)).save(tmp_path / "0.png")
    message = refusal("folder", tmp_path)
    assert message.startswith(f"{tmp_path}: ")
    assert message.endswith("wanted one folder of images for each class")


def test_a_class_folder_without_images_is_refused_by_name(tmp_path):
    write_tree(tmp_path, {"ant": [(8, 8)], "bee": []})
    message = refusal("folder", tmp_path)
    assert message.startswith(f"{tmp_path}: ")
    assert "bee" in message


def test_a_single_class_is_refused_by_name(tmp_path):
    write_tree(tmp_path, {"ant": [(8, 8)] * 3})
    assert refusal("folder", tmp_path) == f"{tmp_path}: found the single class 'ant'; wanted two or more, one folder each"


def test_other_classes_in_test_than_in_train_are_refused_by_name(tmp_path):
    write_tree(tmp_path / "train", {"ant": [(8, 8)], "bee": [(8, 8)]})
    write_tree(tmp_path / "test", {"ant": [(8, 8)], "cat": [(8, 8)]})
    assert refusal("folder", tmp_path) == f"{tmp_path / 'test'}: found the classes ['ant', 'cat']; wanted those of train, ['ant', 'bee']"


@pytest.mark.parametrize("parts", [("train", "val"), ("training", "validation")])
def test_a_tree_of_parts_that_are_not_train_and_test_is_refused(tmp_path, parts):
    """The two parts would be taken for the two classes."""
    for part in parts:
        write_tree(tmp_path / part, {"ant": [(8, 8)], "bee": [(8, 8)]})
    assert refusal("folder", tmp_path).startswith(f"{tmp_path}")


def test_a_class_may_be_called_train(tmp_path):
    write_tree(tmp_path, {"car": [(8, 8)], "train": [(8, 8)]})
    assert images.load("folder", tmp_path, 8).classes == ["car", "train"]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused_by_their_file(tmp_path, dtype):
    """32 bits, whole or real: what is black and what white is not in the file, and a guess may blacken all."""
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.fromarray(random_bytes(8, 8).astype(dtype)).save(tmp_path / name / "0.tif")
    assert refusal("folder", tmp_path).startswith(f"{tmp_path / 'ant' / '0.tif'}: ")


def png(path):
    Image.fromarray(random_bytes(20, 20, 3)).save(path)
    return path.read_bytes()


def with_a_short_chunk(good):
    """What follows the data is then read as the name of a chunk."""
    start = good.index(b"IDAT")
    return good[: start - 4] + struct.pack(">I", 20) + good[start:]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda good: b"",
        lambda good: b"no image",
        lambda good: good[:20],
        lambda good: good[:-40],
        lambda good: good[: len(good) // 2] + b"\xff" * 9 + good[len(good) // 2 + 9 :],
        lambda good: good.replace(b"IHDR", b"\xbaHDR"),
        with_a_short_chunk,
    ],
    ids=["empty", "text", "cut in its header", "cut in its data", "spoilt in its data", "bad first chunk", "short chunk"],
)
def test_an_unreadable_image_is_refused_by_its_file(tmp_path, spoil):
    write_tree(tmp_path, {"ant": [(8, 8)], "bee": [(8, 8)]})
    path = tmp_path / "bee" / "1.png"
    path.write_bytes(spoil(png(path)))
    assert refusal("folder", tmp_path).startswith(f"{path}: found no readable image")


# the split


def labels():
    """300 labels of three unequal classes, in random order."""
    return torch.tensor([0] * 200 + [1] * 90 + [2] * 10)[torch.randperm(300, generator=generator("labels"))]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_a_split_is_disjoint_complete_and_holds_its_share_of_each_class(share):
    y = labels()
    rest, held = images.split(y, share, generator(0))
    assert sorted(rest.tolist() + held.tolist()) == list(range(300))
    assert y[held].bincount(minlength=3).tolist() == [round(share * n) for n in (200, 90, 10)]
    assert rest.tolist() == sorted(rest.tolist())
    assert held.tolist() == sorted(held.tolist())


def test_a_split_is_determined_by_its_generator_alone():
    before, y = torch.get_rng_state(), labels()
    first, again, other = [images.split(y, 0.2, generator(seed))[1].tolist() for seed in (1, 1, 2)]
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


# stages/prepare

PARTS_OF_A_SET = ("train", "validation", "test")


def prepared(run):
    """The three sets that stage prepare writes."""
    run("prepare")
    return [imageset.load(run.folder / f"data/prepared/{part}.safetensors") for part in PARTS_OF_A_SET]


def rows(*sets):
    """Each image with its label, as sortable bytes."""
    return sorted(bytes(x.flatten().tolist()) + bytes([int(y)]) for each in sets for x, y in zip(each.images, each.labels, strict=True))


def test_preparing_twice_writes_the_same_bytes_and_another_seed_writes_others(make_run):
    written = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        run = make_run(name)
        run.set(prepare={"seed": seed})
        prepared(run)
        written.append(list(run.files("data/prepared/*").values()))
    assert len(written[0]) == 3
    assert written[0] == written[1]
    assert all(a != b for a, b in zip(written[0], written[2], strict=True))


def test_the_bytes_do_not_depend_on_where_the_raw_images_lie(make_run):
    """Nor does a published set tell it."""
    written = []
    for place in ("raw", "elsewhere"):
        run = make_run(place)
        run.set(prepare={"raw": place})
        prepared(run)
        written.append(list(run.files("data/prepared/*").values()))
    assert written[0] == written[1]


def test_a_set_without_test_images_is_cut_in_three_that_make_it_up(make_run):
    """Each has its share of each class; they say how to normalise by the training images alone."""
    run = make_run()
    run.set(prepare={"test": 0.2, "validation": 0.1})
    train, validation, test = prepared(run)
    x, y = images.load("digits", "", 8).train
    assert rows(train, validation, test) == rows(imageset.ImageSet(x, y, "digits", [], [], []))
    assert len(set(rows(train)) & set(rows(test))) == len(set(rows(train)) & set(rows(validation))) == 0
    for label, n in enumerate(y.bincount().tolist()):
        tested = round(0.2 * n)
        assert [len(part.of_class(label)) for part in (test, validation)] == [tested, round(0.1 * (n - tested))]
    pixels = train.images.double() / 255
    for part in (train, validation, test):
        assert part.images.dtype == torch.uint8
        assert part.mean == pytest.approx([float(pixels.mean())], abs=1e-4)
        assert part.std == pytest.approx([float(pixels.std())], abs=1e-4)
    assert abs(float(train.normalised().mean())) < 1e-3
    assert float(train.normalised().std()) == pytest.approx(1, abs=1e-3)


def test_test_images_of_the_set_are_kept_whole_and_its_published_normalisation_used(make_run):
    run = make_run()
    run.set(prepare={"set": "FashionMNIST", "validation": 0.34})
    written = write_idx(run.folder / "raw", "FashionMNIST")
    train, validation, test = prepared(run)
    assert torch.equal(test.images, tensor(written["t10k"][0]).unsqueeze(1))
    assert (len(train.images), len(validation.images)) == (20, 10)
    assert (train.mean, train.std, train.name) == ([0.2861], [0.3530], "FashionMNIST")
    assert train.classes[-1] == "Ankle boot"


@pytest.mark.parametrize(("images_of_bee", "part"), [(1, "test"), (2, "validation")])
def test_a_part_that_would_lack_a_class_is_refused_and_nothing_is_written(make_run, images_of_bee, part):
    run = make_run()
    run.set(prepare={"set": "folder", "test": 0.3, "validation": 0.2})
    write_tree(run.folder / "raw", {"ant": [(8, 8)] * 20, "bee": [(8, 8)] * images_of_bee})
    with pytest.raises(ValueError, match=rf"found no image of \['bee'\] for .*{part}.safetensors; wanted three of every class, or prepare"):
        run("prepare")
    assert run.files("data/prepared/*") == {}


def test_colours_are_normalised_channel_by_channel(make_run):
    run = make_run()
    run.set(prepare={"set": "folder", "test": 0.25, "validation": 0.34})
    write_tree(run.folder / "raw", {"ant": [(8, 8, 3)] * 8, "bee": [(8, 8, 3)] * 8})
    train = prepared(run)[0]
    pixels = train.images.double() / 255
    assert train.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert train.std == pytest.approx(pixels.std((0, 2, 3)).tolist(), abs=1e-4)
    assert len(set(train.mean)) == 3


def test_images_of_one_colour_are_refused_for_they_cannot_be_normalised(make_run):
    run = make_run()
    run.set(prepare={"set": "folder", "test": 0.25, "validation": 0.34})
    for name in ("ant", "bee"):
        (run.folder / "raw" / name).mkdir()
        for k in range(8):
            Image.fromarray(np.full((8, 8), 90, dtype=np.uint8)).save(run.folder / "raw" / name / f"{k}.png")
    with pytest.raises(ValueError, match="raw"):
        run("prepare")
