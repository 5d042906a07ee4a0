"""Tensors in a safetensors file with one canonical JSON header, written whole or not at all.

One metadata entry, sorted keys, no time and no host: two processes that write the same tensors write the same bytes.
(With several metadata entries safetensors orders them differently from process to process.)
"""

import json
import math
import os
import reprlib
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mtt import foreign
from mtt.files import whole

DTYPES = {
    "F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16,
    "U8": torch.uint8, "I32": torch.int32, "I64": torch.int64, "BOOL": torch.bool,
}  # fmt: skip


def save(path, tensors, header):
    """Write `tensors` {name: Tensor} and `header` (anything JSON can hold) to `path`, replacing it atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with whole(path) as beside:
            save_file(tensors, beside, {"header": json.dumps(header, sort_keys=True, separators=(",", ":"))})
            os.chmod(beside, 0o666 & ~_umask())  # safetensors makes it private to its owner
    except SafetensorError as error:
        raise OSError(f"{path}: could not be written: {error}") from error


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Place(foreign.Schema):
    """A tensor's entry in the header of a safetensors file."""

    dtype: Literal[tuple(DTYPES)]
    shape: foreign.several(Annotated[int, Field(ge=0)], max_length=8)
    data_offsets: foreign.several(Annotated[int, Field(ge=0)], min_length=2, max_length=2)


def read_header(path, kind, largest=foreign.LARGEST):
    """The header of a file, and where its tensors lie: {name: (dtype, shape, first byte, last byte + 1)}; no tensor is read.

    `kind` is the layout that the header must name, `largest` the bytes that a header may have.
    Raises ValueError, naming the path, for a missing, truncated or foreign file.
    Read here and not by safetensors, which maps the whole file: the kernel then reads megabytes ahead, of every file of a buffer.
    """
    wanted = f"wanted a {kind} file"
    try:
        with _opened(path) as file:
            length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
            if not 0 < length <= size - 8:
                raise OSError(f"{size} bytes, {length} of them a header")
            if length > largest:
                raise ValueError(f"its header has {length} bytes, more than {largest}")
            entries = foreign.parsed(file.read(length))
        text = entries.pop("__metadata__")["header"]
        places = _places(entries, 8 + length, size)
        header = foreign.parsed(text.encode())
        found = header["kind"]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {wanted}") from None
    except OSError as error:
        raise ValueError(f"{path}: found no whole safetensors file ({error}); {wanted}") from None
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: found a safetensors file without this project's header; {wanted}") from None
    except ValueError as error:  # of JSON too
        raise ValueError(f"{path}: found a safetensors file without this project's header ({error}); {wanted}") from None
    if found != kind:
        name = reprlib.repr(found).strip("'")
        raise ValueError(f"{path}: found a {name} file; {wanted}")
    return header, places


def _places(entries, start, size):
    """The tensors' places; their bytes must fill the file from `start` to its end, none twice and none left out."""
    places = {name: _place(entry, start) for name, entry in entries.items()}
    for _, _, first, last in sorted(places.values(), key=lambda place: place[2:]):
        if first != start:
            raise ValueError(f"a tensor begins at byte {first}, not {start}")
        start = last
    if start != size:
        raise OSError(f"{size} bytes where its header says {start}")
    return places


def _place(entry, start):
    """Raises ValueError for an entry that is none. A shape's numbers other than 0 are bounded too, where one 0 makes the tensor empty."""
    found = foreign.held("a tensor", Place, entry)
    dtype, (first, last) = DTYPES[found.dtype], found.data_offsets
    if last - first != math.prod(found.shape) * dtype.itemsize or math.prod(filter(None, found.shape)) > 1 << 48:
        raise ValueError(f"a tensor has shape {reprlib.repr(found.shape)} and bytes {first} to {last}")
    return dtype, tuple(found.shape), start + first, start + last


def read_rows(path, place, first, last):
    """Rows first .. last - 1 of the tensor that lies at `place`; only their bytes are read."""
    dtype, shape, start, _ = place
    rows = torch.empty(last - first, *shape[1:], dtype=dtype)
    with _opened(path) as file:
        file.seek(start + first * math.prod(shape[1:]) * dtype.itemsize)
        rest = memoryview(rows.flatten().view(torch.uint8).numpy())
        while len(rest):  # Linux gives at most 2 GiB at a time
            if not (read := file.readinto(rest)):
                raise ValueError(f"{path}: found the end of the file in rows {first} to {last}; wanted it as it was when opened")
            rest = rest[read:]
    return rows


@contextmanager
def _opened(path):
    """The file, opened to read pieces of it: the kernel shall not read ahead."""
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        yield file


def load(path, kind, largest=foreign.LARGEST):
    """All tensors {name: Tensor} of a `kind` file, and its header."""
    header, _ = read_header(path, kind, largest)
    try:
        return load_file(path), header
    except SafetensorError as error:
        raise ValueError(f"{path}: found no whole safetensors file ({error}); wanted a {kind} file") from None
