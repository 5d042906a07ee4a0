"""labels.csv: the paths and labels of a set's images, in the folder that the paths begin at. A fault is refused by its line."""

import csv
from pathlib import Path, PurePosixPath

NAME, PARTS = "labels.csv", ("train", "test")
WANTED = "a CSV of path,label and, if the set has a test part of its own, split"


def read(root):
    """[(path, label, part)] of `root`/labels.csv, each image once; part is "train" or "test", or "" in all of them.

    Raises ValueError, one line that names the file and, where one line of it is at fault, that.
    """
    file, found, lines = Path(root, NAME), [], {}
    for line, row in _rows(file):
        path, label, part = (row.get(column, "").strip() for column in ("path", "label", "split"))
        if fault := _fault(file.parent, path, label, part, "split" in row):
            raise ValueError(f"{file}: line {line}: {fault}")
        if (first := lines.setdefault(PurePosixPath(path), line)) != line:
            raise ValueError(f"{file}: line {line}: found {path}, which stands in line {first} too; wanted each image once")
        found.append((str(file.parent / path), label, part))
    _check(file, found)
    return found


def _rows(file):
    """(line, {column: value}) of the rows."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, skipinitialspace=True, restval="", strict=True)
            reader.fieldnames = _columns(reader.fieldnames or [])
            for row in reader:
                if None in row:
                    raise ValueError(f"line {reader.line_num}: found more values than columns; wanted quotes around one with a comma in it")
                yield reader.line_num, row
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file; wanted {WANTED}, in the folder prepare.raw, where its paths begin") from None
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {error}; wanted {WANTED}, in UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _columns(names):
    names = [name.strip() for name in names]
    if not {"path", "label"} <= set(names) or len(set(names)) < len(names):
        raise ValueError(f"found the first line {','.join(names)[:80]!r}; wanted {WANTED}, by these names, with commas between them")
    return names


def _fault(root, path, label, part, parted):
    """What is wrong with a row, or None."""
    if not path or Path(path).is_absolute() or ".." in Path(path).parts:
        return f"found the path {path!r}; wanted one that begins at {root} and stays in it: what lies elsewhere DVC would not see change"
    if not label.isprintable() or not 0 < len(label) <= 200:
        return f"found the label {label[:40]!r}; wanted the name of a class"
    if parted and part not in PARTS:
        return f"found the split {part!r}; wanted train or test (validation images are taken from train: prepare.validation)"
    if not (root / path).is_file():
        return f"found no file {root / path}; wanted the image there (folders separated by /)"
    return None


def _check(file, found):
    """Raise ValueError unless there are two classes, each in every part."""
    classes = {label for _, label, _ in found}
    if len(classes) < 2:
        raise ValueError(f"{file}: found {f'the single class {min(classes)!r}' if classes else 'no row'}; wanted two classes or more")
    parts = {part for *_, part in found}
    for part in parts if parts == {""} else sorted(parts | {"train"}):
        if lacking := classes - {label for _, label, own in found if own == part}:
            raise ValueError(f"{file}: found no {part} image of {sorted(lacking)}; wanted some of every class")
