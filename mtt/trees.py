"""Sets of image files, in trees or listed: each function gives train, test or None, both (Photos, labels), and the classes' names."""

from pathlib import Path

import torch

from mtt import listing, vision
from mtt.photos import Photos

TINY = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def folder(root, side):
    """Any tree with one folder per class, in `root` or in its train/ and test/."""
    root = Path(root)
    if (root / "train").is_dir() and (root / "test").is_dir():
        (train, classes), (test, found) = [_tree(root / part, side) for part in ("train", "test")]
        if found != classes:
            raise ValueError(f"{root / 'test'}: found the classes {found}; wanted those of train, {classes}")
    else:
        (train, classes), test = _tree(root, side), None
    return train, test, classes


def listed(root, side):
    """The images that `root`/labels.csv names."""
    rows = listing.read(root)
    numbers = {label: number for number, label in enumerate(sorted({label for _, label, _ in rows}))}
    train, test = [[(path, numbers[label]) for path, label, part in rows if (part == "test") == of_test] for of_test in (False, True)]
    return _photos(train, side), _photos(test, side) if test else None, list(numbers)


def _tree(root, side):
    """(Photos, labels), and the class names, of one tree."""
    try:
        tree = vision.torchvision.datasets.ImageFolder(str(root))
    except (FileNotFoundError, OSError) as error:
        raise ValueError(f"{root}: {error}; wanted one folder of images for each class") from None
    if len(tree.classes) < 2:
        raise ValueError(f"{root}: found the single class {tree.classes[0]!r}; wanted two or more, one folder each")
    if deeper := [path for path, _ in tree.samples if Path(path).parent.parent != Path(root)]:
        raise ValueError(f"{deeper[0]}: found an image in a folder of a folder; wanted one folder for each class, or train/ and test/")
    if others := {path.suffix for path in Path(root).glob("*/*") if path.is_file()} - {Path(path).suffix for path, _ in tree.samples}:
        print(
            f"warning: {root}: left out files that are no images by their names: *{', *'.join(sorted(others))} (prepare.set: csv has any)"
        )
    return _photos(tree.samples, side), tree.classes


def _photos(samples, side):
    """(Photos, labels) of [(path, label)]."""
    return Photos([path for path, _ in samples], side), torch.tensor([label for _, label in samples], dtype=torch.int64)


def _listed(root, names, side):
    """(Photos, labels) of the images in the folders `names` of `root`, at any depth; a folder may be missing or empty."""
    numbers = {name: number for number, name in enumerate(names)}
    extensions = vision.torchvision.datasets.folder.IMG_EXTENSIONS
    samples = vision.torchvision.datasets.folder.make_dataset(str(root), numbers, extensions, allow_empty=True)
    if not samples:
        raise ValueError(f"{root}: found no image in a folder of a class; wanted images in {root / names[0]} and its like")
    return _photos(samples, side)


def tiny_imagenet(root):
    """Tiny ImageNet, 200 classes in the order of wnids.txt; its val part, which has labels, is the test set."""
    root = Path(root, "tiny-imagenet-200")
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; put {TINY} unpacked into {root.parent}")
    ids = [name for (name,) in _table(root / "wnids.txt", 1)]
    labels = {name: number for number, name in enumerate(ids)}
    val = _table(root / "val" / "val_annotations.txt", 3)
    if unknown := [name for _, name, _ in val if name not in labels]:
        raise ValueError(f"{root / 'val' / 'val_annotations.txt'}: found the class {unknown[0]!r}; wanted those of wnids.txt")
    test = _photos([(str(root / "val" / "images" / file), labels[name]) for file, name, _ in val], 64)
    return _listed(root / "train", ids, 64), test, _names(ids, root / "words.txt")


def imagenet(root, side):
    """ImageNet (ILSVRC-2012), a class's index being its place among the thousand sorted folders of train; its val part is the test set."""
    root = Path(root, "ImageNet")
    ids = sorted(path.name for path in root.glob("train/*") if path.is_dir())
    if len(ids) != 1000:
        wanted = "one folder a class, n01440764 to n15075141, in train/ and in val/; those of classes that are not used may be empty"
        raise ValueError(f"{root / 'train'}: found {len(ids)} folders of classes; put the 1000 of ILSVRC-2012 there: {wanted}")
    train, val = [_listed(root / part, ids, side) for part in ("train", "val")]
    return train, val, _names(ids, root / "LOC_synset_mapping.txt")


def _names(ids, words):
    """Names for people: the first that the file `words` has for each, where there is such a file; else the ids."""
    known = dict(_table(words, 2)) if words.exists() else {}
    return [known.get(name, name).split(",")[0] for name in ids]


def _table(path, columns):
    """The lines of a text file, [word, ..., rest] of so many columns each."""
    try:
        rows = [line.strip().split(None, columns - 1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; wanted the whole archive, unpacked") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}; wanted a text") from None
    if not rows or (short := [row for row in rows if len(row) < columns]):
        raise ValueError(f"{path}: found {f'the line {short[0]}' if rows else 'no line'}; wanted lines of {columns} columns")
    return rows
