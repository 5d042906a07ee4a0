"""Tensors in a safetensors file with one canonical JSON header, written whole or not at all.

One metadata entry, sorted keys, no time and no host: two processes that write the same tensors write the same bytes.
(With several metadata entries safetensors orders them differently from process to process.)
"""

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


def save(path, tensors, header):
    """Write `tensors` {name: Tensor} and `header` (anything JSON can hold) to `path`, replacing it atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(tensors, beside, {"header": json.dumps(header, sort_keys=True, separators=(",", ":"))})
        os.chmod(beside, 0o666 & ~_umask())  # safetensors makes it private to its owner
        os.replace(beside, path)
    except SafetensorError as error:
        raise OSError(f"{path}: could not be written: {error}") from error
    finally:
        beside.unlink(missing_ok=True)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def open_file(path, kind):
    """The open file (its tensors are read when asked for) and its header. `kind` is the layout that the header must name.

    Raises ValueError, naming the path, for a missing, truncated or foreign file.
    """
    try:
        file = safe_open(path, framework="pt")
        header = json.loads((file.metadata() or {})["header"])
        found = header["kind"]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; wanted a {kind} file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: found no whole safetensors file ({error}); wanted a {kind} file") from None
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"{path}: found a safetensors file without this project's header; wanted a {kind} file") from None
    if found != kind:
        raise ValueError(f"{path}: found a {found} file; wanted a {kind} file")
    return file, header


def load(path, kind):
    """All tensors {name: Tensor} of a `kind` file, and its header."""
    file, header = open_file(path, kind)
    return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (not a mapping)
