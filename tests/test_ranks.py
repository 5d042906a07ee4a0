"""Segments shared out over processes; the whole stage in two ranks is tested in test_run.py."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from mtt import ranks
from mtt.params import DIVERGED


def test_alone_the_average_is_the_mean_and_every_value_is_given():
    values, first, second = ranks.average(
        lambda task: (torch.tensor(float(task)), torch.full((2,), 2.0 * task), torch.tensor(1.0)), [1, 2, 6]
    )
    assert values.tolist() == [1, 2, 6]
    assert first.tolist() == [6, 6]
    assert second == 1


def test_one_segment_is_left_bitwise_as_it_is():
    x = torch.randn(5)
    assert torch.equal(ranks.average(lambda _: (torch.tensor(0.0), x), [0])[1], x)


@pytest.mark.parametrize(("name", "value"), [("MTT_RANKS", "3"), ("WORLD_SIZE", "3"), ("MTT_RANKS", "0")])
def test_more_ranks_than_segments_are_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"found {value}; wanted 1 to distill.segments = 2"):
        ranks.count(2)


def test_the_environment_says_how_many(monkeypatch):
    monkeypatch.delenv("MTT_RANKS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert ranks.count(4) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert ranks.count(2) == 2
    monkeypatch.setenv("MTT_RANKS", "4")
    assert ranks.count(4) == 4


SCRIPT = """
import os, sys, time, torch
from mtt import ranks
from mtt.params import run

def main(rank_that_fails=None):
    with ranks.joined(3) as rank:
        state = [torch.full((2,), float(rank))]
        number = ranks.from_first(7 if rank == 0 else 0, state)
        values, mean = ranks.average(lambda task: (torch.tensor(float(task)), torch.tensor([task, task * 10.0])), [1, 2, 3, 6])
        assert (number, state[0].tolist(), values.tolist(), mean.tolist()) == (7, [0, 0], [1, 2, 3, 6], [3, 30]), (rank, values, mean)
        if str(rank) == rank_that_fails:
            raise ValueError(f"rank {rank} has its own fault")
        if rank_that_fails == "all":
            time.sleep(0 if rank else 6)  # as long as rank 0 may take to save
            raise ArithmeticError("the loss is not finite")
        ranks.average(lambda task: (torch.tensor(0.0),), [0, 1, 2])
        os.write(2, f"done {rank}\\n".encode())

run(main)
"""


def shared(tmp_path, *words):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, tmp_path / "script.py", *words], env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_ranks_that_a_stage_starts_share_tasks_and_state(tmp_path):
    found = shared(tmp_path)
    assert found.returncode == 0, found.stderr
    assert sorted(found.stderr.split("\n")) == ["", "done 0", "done 1", "done 2"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "2"])
def test_a_rank_that_fails_ends_the_run_and_its_own_error_is_said(tmp_path, rank):
    """It does not hang, and shows no traceback."""
    found = shared(tmp_path, rank)
    assert found.returncode == 1
    assert f"error: rank {rank} has its own fault\n" in found.stderr
    assert "Traceback" not in found.stderr
    assert rank == "0" or "the same command goes on from the last checkpoint" in found.stderr


@pytest.mark.slow
def test_ranks_that_diverge_leave_rank_0_the_time_to_save_and_its_status(tmp_path):
    found = shared(tmp_path, "all")
    assert found.returncode == DIVERGED, found.stderr
    assert "goes on from" not in found.stderr
