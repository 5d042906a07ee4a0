"""What to lower, and to what, where memory runs out in a stage: first what changes no result, then parameters."""

import errno
import json
import math
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
        value, lower = _set(name, values), None
        if isinstance(value, bool):
            lower = False if value else None
        elif value == "all":
            value, lower = _all(name, words, values)
        elif isinstance(value, int):
            lower = max(min(value, _used(stage, name, words, values)) // 2, _least(name, values))
            lower = lower if lower < value else None
        if lower or lower is False:
            yield f"{name} from {str(value).lower()} to {str(lower).lower()}"


def _set(name, values):
    """What a variable of the environment or a key of params.yaml is; None where there is no such key."""
    from mtt import workers  # here: it loads torch

    if name.startswith("MTT_"):
        return {"MTT_TOGETHER": workers.together, "MTT_WORKERS": workers.count}[name]()
    for key in name.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _used(stage, name, words, values):
    """How much of it there is any use for: of networks as one, no more than are trained."""
    networks = {"experts": "experts.count", "distill": "distill.validate.networks", "evaluate": "{2}.networks"}
    return _set(networks[stage].format(*words, *[""] * 3), values) if name == "MTT_TOGETHER" else math.inf


def _least(name, values):
    """What the check of the parameters wants at least."""
    more = values["buffer"]["waypoints"] != "none"  # as stages.check has it
    return values["distill"]["max_start_epoch"] + values["distill"]["expert_epochs"] + more if name == "buffer.snapshots" else 1


def _all(name, words, values):
    """How many "all" are, and what to lower them to."""
    if name == "buffer.snapshots":
        return "all", _least(name, values)
    images = values["distill"]["ipc"] * len(json.loads(Path(words[0], "index.json").read_bytes())["classes"])
    return f"all ({images})", images // 2
