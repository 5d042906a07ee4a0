import os
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[1]

TINY = {
    "prepare": {"validation": 0.2},
    "network": {"width": 4},
    "experts": {"count": 2, "epochs": 3},
    "distill": {"iterations": 4, "syn_steps": 3, "max_start_epoch": 2, "validate": {"every": 2, "networks": 1, "epochs": 2}},
    "baseline": {
        "herding": {"epochs": 2},
        "k_center": {"epochs": 2},
        "dc": {"iterations": 4, "outer": 2, "batch_real": 500},
        "dsa": {"iterations": 4, "outer": 2, "batch_real": 20},
        "dm": {"iterations": 4, "batch_real": 20},
    },
    "architectures": ["ConvNet", "AlexNet"],
    "evaluate": {"networks": 2, "epochs": {"ConvNet": 4, "AlexNet": 2}, "learning_rates": [0.01, 0.1]},
    "whole": {"networks": 1, "epochs": {"ConvNet": 2}, "learning_rates": [0.01]},
}


# The tests' networks are small, and several pytest processes share the cores. With a thread a core in each, they wait for each other;
# and a single worker is the process of the test itself. Tests of threads and workers ask for their own.
torch.set_num_threads(1)
os.environ.setdefault("MTT_WORKERS", "1")

LONGEST = ("test_survival", "test_remotes", "test_recipes", "test_slurm", "test_commands")


def pytest_collection_modifyitems(items):
    """The longest files first, so that no process of several is left alone with one at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@cache
def commands():
    """{stage: its command}, as dvc.yaml has it."""
    return {name: stage["cmd"] for name, stage in yaml.load((ROOT / "dvc.yaml").read_text(), yaml.CSafeLoader)["stages"].items()}


def merge(values, changes):
    """Change nested values in place."""
    for key, change in changes.items():
        if isinstance(change, dict):
            merge(values[key], change)
        else:
            values[key] = change


class Run:
    """A folder with its own params.yaml, work store and data, in which stages are called."""

    def __init__(self, folder):
        self.folder = folder
        self.values = yaml.load((ROOT / "recipes/default.yaml").read_text(), yaml.CSafeLoader)
        self.set(**TINY)

    def set(self, **changes):
        """Change params.yaml, section by section."""
        merge(self.values, changes)
        (self.folder / "params.yaml").write_text(yaml.dump(self.values, Dumper=yaml.CSafeDumper))

    def command(self, stage, architecture="ConvNet", method="random"):
        """The module and its words, by which dvc.yaml calls a stage, without the check before it."""
        line = commands()[stage].split(" then ")[-1]
        known = {"prepare.raw": "raw", "distill.images": self.values["distill"]["images"]}
        for name, value in {**known, "item.method": method, "item.architecture": architecture}.items():
            line = line.replace(f"${{{name}}}", value)
        return shlex.split(line.removeprefix("exec python -m "))

    def __call__(self, stage, **item):
        """Run a stage in this process, as dvc.yaml calls it."""
        from stages import evaluate

        for cached in (evaluate.loaded, evaluate.prepared):
            cached.cache_clear()  # they go by the path of a set, and the one worker is this process
        module, *paths = self.command(stage, **item)
        __import__(module)
        sys.modules[module].main(*paths)

    def files(self, pattern):
        """{path: bytes} of what is there."""
        return {path.relative_to(self.folder): path.read_bytes() for path in sorted(self.folder.glob(pattern)) if path.is_file()}


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """A function that makes a fresh Run in a folder of its own and goes there."""

    def make(name="run"):
        folder = tmp_path / name
        (folder / "raw").mkdir(parents=True)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MTT_WORK", str(folder / "work"))
        return Run(folder)

    return make


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The folder of a tiny run whose buffer is there: made once, for others to start from."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "raw").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MTT_WORK", str(folder / "work"))
        run = Run(folder)
        for stage in ("prepare", "experts", "buffer"):
            run(stage)
    return folder


@pytest.fixture
def ready(make_run, made):
    """A run whose buffer is there."""
    run = make_run()
    for name in ("data", "work", "results"):
        shutil.copytree(made / name, run.folder / name)
    return run
