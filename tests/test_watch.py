"""What goes on beside the algorithm: when images are seen, scored and saved."""

import pytest
import torch

from mtt import watch
from mtt.state import Checkpoints, State, resume


def learned(folder, iterations, state=None, score=None, every=2, stop=None):
    """Iterations that change nothing but their number, watched; gives the state and the iterations at which it was seen."""
    state = state or State.begin(torch.zeros(2, 1, 2, 2), torch.arange(2), 0.1)
    seen = []
    with watch.watching(
        state, iterations, every, score, lambda state: seen.append(state.iteration), Checkpoints(folder, iterations)
    ) as after:
        while state.iteration < iterations:
            if state.iteration == stop:
                raise ArithmeticError("the loss is not finite")
            state.skip()
            after(torch.ones(1))
    return state, seen


def test_images_are_seen_at_the_marks_and_at_the_end_whatever_it_is(tmp_path):
    state, seen = learned(tmp_path, 8)
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert learned(tmp_path, 17)[1][-3:] == [12, 15, 17]
    assert learned(tmp_path, 20, state)[1] == [9, 12, 15, 18, 20]


def test_images_are_scored_every_so_many_iterations_where_there_is_a_score(tmp_path):
    state, _ = learned(tmp_path, 5, score=lambda state: state.iteration / 10)
    assert state.scores == [[2, 0.2], [4, 0.4]]
    assert learned(tmp_path, 5)[0].scores == []


def test_a_checkpoint_rolls_and_the_last_one_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("MTT_SAVE_EVERY", "0")
    saved = []
    monkeypatch.setattr(State, "save", lambda state, path, save=State.save: (saved.append((path.stem, state.iteration)), save(state, path)))
    learned(tmp_path, 3)
    assert saved == [("towards-000003", 1), ("towards-000003", 2), ("towards-000003", 3), ("000003", 3)]
    assert [path.name for path in tmp_path.iterdir()] == ["000003.safetensors"]


def test_a_shorter_run_leaves_a_longer_ones_checkpoint_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MTT_SAVE_EVERY", "0")
    with pytest.raises(ArithmeticError):
        learned(tmp_path, 9, stop=6)
    state, _ = resume(tmp_path, 4, "cpu")
    assert state is None
    learned(tmp_path, 4)
    assert resume(tmp_path, 5, "cpu")[0].iteration == 4
    assert resume(tmp_path, 9, "cpu")[0].iteration == 6


def test_a_rank_that_has_no_folder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MTT_SAVE_EVERY", "0")
    monkeypatch.setattr(State, "save", None)
    assert learned(None, 3)[0].iteration == 3


def test_numbers_that_are_no_longer_finite_leave_what_was_good_and_another_error_leaves_nothing(tmp_path):
    with pytest.raises(ArithmeticError, match="not finite"):
        learned(tmp_path / "far", 5, stop=3)
    assert resume(tmp_path / "far", 5, "cpu")[0].iteration == 3
    with pytest.raises(ZeroDivisionError):
        learned(tmp_path / "wrong", 5, score=lambda state: 1 / 0)
    assert resume(tmp_path / "wrong", 5, "cpu") == (None, "")
