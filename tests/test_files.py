import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from mtt.files import whole, write


def test_a_file_is_written_in_a_folder_that_is_made_and_replaces_an_older_one(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    for text in ("one", "two"):
        write(path, text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a power cut could leave half of it there."""
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *words, name=name, real=real: (done.append(name), real(*words)))
    write(tmp_path / "a.txt", "whole")
    assert done == ["fsync", "replace"]
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_an_error_leaves_the_older_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    write(path, "old")

    def fail():
        with whole(path) as beside:
            beside.write_text("ne")
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        fail()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_a_process_killed_while_it_writes_leaves_no_file_of_that_name(tmp_path):
    writing = "import os, signal, sys; from mtt.files import whole\nwith whole(sys.argv[1]) as beside:\n"
    writing += "    beside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    found = subprocess.run([sys.executable, "-c", writing, str(tmp_path / "a.txt")], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert found.returncode == -signal.SIGKILL
    assert not (tmp_path / "a.txt").exists()
    assert len(list(tmp_path.glob("a.txt.*.tmp"))) == 1
