import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from mtt import workers

pytestmark = pytest.mark.slow


def square(task, _, tick):
    for _ in range(3):
        tick(loss=0.5)
    return task * task


def threads(task, _, tick):
    return torch.get_num_threads()


def fail(task, _, tick):
    if task == 1:
        raise ValueError("task 1 is wrong")
    time.sleep(0.1)


def die(task, _, tick):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("number", ["1", "2"])
def test_results_are_the_same_from_any_number_of_workers(number, monkeypatch, capfd):
    monkeypatch.setenv("MTT_WORKERS", number)
    with workers.pool(5) as each:
        assert each([square], [3, 1, 2], "squares", 3) == {3: 9, 1: 1, 2: 4}
        assert each([threads], [0, 1], "again", 1) == {0: 1, 1: 1}
    assert "9/9" in capfd.readouterr().err


def where(task, before, tick):
    return os.getpid(), torch.get_num_threads()


def test_the_only_worker_is_the_stage_itself_with_one_thread_for_so_long(monkeypatch):
    """As many as are asked for, or fewer where there are fewer tasks."""
    torch.set_num_threads(2)
    try:
        for number, most in (("1", 5), ("2", 1)):
            monkeypatch.setenv("MTT_WORKERS", number)
            with workers.pool(most) as each:
                assert each([where], [0], "here", 1) == {0: (os.getpid(), 1)}
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def hold(task, before, tick):
    start = time.monotonic()
    time.sleep(1)
    return [*(before or []), (os.getpid(), start, time.monotonic())]


def test_the_turns_of_a_task_follow_each_other_and_keep_every_worker_busy(monkeypatch):
    """Five tasks of two turns on two workers end after five turns, not six; no turn before the one it follows."""
    monkeypatch.setenv("MTT_WORKERS", "2")
    with workers.pool(5) as each:
        each([hold], [0, 1], "both are up", 1)
        found = each([hold, hold], range(5), "turns", 1)
    assert all(first[2] <= second[1] for first, second in found.values())
    turns = [turn for both in found.values() for turn in both]
    assert max(end for *_, end in turns) - min(start for _, start, _ in turns) < 5.8
    assert len({process for process, *_ in turns}) == 2


def test_networks_are_trained_one_by_one_on_a_cpu_and_in_groups_where_asked(monkeypatch):
    assert workers.groups(range(3)) == [(0,), (1,), (2,)]
    monkeypatch.setenv("MTT_TOGETHER", "10")
    for number, groups in {"1": [(0, 1, 2)], "2": [(0, 1), (2,)], "4": [(0,), (1,), (2,)]}.items():
        monkeypatch.setenv("MTT_WORKERS", number)
        assert workers.groups(range(3)) == groups
        assert workers.groups(range(3), sharing=1) == [(0, 1, 2)]


@pytest.mark.parametrize("number", ["1", "2"])
def test_the_error_of_a_task_is_the_error_of_the_run(number, monkeypatch):
    monkeypatch.setenv("MTT_WORKERS", number)
    with pytest.raises(ValueError, match="task 1 is wrong"), workers.pool(2) as each:
        each([fail], [0, 1, 2], "fails", 1)


def test_a_killed_worker_is_named_in_one_line(monkeypatch):
    monkeypatch.setenv("MTT_WORKERS", "2")
    with pytest.raises(MemoryError, match="^found a worker killed"), workers.pool(2) as each:
        each([die], [0], "dies", 1)


def test_a_process_ends_soon_after_its_parent_is_gone():
    """A grandchild that watches its parent is gone within seconds of a kill -9 of the parent."""
    watching = (
        "import os, time; from mtt import workers; workers.end_with_parent(os.getppid(), 0.1); print('on', flush=True); time.sleep(9)"
    )
    starting = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {watching!r}]); print(p.pid, flush=True); p.wait()"
    parent = subprocess.Popen([sys.executable, "-c", starting], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "on\n"
    parent.kill()
    parent.communicate()
    gone = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < gone, "the child is still there"
        time.sleep(0.1)


def test_a_process_whose_parent_was_gone_before_it_looked_ends_too():
    """As where dvc or a stage is killed while its child still imports torch: the child is somebody else's by then."""
    watching = "from mtt.workers import end_with_parent; import time; end_with_parent(2**22 + 1, 0.1); time.sleep(60)"
    assert subprocess.run([sys.executable, "-c", watching], timeout=30).returncode == 1


def test_tasks_are_shared_by_the_workers_that_there_are_and_on_slurm_by_a_job_each(monkeypatch):
    monkeypatch.delenv("MTT_EXECUTOR", raising=False)
    monkeypatch.setenv("MTT_WORKERS", "4")
    assert [workers.sharing(tasks) for tasks in (0, 3, 9)] == [1, 3, 4]
    monkeypatch.setenv("MTT_EXECUTOR", "slurm")
    assert workers.sharing(9) == 9
