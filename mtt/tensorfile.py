"""Tensors in a safetensors file with one canonical JSON header, written whole or not at all.

One metadata entry, sorted keys, no time and no host: two processes that write the same tensors write the same bytes.
(With several metadata entries safetensors orders them differently from process to process.)
"""

import json
import math
import os
from contextlib import contextmanager

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

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


def read_header(path, kind):
    """The header of a file, and where its tensors lie: {name: (dtype, shape, first byte, last byte + 1)}; no tensor is read.

    `kind` is the layout that the header must name. Raises ValueError, naming the path, for a missing, truncated or foreign file.
    Read here and not by safetensors, which maps the whole file: the kernel then reads megabytes ahead, of every file of a buffer.
    """
    try:
        with _opened(path) as file:
            length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
            if not 0 < length <= size - 8:
                raise OSError(f"{size} bytes, {length} of them a header")
            entries = json.loads(file.read(length))
        places = {name: _place(entry, 8 + length) for name, entry in entries.items() if name != "__metadata__"}
        if (end := max((place[3] for place in places.values()), default=8 + length)) != size:
            raise OSError(f"{size} bytes where its header says {end}")
        header = json.loads(entries["__metadata__"]["header"])
        found = header["kind"]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; wanted a {kind} file") from None
    except OSError as error:
        raise ValueError(f"{path}: found no whole safetensors file ({error}); wanted a {kind} file") from None
    except (KeyError, TypeError, AttributeError, ValueError):  # of JSON too
        raise ValueError(f"{path}: found a safetensors file without this project's header; wanted a {kind} file") from None
    if found != kind:
        raise ValueError(f"{path}: found a {found} file; wanted a {kind} file")
    return header, places


def _place(entry, start):
    """Raises KeyError, TypeError or ValueError for an entry that is none."""
    dtype, shape, (first, last) = DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if last - first != math.prod(shape) * dtype.itemsize or first < 0:
        raise ValueError
    return dtype, shape, start + first, start + last


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


def load(path, kind):
    """All tensors {name: Tensor} of a `kind` file, and its header."""
    header, _ = read_header(path, kind)
    try:
        return load_file(path), header
    except SafetensorError as error:
        raise ValueError(f"{path}: found no whole safetensors file ({error}); wanted a {kind} file") from None
