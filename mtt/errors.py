"""An error of the user's in a line or more, with what to do next; one of the program's keeps its traceback."""

import errno
import inspect
import os
from pathlib import Path
from subprocess import CalledProcessError

from mtt import memory

FULL = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]  # safetensors' errors have it in their words alone
GOES_ON = "; make space, and the same command goes on from what was finished"
MISSING = "; `dvc repro` runs the stages that make it, `dvc pull` brings it from the remote"


def wrong_words(main, words):
    """A line where `main` does not take these words of the command line, else None."""
    try:
        inspect.signature(main).bind(*words)
    except TypeError as error:
        runs = "; dvc.yaml has the command, and `dvc repro` runs it" if main.__module__.startswith("stages.") else ""
        return f"{main.__module__} {' '.join(words)}: {error}{runs}"
    return None


def lines(error, stage, words, values):
    """What to tell the user of `error`, which ended a stage that was called with `words`; None for an error of the program's.

    `stage` is its name, or the dotted one of another command's module; `values` gives all of params.yaml.
    """
    if memory.ran_out(error):
        return [memory.line(error, stage, words, values())]
    if any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__):  # whose import takes seconds
        return [f"{stage}: torch.compile failed ({str(error).strip().splitlines()[0]}); MTT_COMPILE=0 goes without, slower"]
    if isinstance(error, CalledProcessError):
        return [f"{' '.join(map(str, error.cmd))}: ended with status {error.returncode}; what it said stands above"]
    if not isinstance(error, (ValueError, OSError, ArithmeticError)):
        return None
    text = str(error) or type(error).__name__
    if any(full in text for full in FULL):
        text += GOES_ON
    elif stage != "prepare" and "." not in stage and any("/" in word and word in text and not _there(word) for word in words):
        text += MISSING
    return text.splitlines()


def _there(path):
    """Whether something is at `path`; an empty folder is nothing."""
    return any(Path(path).iterdir()) if Path(path).is_dir() else Path(path).exists()
