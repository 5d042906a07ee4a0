"""Python 3.11 to 3.13, Linux and what macOS lacks, CPU and CUDA."""

import ast
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from mtt import compiling, environment, workers

FOLDERS = ("mtt", "stages", "recipes", "remotes", "studies", "benchmarks", "tests")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


# What was left out of sys.version_info in test_errors: the file that says so must be read by any Python.


@pytest.mark.parametrize("name", ["mtt/__init__.py", "mtt/environment.py", "stages/__init__.py", "recipes/__init__.py"])
def test_what_refuses_an_old_python_can_be_read_by_it(name):
    ast.parse((ROOT / name).read_text(), feature_version=(3, 6))


def test_every_file_is_written_in_the_oldest_python_that_is_supported():
    for path in FILES:
        ast.parse(path.read_text(), str(path), feature_version=environment.OLDEST)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_file_compiles_without_a_warning_under_each_python_that_is_here(version):
    """Under 3.12 and 3.13 more is a warning, such as an unknown escape."""
    python = interpreter(version)
    code = "import sys\nfor path in sys.argv[1:]: compile(open(path, encoding='utf-8').read(), path, 'exec')"
    found = subprocess.run([python, "-W", "error", "-c", code, *map(str, FILES)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10"])
def test_an_older_python_is_refused_in_one_line(version):
    found = subprocess.run([interpreter(version), "-m", "stages.check"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.startswith(f"error: found Python {version} (")
    assert found.stderr.count("\n") == 1


@pytest.mark.slow
def test_make_refuses_an_older_python_before_it_makes_anything(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    found = subprocess.run(["make", "repro", f"PYTHON={interpreter('3.10')}"], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode
    assert found.stderr.startswith("error: found Python 3.10; wanted 3.11, 3.12 or 3.13: make PYTHON=python3.12")
    assert not (tmp_path / ".venv").exists()


def interpreter(version):
    """The path of a Python of that version; skips the test where there is none."""
    for path in (
        shutil.which(f"python{version}"),
        *sorted(os.path.expanduser(f"~/.pyenv/versions/{version}.{n}/bin/python") for n in range(30)),
    ):
        if path and os.access(path, os.X_OK) and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return pytest.skip(f"no Python {version} here")


def test_the_supported_pythons_are_the_same_everywhere():
    """In the check, the Makefile, ruff's settings and README."""
    assert "(3, 11) <= sys.version_info < (3, 14)" in (ROOT / "Makefile").read_text()
    assert 'target-version = "py311"' in (ROOT / "pyproject.toml").read_text()
    assert "Python 3.11 to 3.13" in (ROOT / "README.md").read_text()
    assert (environment.OLDEST, environment.NEWER) == ((3, 11), (3, 14))


# What macOS does not have


def test_cores_are_counted_where_a_process_cannot_ask_for_its_own(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("MTT_WORKERS", raising=False)
    assert workers.count() == (torch.cuda.device_count() or 7)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert workers.cores() == 1


@pytest.mark.parametrize("raised", [AttributeError("mallopt"), OSError("no libc"), TypeError("None")])
def test_a_libc_without_mallopt_is_left_as_it_is(monkeypatch, raised):
    def fail(*_):
        raise raised

    monkeypatch.setattr(workers.ctypes, "CDLL", fail)
    workers.keep_memory()


LINUX_ONLY = {"sched_getaffinity", "prctl", "pidfd_open", "memfd_create", "posix_fadvise", "O_DIRECT", "epoll", "eventfd"}


def test_nothing_that_linux_alone_has_is_used_without_a_guard():
    """By name, in what runs the pipeline: the one that is there asks first whether it is there."""
    for path in [path for path in FILES if path.parent.name in ("mtt", "stages", "recipes", "remotes")]:
        text = path.read_text()
        used = {node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)} & LINUX_ONLY
        assert all(f'hasattr(os, "{name}")' in text for name in used), path
        assert '"/proc' not in text, path


def test_processes_are_spawned_as_macos_does(monkeypatch):
    """Not forked, whatever the system's own way is."""
    asked = []
    monkeypatch.setenv("MTT_WORKERS", "2")
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda way: asked.append(way) or pytest.skip("asked"))
    with pytest.raises(pytest.skip.Exception), workers.pool(2):
        pass
    assert asked == ["spawn"]


# Devices


def test_a_device_of_apples_is_never_chosen(monkeypatch):
    """It is not tested, so it is not taken: the CPU is."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert workers.device() == torch.device("cpu")
    assert compiling.kind() == "cpu"
    assert workers.made_with({})["device"] == "cpu"


@pytest.mark.parametrize(("rank", "wanted"), [("0", 0), ("1", 1), ("3", 1)])
def test_each_process_makes_its_own_gpu_the_current_one(monkeypatch, rank, wanted):
    """Of two."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", rank)
    workers.settle()
    assert chosen == [torch.device("cuda", wanted)]


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["", "0"])
def test_one_variable_chooses_between_cpu_and_gpu(seen):
    """CUDA's own: with no card to see, all runs on the CPU."""
    code = "from mtt import workers, compiling; print(workers.device().type, compiling.kind())"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": seen}
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    wanted = "cuda" if seen and torch.cuda.is_available() else "cpu"
    assert found.stdout.split() == [wanted, wanted]
