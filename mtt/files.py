"""Files that are there whole or not at all, whatever ends the writing: an error, a full disk, a kill, a power cut."""

import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path):
    """Gives a path beside `path` to write to; what is there in the end takes the place of `path`. Makes the folders."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        with open(beside, "rb") as file:  # on the disk before it has the name, or a power cut could leave half of it there
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write(path, text):
    """Write a text."""
    with whole(path) as beside:
        beside.write_text(text)
