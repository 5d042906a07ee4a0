"""What to lower, and to what, where memory runs out in a stage: first what changes no result, then parameters."""

import errno
import json
import re
from pathlib import Path

WORDS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "can't start new thread", "bad allocation")
WAYS = {
    "prepare": ["prepare.zca"],
    "experts": ["MTT_TOGETHER", "MTT_WORKERS", "experts.batch"],
    "buffer": ["buffer.snapshots"],
    "distill": ["MTT_TOGETHER", "distill.batch_syn", "distill.canvas_samples"],
    "baseline": ["baseline.{0}.batch_real", "baseline.{0}.batch"],
    "evaluate": ["MTT_TOGETHER", "MTT_WORKERS", "{2}.batch"],
}


def ran_out(error):
    """Whether the error says that there was no memory, of the machine or of a GPU."""
    if isinstance(error, RuntimeError):  # torch.OutOfMemoryError is one; others have it in their words alone
        return any(word in str(error) for word in WORDS)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def line(error, stage, words, values):
    """The line about it, for a stage that was called with the paths `words`, by params.yaml's `values`."""
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    found = str(error) if isinstance(error, MemoryError) and str(error) else f"found no memory left{' for ' + asked[1] if asked else ''}"
    where = " on the GPU" if "CUDA" in str(error) else ""
    return f"{stage}: {found}{where}; lower {' or '.join(ways(stage, words, values)) or 'network.width'}; what was finished is kept"


def ways(stage, words, values):
    """What can be lowered, as "NAME from 64 to 32"."""
    for name in WAYS.get(stage, ()):
        name = name.format(*words, *[""] * 3)
        value = _set(name, values)
        if value is True:
            yield f"{name} from true to false"
        elif value == "all" or type(value) is int:
            used = _used(stage, name, words, values)
            lower = _needed(values) if name == "buffer.snapshots" else used // 2
            if 0 < lower < used:
                yield f"{name} from {f'all ({used})' if value == 'all' else value} to {lower}"


def _set(name, values):
    """What a variable of the environment or a key of params.yaml is; None where there is no such key."""
    from mtt import workers  # here: it loads torch

    if name.startswith("MTT_"):
        return {"MTT_TOGETHER": workers.together, "MTT_WORKERS": workers.count}[name]()
    for key in name.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _used(stage, name, words, values):
    """How many of it are in memory: all that there are, and of networks as one no more than are trained."""
    from mtt import workers

    value, distill = _set(name, values), values["distill"]
    if name == "MTT_TOGETHER" and stage == "distill":
        return min(value, distill["validate"]["networks"]) if distill["validate"]["every"] else 0
    if name == "MTT_TOGETHER":
        networks = _set("experts.count" if stage == "experts" else f"{words[2]}.networks", values)
        return len(workers.groups(range(networks))[0])
    if name == "MTT_WORKERS" and workers.together() > 1:
        return 0  # fewer have larger groups
    if name == "buffer.snapshots" and value == "all":
        return values["experts"]["epochs"] + 1
    if name == "distill.batch_syn" and value == "all":
        return distill["ipc"] * len(json.loads(Path(words[0], "index.json").read_bytes())["classes"])
    return value


def _needed(values):
    """The fewest snapshots of the buffer with which a distillation gives the same; 0 where it asks the last of them too (DATM)."""
    distill, more = values["distill"], values["buffer"]["waypoints"]
    if distill["labels"] == "learned" or distill["start_images"] == "right":
        return 0
    least = distill["max_start_epoch"] + distill["expert_epochs"]
    return least if more == "none" else max(least + 1, more)
