"""What this runs on, looked at before anything is imported that would end in a traceback. Any Python 3 must be able to read this file."""

import sys
from importlib.util import find_spec

OLDEST, NEWER = (3, 11), (3, 14)
# Of every stage; others, such as kornia, are asked for where they are used.
PACKAGES = ("numpy", "pandas", "PIL", "pydantic", "safetensors", "torch", "tqdm", "yaml")
MADE_BY = "`make repro` makes .venv with it, `source .venv/bin/activate` goes there"


def check():
    """End with one line where the system, Python or its packages are not what the project needs; and, from here on, at Ctrl-C."""
    sys.excepthook = _shown
    if sys.platform == "win32":
        sys.exit("error: found Windows; wanted Linux or macOS; on Windows: WSL (`wsl --install`), and the same commands in it")
    if not OLDEST <= tuple(sys.version_info[:2]) < NEWER:
        found = "{}.{}".format(*sys.version_info[:2])
        sys.exit(f"error: found Python {found} ({sys.executable}); wanted 3.11, 3.12 or 3.13: make PYTHON=python3.12 ...; {MADE_BY}")
    lacking = [name for name in PACKAGES if not _there(name)]
    if lacking:
        sys.exit(f"error: found no {', '.join(lacking)} beside {sys.executable}; wanted the packages of requirements.txt: {MADE_BY}")


def _shown(kind, error, trace):
    """Show an error that nobody caught. Ctrl-C is one while a command imports, and where it keeps nothing."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted; the same command starts again\n")
    else:
        sys.__excepthook__(kind, error, trace)


def _there(name):
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False
