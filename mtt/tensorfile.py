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
from safetensors.torch import load_file

from mtt import foreign
from mtt.files import whole

DTYPES = {  # in the order in which safetensors writes tensors of them: the largest first, so that each lies at a multiple of its size
    "I64": torch.int64, "F64": torch.float64, "F32": torch.float32, "I32": torch.int32,
    "BF16": torch.bfloat16, "F16": torch.float16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def save(path, tensors, header):
    """Write `tensors` {name: Tensor} and `header` (anything JSON can hold) to `path`, replacing it atomically."""
    stream(path, {name: (tensor.dtype, tensor.shape, [tensor]) for name, tensor in tensors.items()}, header)


def stream(path, tensors, header):
    """The same for tensors that are never in memory as a whole: {name: (dtype, shape, pieces)}, `pieces` an iterable of their rows.

    The bytes are those that safetensors itself would write. Raises OSError, naming `path`, where they cannot be written.
    """
    order = sorted(tensors, key=lambda name: ([*NAMES].index(tensors[name][0]), name))
    with whole(path) as beside, open(beside, "wb") as file:
        file.write(_head({name: tensors[name][:2] for name in order}, header))
        for piece in (piece for name in order for piece in tensors[name][2]):
            _write(file, path, piece.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def _write(file, path, data):
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        raise OSError(error.errno, f"could not be written: {error.strerror}", str(path)) from error


def _head(places, header):
    """The length and the header of a file whose tensors {name: (dtype, shape)} lie in this order."""
    header = json.dumps(header, sort_keys=True, separators=(",", ":"))
    entries, end = {"__metadata__": {"header": header}}, 0
    for name, (dtype, shape) in places.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


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
