"""Raw image sets: what their files hold, as uint8 tensors or rows of them. One function for each set; the table SETS has them all."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mtt import trees, vision

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # mean and deviation of its pixels


@dataclass
class Raw:
    """A labelled set as its files give it. `test` is None where the set comes without a split of its own."""

    train: tuple  # images (n, C, H, W) uint8, labels (n,) int64; images may be no tensor, but what gives rows of one: Photos, Rows
    test: tuple | None
    classes: list
    mean: list | None = None  # the published normalisation of pixels in [0, 1]; None: measured on train
    std: list | None = None


class Rows:
    """Some rows of images, or of their first channels, indexed as the tensor of them would be, but taken only then."""

    def __init__(self, images, index, channels=None):
        self.images, self.index, self.dtype, self.channels = images, index, images.dtype, channels or images.shape[1]

    @property
    def shape(self):
        """(n, C, H, W)."""
        return len(self), self.channels, *self.images.shape[2:]

    def __len__(self):
        return len(self.index)

    def __getitem__(self, index):
        """(k, C, H, W) uint8 for a slice or indices (k,)."""
        return self.images[self.index[index]][:, : self.channels]


def pieces(images):
    """All of the images, some at a time."""
    return (images[index] for index in torch.arange(len(images)).split(16))


def digits(root, side):
    """scikit-learn's digits: 1,797 scans of 8x8 in 17 grey levels; comes with the package."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor((data.images * 255 / 16).round(), dtype=torch.uint8).unsqueeze(1)
    return Raw((images, torch.tensor(data.target, dtype=torch.int64)), None, [str(name) for name in data.target_names])


def _mnist(loader, root, mean, std):
    """MNIST's format through torchvision: unpacked idx files in `root`/NAME/raw are used, else downloaded there."""
    where = Path(root, loader.__name__, "raw")
    wanted = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    try:
        train, test = [loader(str(root), train=train, download=True) for train in (True, False)]
    except (RuntimeError, OSError, ValueError, TypeError, KeyError, AssertionError) as error:  # torchvision asserts what a file claims
        if all((where / name).is_file() for name in wanted):
            raise ValueError(f"{where}: found a broken idx file ({type(error).__name__}: {error})") from None
        if not isinstance(error, (RuntimeError, OSError)):
            raise
        why = " ".join(str(error).split())  # torchvision's has a line for each mirror
        raise ValueError(f"{where}: found no data, and the download failed ({why}); put there, unpacked: {', '.join(wanted)}") from None
    return Raw(*[(part.data.unsqueeze(1), part.targets.long()) for part in (train, test)], list(train.classes), [mean], [std])


def mnist(root, side):
    """MNIST: 60,000 and 10,000 images, 28x28, grey."""
    return _mnist(vision.torchvision.datasets.MNIST, root, 0.1307, 0.3081)


def fashion_mnist(root, side):
    """Fashion-MNIST: 60,000 and 10,000 images, 28x28, grey."""
    return _mnist(vision.torchvision.datasets.FashionMNIST, root, 0.2861, 0.3530)


def _cifar(root, archive, md5, folder, train, test, label_bytes, names):
    """CIFAR's binary version: records of label bytes (the last is the fine class) and 3x32x32 pixels. Nothing is unpickled."""
    folder = Path(root, folder)
    if not folder.is_dir():
        url = f"https://www.cs.toronto.edu/~kriz/{archive}"
        try:
            vision.torchvision.datasets.utils.download_and_extract_archive(url, str(root), md5=md5)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{folder}: no such folder, and the download failed ({error}); put {archive} unpacked into {root}") from None
    try:
        classes = _there(folder / names).read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder / names}: {error}; wanted the names of the classes") from None
    parts = [[_records(folder / name, label_bytes, len(classes)) for name in files] for files in (train, test)]
    joined = [tuple(torch.cat(tensors) for tensors in zip(*part, strict=True)) for part in parts]
    return Raw(*joined, classes, [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])


def _there(path):
    if not path.is_file():
        raise ValueError(f"{path}: no such file; wanted the whole archive, unpacked")
    return path


def _records(path, label_bytes, classes):
    data = torch.from_numpy(np.fromfile(_there(path), dtype=np.uint8))
    size = label_bytes + 3072
    if not len(data) or len(data) % size:
        raise ValueError(f"{path}: found {len(data)} bytes; wanted a multiple of {size}, the size of a record")
    data = data.view(-1, size)
    labels = data[:, label_bytes - 1].long()
    if (largest := int(labels.max())) >= classes:
        raise ValueError(f"{path}: found the label {largest}; wanted 0 to {classes - 1}")
    return data[:, label_bytes:].reshape(-1, 3, 32, 32), labels


def cifar10(root, side):
    """CIFAR-10: 50,000 and 10,000 images, 3x32x32, from cifar-10-batches-bin."""
    train = [f"data_batch_{i}.bin" for i in range(1, 6)]
    md5 = "c32a1d4ab5d03f1284b67883e8d87530"
    return _cifar(root, "cifar-10-binary.tar.gz", md5, "cifar-10-batches-bin", train, ["test_batch.bin"], 1, "batches.meta.txt")


def cifar100(root, side):
    """CIFAR-100 with its fine labels: 50,000 and 10,000 images, 3x32x32, from cifar-100-binary. Normalised as CIFAR-10, as published."""
    md5 = "03b5dce01913d631647c71ecec9e9cb8"
    return _cifar(root, "cifar-100-binary.tar.gz", md5, "cifar-100-binary", ["train.bin"], ["test.bin"], 2, "fine_label_names.txt")


def folder(root, side):
    """Any tree of images with one folder per class, in `root` or in its train/ and test/: shorter side resized, centre cropped."""
    return Raw(*trees.folder(root, side))


def listed(root, side):
    """Images of any place in `root`, as its labels.csv has them: shorter side resized, centre cropped."""
    return Raw(*trees.listed(root, side))


def tiny_imagenet(root, side):
    """Tiny ImageNet: 100,000 and 10,000 images of 200 classes, 3x64x64, from tiny-imagenet-200."""
    return Raw(*trees.tiny_imagenet(root), *IMAGENET)


def imagenet(root, side):
    """ImageNet: 1,281,167 and 50,000 images of 1,000 classes, from `root`/ImageNet: shorter side resized, centre cropped."""
    return Raw(*trees.imagenet(root, side), *IMAGENET)


SETS = {
    "digits": digits,
    "MNIST": mnist,
    "FashionMNIST": fashion_mnist,
    "CIFAR10": cifar10,
    "CIFAR100": cifar100,
    "TinyImageNet": tiny_imagenet,
    "ImageNet": imagenet,
    "folder": folder,
    "csv": listed,
}


def load(name, root, side, classes="all"):
    """The Raw set called `name` in SETS, from `root`: all its `classes`, or those of a list of indices, in that order.

    Raises ValueError, naming the place, for data that are missing or broken. Of image files none is read before it is taken, but for
    those of `folder` and `csv`: one channel is kept where all of them are grey.
    """
    raw = SETS[name](root, side)
    for part, (images, labels) in (("train", raw.train), ("test", raw.test or raw.train)):
        if len(images) != len(labels):
            raise ValueError(f"{root}: found {len(images)} {part} images of {name} and {len(labels)} labels; wanted as many")
        if not 0 <= int(labels.min()) <= int(labels.max()) < len(raw.classes):
            found = f"{int(labels.min())} to {int(labels.max())}"
            raise ValueError(f"{root}: found {part} labels of {name} from {found}; wanted 0 to {len(raw.classes) - 1}")
    raw = raw if classes == "all" else kept(raw, classes, name)
    return raw if raw.mean or raw.train[0].shape[1] == 1 else greyed(raw)


def kept(raw, classes, name):
    """The Raw set of the `classes` alone. Raises ValueError for an index that is none."""
    if beyond := [index for index in classes if index >= len(raw.classes)]:
        raise ValueError(f"params.yaml: prepare.classes: found {beyond[0]}; wanted 0 to {len(raw.classes) - 1}, the classes of {name}")
    number = torch.full((len(raw.classes),), -1)
    number[classes] = torch.arange(len(classes))

    def of(part):
        images, labels = chosen(part, (number[part[1]] >= 0).nonzero().squeeze(1))
        return images, number[labels]

    return replace(raw, train=of(raw.train), test=raw.test and of(raw.test), classes=[raw.classes[index] for index in classes])


def greyed(raw):
    """The Raw set with one channel where every image is grey; looks no further than the first that is not."""
    parts = [part for part in (raw.train, raw.test) if part]
    if not all((x[:, :1] == x).all() for images, _ in parts for x in pieces(images)):
        return raw
    train, *test = [(Rows(images, torch.arange(len(images)), channels=1), labels) for images, labels in parts]
    return replace(raw, train=train, test=test[0] if test else None)


def chosen(part, index):
    """Some rows of `part` = (images, labels)."""
    images, labels = part
    return Rows(images, index), labels[index]


def split(labels, share, generator):
    """Two index tensors: the rest, and about `share` of each class, drawn at random; one at least of each on either side, if it has two."""
    held = [torch.empty(0, dtype=torch.int64)]
    for label in labels.unique():
        of_class = (labels == label).nonzero().squeeze(1)
        count = min(max(1, round(share * len(of_class))), len(of_class) - 1)
        held.append(of_class[torch.randperm(len(of_class), generator=generator)][:count])
    held = torch.cat(held).sort().values
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[held] = False
    return rest.nonzero().squeeze(1), held
