"""Raw image sets: what their files hold, as uint8 tensors. One function for each set, and the table SETS of them all."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mtt.vision import torchvision


@dataclass
class Raw:
    """A labelled set as its files give it. `test` is None where the set comes without a split of its own."""

    train: tuple  # images (n, C, H, W) uint8, labels (n,) int64
    test: tuple | None
    classes: list
    mean: list | None = None  # the published normalisation of pixels in [0, 1]; None: measured on train
    std: list | None = None


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
    except (
        RuntimeError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AssertionError,
    ) as error:  # torchvision asserts what a file claims to be
        if all((where / name).is_file() for name in wanted):
            raise ValueError(f"{where}: found a broken idx file ({type(error).__name__}: {error})") from None
        if not isinstance(error, (RuntimeError, OSError)):
            raise
        raise ValueError(f"{where}: found no data, and the download failed ({error}); put there, unpacked: {', '.join(wanted)}") from None
    return Raw(*[(part.data.unsqueeze(1), part.targets.long()) for part in (train, test)], list(train.classes), [mean], [std])


def mnist(root, side):
    """MNIST: 60,000 and 10,000 images, 28x28, grey."""
    return _mnist(torchvision.datasets.MNIST, root, 0.1307, 0.3081)


def fashion_mnist(root, side):
    """Fashion-MNIST: 60,000 and 10,000 images, 28x28, grey."""
    return _mnist(torchvision.datasets.FashionMNIST, root, 0.2861, 0.3530)


def _cifar(root, archive, md5, folder, train, test, label_bytes, names):
    """CIFAR's binary version: records of label bytes (the last is the fine class) and 3x32x32 pixels. Nothing is unpickled."""
    folder = Path(root, folder)
    if not folder.is_dir():
        url = f"https://www.cs.toronto.edu/~kriz/{archive}"
        try:
            torchvision.datasets.utils.download_and_extract_archive(url, str(root), md5=md5)
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
    root = Path(root)
    if (root / "train").is_dir() and (root / "test").is_dir():
        (train, classes), (test, found) = [_tree(root / part, side) for part in ("train", "test")]
        if found != classes:
            raise ValueError(f"{root / 'test'}: found the classes {found}; wanted those of train, {classes}")
        return Raw(*_channels(train, test), classes)
    train, classes = _tree(root, side)
    return Raw(*_channels(train), None, classes)


def _channels(*parts):
    """The (images, labels) of `parts` with one channel where every image of all is grey, else with three."""
    if all((x[:, :1] == x).all() for x, _ in parts):
        return [(x[:, :1], y) for x, y in parts]
    return parts


def _tree(root, side):
    """Images (n, 3, side, side) with their labels, and the class names, of one tree."""
    try:
        tree = torchvision.datasets.ImageFolder(str(root), loader=lambda path: _image(path, side))
    except (FileNotFoundError, OSError) as error:
        raise ValueError(f"{root}: {error}; wanted one folder of images for each class") from None
    if len(tree.classes) < 2:
        raise ValueError(f"{root}: found the single class {tree.classes[0]!r}; wanted two or more, one folder each")
    if deeper := [path for path, _ in tree.samples if Path(path).parent.parent != Path(root)]:
        raise ValueError(f"{deeper[0]}: found an image in a folder of a folder; wanted one folder for each class, or train/ and test/")
    return (torch.stack([image for image, _ in tree]), torch.tensor(tree.targets)), tree.classes


def _image(path, side):
    from PIL import Image

    try:
        with Image.open(path) as opened:
            if opened.mode in ("I", "F"):
                raise ValueError("32 bits a pixel; wanted 8 or 16")
            if opened.mode.startswith("I;16"):  # which Pillow would clip to white
                opened = Image.fromarray((np.asarray(opened) / 257).round().astype(np.uint8))
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: found no readable image ({error})") from None
    functional = torchvision.transforms.functional
    return functional.pil_to_tensor(functional.center_crop(functional.resize(image, side), side))


SETS = {
    "digits": digits,
    "MNIST": mnist,
    "FashionMNIST": fashion_mnist,
    "CIFAR10": cifar10,
    "CIFAR100": cifar100,
    "folder": folder,
}


def load(name, root, side):
    """The Raw set called `name` in SETS, from `root`. Raises ValueError, naming the place, for data that are missing or broken."""
    raw = SETS[name](root, side)
    for part, (images, labels) in (("train", raw.train), ("test", raw.test or raw.train)):
        if len(images) != len(labels):
            raise ValueError(f"{root}: found {len(images)} {part} images of {name} and {len(labels)} labels; wanted as many")
        if not 0 <= int(labels.min()) <= int(labels.max()) < len(raw.classes):
            found = f"{int(labels.min())} to {int(labels.max())}"
            raise ValueError(f"{root}: found {part} labels of {name} from {found}; wanted 0 to {len(raw.classes) - 1}")
    return raw


def split(labels, share, generator):
    """Two index tensors: the rest, and about `share` of each class, drawn at random."""
    held = [torch.empty(0, dtype=torch.int64)]
    for label in labels.unique():
        of_class = (labels == label).nonzero().squeeze(1)
        held.append(of_class[torch.randperm(len(of_class), generator=generator)][: round(share * len(of_class))])
    held = torch.cat(held).sort().values
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[held] = False
    return rest.nonzero().squeeze(1), held
