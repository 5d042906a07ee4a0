import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from mtt import store


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("MTT_WORK", str(tmp_path / "work"))
    return tmp_path


def test_the_folder_depends_on_the_bytes_of_files_and_on_settings_not_on_names(work):
    a, b = work / "a", work / "b"
    a.write_text("one")
    b.write_text("one")
    first = store.folder("experts", [a], {"width": 8})
    assert store.folder("experts", [b], {"width": 8}) == first
    assert store.folder("experts", [a], {"width": 9}) != first
    b.write_text("two")
    assert store.folder("experts", [b], {"width": 8}) != first


@pytest.mark.slow
def test_the_key_holds_the_code_that_a_stage_loads_and_no_machinery():
    """Whatever else is loaded here."""
    code = "import sys, stages.distill; print(*(name for name in sys.modules if name.split('.')[0] in ('mtt', 'stages')))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    found = store.code("stages.distill")
    assert set(found) == set(loaded) - store.MACHINERY
    assert all(path == Path(sys.modules[name].__file__) for name, path in found.items() if name in sys.modules)


def test_the_store_lies_in_the_original_repository_where_dvc_runs_in_a_copy(work, monkeypatch):
    monkeypatch.delenv("MTT_WORK")
    monkeypatch.setenv("DVC_ROOT", str(work / "original"))
    assert store.folder("experts", [], {}).parents[1] == work / "original" / ".work"


def test_what_another_run_writes_of_an_entry_before_it_holds_it_is_left_to_it(work):
    path = store.folder("experts", [], {})
    writing, left = path / f"{store.ABOUT}.1.tmp", path / "0000.safetensors.1.tmp"
    writing.touch()
    left.touch()
    with store.held(path):
        assert writing.exists()
        assert not left.exists()


def test_a_linked_file_is_the_same_file_and_replaces_an_older_one(work):
    (work / "a").write_text("new")
    (work / "b").write_text("old")
    store.link(work / "a", work / "b")
    assert (work / "a").samefile(work / "b")


def test_a_file_is_copied_where_it_cannot_be_linked(work, monkeypatch):
    (work / "a").write_text("new")
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("across devices")))
    store.link(work / "a", work / "b")
    assert (work / "b").read_text() == "new"
    assert not (work / "a").samefile(work / "b")


def test_an_emptied_folder_keeps_files_that_are_not_ours(work):
    (work / "0000.safetensors").write_text("old")
    (work / "notes.txt").write_text("mine")
    store.emptied(work)
    assert [path.name for path in work.iterdir()] == ["notes.txt"]


def _hold(path, seconds, log):
    with store.held(path):
        log.put(("in", time.monotonic()))
        time.sleep(seconds)
        log.put(("out", time.monotonic()))


@pytest.mark.slow
def test_two_runs_of_the_same_work_go_one_after_the_other(work):
    context = multiprocessing.get_context("spawn")
    log = context.SimpleQueue()
    runs = [context.Process(target=_hold, args=(work, 0.3, log)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [log.get()[0] for _ in range(4)] == ["in", "out", "in", "out"]
