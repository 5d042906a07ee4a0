"""Small raw sets in the formats of the large ones."""

import os
import struct

import numpy as np
from PIL import Image


def random_bytes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array):
    """An idx file of unsigned bytes: two zeros, the type 8, the number of axes, the sizes, big-endian; then the numbers."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(root, name="MNIST"):
    """The four files of MNIST, three images a class to train on, two to test; gives {part: (images, labels)}."""
    folder, written = root / name / "raw", {}
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in {"train": 30, "t10k": 20}.items():
        written[part] = random_bytes(n, 28, 28, seed=n), (np.arange(n) * 3 % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(written[part][0]))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(written[part][1]))
    return written


CIFAR = {
    "CIFAR10": ("cifar-10-batches-bin", [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", "batches.meta.txt", 1, 10),
    "CIFAR100": ("cifar-100-binary", ["train.bin"], "test.bin", "fine_label_names.txt", 2, 100),
}


def write_cifar(root, name, train_records=7, test_records=7):
    """The binary version: label bytes (coarse, then fine) and 3072 pixels a record; gives the records, train and test.

    Train has so many in each of its files. Labels are evenly spread, in random order.
    """
    folder, train, test, names, label_bytes, classes = CIFAR[name]
    (root / folder).mkdir(parents=True)
    written = []
    for k, file in enumerate([*train, test]):
        count = test_records if file == test else train_records
        records = random_bytes(count, label_bytes + 3072, seed=k)
        records[:, :label_bytes] %= 20
        records[:, label_bytes - 1] = np.random.default_rng(k).permutation(count) % classes
        (root / folder / file).write_bytes(records.tobytes())
        written.append(records)
    (root / folder / names).write_text("".join(f"class_{k}\n" for k in range(classes)) + "\n")
    return np.concatenate(written[:-1]), written[-1]


def write_jpegs(folder, shapes):
    """Images of these shapes, 0.JPEG, 1.JPEG, ...; gives their paths."""
    folder.mkdir(parents=True)
    paths = [folder / f"{k}.JPEG" for k in range(len(shapes))]
    for k, (path, shape) in enumerate(zip(paths, shapes, strict=True)):
        Image.fromarray(random_bytes(*shape, seed=k)).save(path, quality=95)
    return paths


def put(picture, path):
    """One more name of a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(picture, path)


def write_tiny_imagenet(root, classes=200, train=3, test=1):
    """Tiny ImageNet's layout, of a few distinct images, some of them grey; gives the ids of the classes, which are not sorted."""
    pictures, root = write_jpegs(root / "tiny", [(64, 64, 3), (64, 64), (64, 64, 3)]), root / "tiny-imagenet-200"
    ids, lines = [f"n{(k * 37 + 5) % classes:08d}" for k in range(classes)], []
    for k, name in enumerate(ids):
        for number in range(train):
            put(pictures[(k + number) % 3], root / "train" / name / "images" / f"{name}_{number}.JPEG")
        for number in range(test):
            file = f"val_{(k * 11 + number * classes) % (classes * test)}.JPEG"
            put(pictures[k % 3], root / "val/images" / file)
            lines.append(f"{file}\t{name}\t0\t1\t62\t63\n")
    (root / "wnids.txt").write_text("".join(f"{name}\n" for name in ids))
    (root / "words.txt").write_text("".join(f"{name}\tthing {name}, stuff\n" for name in [*ids, "n99999999"]))
    (root / "val/val_annotations.txt").write_text("".join(lines[::-1]))
    return ids


def write_imagenet(root, classes, train=3, test=1, shapes=((150, 140, 3), (140, 190), (160, 130, 3))):
    """ImageNet's layout: a thousand folders, those of `classes` with a few distinct images; gives the ids of all classes, sorted."""
    pictures, root = write_jpegs(root / "large", shapes), root / "ImageNet"
    ids = [f"n{1440764 + 13 * k:08d}" for k in range(1000)]
    for part, count in {"train": train, "val": test}.items():
        for k, name in enumerate(ids):
            (root / part / name).mkdir(parents=True)
            for number in range(count if k in classes else 0):
                put(pictures[(k + number) % len(pictures)], root / part / name / f"{name}_{number}.JPEG")
    return ids
