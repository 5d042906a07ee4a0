"""Files of the original code (Cazenavette et al. 2022) and of those that grew from it: read, and checked before they are believed.

replay_buffer_*.pt    a list of experts, each a list of epochs, each a list of the network's parameters, in its order
images_best.pt        (n, C, H, W), normalised; labels_best.pt (n,) classes or (n, K) probabilities

They are pickles. `weights_only` lets nothing out of one but tensors in lists, and `mmap` brings in only what is looked at.
"""

import re
import zipfile
from pathlib import Path

import torch

CURE = "where you trust who made it, load it there with weights_only=False and save it again as plain tensors in lists"
FAULT = "the known fault of `.detach().cpu()`, which copies nothing on a CPU: every snapshot is the last; only training anew helps"


def unpacked(path):
    """What the .pt file `path` holds. Raises ValueError, naming it, for a file that is none or holds more than tensors in lists."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; wanted one that torch.save wrote")
    try:
        return torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a broken pickle may call for any operation and fail in any way
        found = re.search(r"GLOBAL (\S+)", str(error))
    if found:
        raise ValueError(f"{path}: found a {found[1][:100]}; wanted tensors in lists, nothing else is unpickled: {CURE}")
    raise ValueError(f"{path}: found no file that torch.load takes with weights_only=True; wanted one that torch.save wrote, whole; {CURE}")


def experts(path, layout):
    """The experts of a replay buffer, one after the other: (its place in words, theta (epochs, P) float32).

    Raises ValueError, naming file, expert and epoch, for tensors that are not as `layout`, [[name, shape], ...], has them, for
    snapshots that are one and the same, and for numbers that are not finite.
    """
    found, size = unpacked(path), Path(path).stat().st_size
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path}: found {_kind(found)}; wanted a list of experts, each a list of epochs of parameters")
    for number, epochs in enumerate(found):
        yield (place := f"{path}: expert {number}"), theta(place, epochs, layout, size)


def theta(place, epochs, layout, size):
    """The snapshots (epochs, P) of one expert. Bounds come first: what says that it is larger than its file of `size` bytes is a trick."""
    if not isinstance(epochs, (list, tuple)) or len(epochs) < 2:
        raise ValueError(f"{place}: found {_kind(epochs)}; wanted a list of two epochs or more")
    for epoch, tensors in enumerate(epochs):
        _check_shapes(f"{place}, epoch {epoch}", tensors, layout)
        if epoch and all(a.data_ptr() == b.data_ptr() for a, b in zip(tensors, epochs[epoch - 1], strict=True)):
            raise ValueError(f"{place}, epoch {epoch}: found the very tensors of the epoch before: {FAULT}")
    every = [tensor.data_ptr() for tensors in epochs for tensor in tensors]
    if len(set(every)) < len(every):
        raise ValueError(f"{place}: found one tensor in two places; wanted one for each parameter of each epoch")
    if (found := sum(tensor.nbytes for tensors in epochs for tensor in tensors)) > size:
        raise ValueError(f"{place}: found tensors of {found} bytes in a file of {size}; wanted each to have its own")
    rows = torch.stack([torch.cat([tensor.detach().flatten().float() for tensor in tensors]) for tensors in epochs])
    for epoch, row in enumerate(rows):
        if not row.isfinite().all():
            raise ValueError(f"{place}, epoch {epoch}: found numbers that are not finite; wanted an expert that was trained to the end")
        if epoch and torch.equal(row, rows[epoch - 1]):
            raise ValueError(f"{place}, epoch {epoch}: found the numbers of the epoch before: {FAULT}")
    return rows


def _check_shapes(place, tensors, layout):
    """Raise ValueError unless `tensors` are those of `layout`."""
    if not isinstance(tensors, (list, tuple)) or not all(_plain(tensor) and tensor.is_floating_point() for tensor in tensors):
        raise ValueError(f"{place}: found {_kind(tensors)}; wanted a list of plain tensors in floating point")
    found, hint = [list(tensor.shape) for tensor in tensors], ""
    if found and len(found[0]) == 4 and len(found) % 4 == 2:
        hint = f" (it looks like --width {found[0][0]} --depth {len(found) // 4} on {found[0][1]} channels)"
    if len(found) != len(layout):
        raise ValueError(f"{place}: found {len(found)} tensors; wanted {len(layout)}, the parameters of the network{hint}")
    for shape, (name, wanted) in zip(found, layout, strict=True):
        if shape != wanted:
            raise ValueError(f"{place}: found a tensor of shape {shape}; wanted {wanted}, for {name}{hint}")


def images(path):
    """Synthetic images (n, C, H, W) float32."""
    found = unpacked(path)
    if not _plain(found) or not found.is_floating_point() or found.ndim != 4 or found.nbytes > Path(path).stat().st_size:
        raise ValueError(f"{path}: found {_kind(found)}; wanted images, (n, C, H, W) in floating point")
    return found.detach().float().contiguous()


def labels(path, softmax=False):
    """Their labels (n,) int64, or (n, K) float32: rows of probabilities, or of logits that `softmax` makes such."""
    found = unpacked(path)
    if not _plain(found) or found.ndim not in (1, 2) or not found.numel() or found.nbytes > Path(path).stat().st_size:
        raise ValueError(f"{path}: found {_kind(found)}; wanted labels, (n,) classes or (n, K) probabilities")
    if found.ndim == 1:
        if not (found == found.long()).all():
            raise ValueError(f"{path}: found labels of {found.dtype}; wanted whole numbers")
        return found.long()
    found = found.detach().float()
    found = found.softmax(1) if softmax else found
    if found.min() < 0 or not torch.allclose(found.sum(1), torch.ones(len(found)), atol=1e-3):
        raise ValueError(f"{path}: found label rows that are no probabilities; wanted a sum of 1 in each (of logits: --softmax)")
    return found


def _plain(tensor):
    """Whether it is a tensor as any other, on the CPU and of real numbers."""
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return not (tensor.is_quantized or tensor.is_complex())


def _kind(found):
    """In a few words."""
    if isinstance(found, torch.Tensor):
        return f"a tensor of shape {list(found.shape)} and {found.dtype}"
    return f"a {type(found).__name__}" + (f" of {len(found)}" if hasattr(found, "__len__") else "")
