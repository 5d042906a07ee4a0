import pytest
import torch

from mtt.seeds import generator
from mtt.state import State, resume


def fresh(alpha=0.02):
    return State.begin(torch.randn(4, 1, 8, 8, generator=generator(1)), torch.arange(4), alpha)


def test_a_step_is_that_of_sgd_with_momentum():
    """For images and step size, over three steps."""
    state, draws = fresh(), generator(2)
    x, alpha = torch.nn.Parameter(state.x.clone()), torch.nn.Parameter(state.alpha.clone())
    optimizer = torch.optim.SGD([{"params": [x], "lr": 3.0}, {"params": [alpha], "lr": 0.001}], momentum=0.5)
    for _ in range(3):
        x.grad, alpha.grad = torch.randn(x.shape, generator=draws), torch.randn((), generator=draws)
        assert not state.step(x.grad, alpha.grad, 3.0, 0.001, 0.5, floor=0.0002)
        optimizer.step()
        assert torch.allclose(state.x, x, atol=1e-5)
        assert torch.allclose(state.alpha, alpha, atol=1e-6)
    assert state.iteration == 3


def test_the_step_size_is_clamped_at_the_floor_and_says_so():
    state = fresh(0.02)
    assert state.step(torch.zeros_like(state.x), torch.tensor(1.0), 1.0, 1.0, 0.5, floor=0.0002)
    assert float(state.alpha) == pytest.approx(0.0002)


def test_a_step_that_would_not_be_finite_is_refused_and_changes_nothing():
    state, before = fresh(), fresh()
    with pytest.raises(ArithmeticError, match="would not be finite"):
        state.step(torch.ones_like(state.x), torch.tensor(1e30), 1.0, 1e30, 0.5, floor=0.0)
    for name, value in vars(before).items():
        assert torch.equal(value, getattr(state, name)) if torch.is_tensor(value) else value == getattr(state, name)


def test_the_best_images_are_kept_as_they_were_when_scored():
    state = fresh()
    state.score(0.5)
    best = state.x.clone()
    state.step(torch.ones_like(state.x), torch.tensor(0.0), 1.0, 1.0, 0.5, floor=0.0)
    state.score(0.4)
    assert torch.equal(state.best_x, best)
    state.score(0.6)
    assert torch.equal(state.best_x, state.x)
    assert not torch.equal(state.best_x, best)
    assert state.scores == [[0, 0.5], [1, 0.4], [1, 0.6]]


def test_the_newest_checkpoint_not_past_the_end_is_resumed_whole(tmp_path):
    """Momenta, best and history come back too."""
    state = fresh()
    for number in range(1, 4):
        state.step(torch.randn(state.x.shape, generator=generator(number)), torch.tensor(0.1), 1.0, 0.001, 0.5, floor=0.0)
        state.curve.append([number, 0.1])
        state.score(number / 10)
        state.save(tmp_path / f"{number:06d}.safetensors")
    found, warning = resume(tmp_path, 2, "cpu")
    assert (found.iteration, warning) == (2, "")
    found, _ = resume(tmp_path, 9, "cpu")
    for name, value in vars(state).items():
        assert torch.equal(value, getattr(found, name)) if torch.is_tensor(value) else value == getattr(found, name)
    assert resume(tmp_path, 0, "cpu") == (None, "")


def test_a_resume_under_another_number_of_threads_says_so(tmp_path):
    fresh().save(tmp_path / "000000.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert "may differ in its last bits" in resume(tmp_path, 9, "cpu")[1]
    finally:
        torch.set_num_threads(threads)
