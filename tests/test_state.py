import pytest
import torch

from mtt.seeds import generator
from mtt.state import LEARNED, TENSORS, State, resume


def fresh(alpha=0.02, y=None):
    return State.begin(torch.randn(4, 1, 8, 8, generator=generator(1)), torch.arange(4) if y is None else y, alpha)


RATES, MOMENTA = {"x": 3.0, "y": 2.0, "alpha": 0.001}, {"x": 0.5, "y": 0.9, "alpha": 0.5}


def step(state, seed=0, decay=0.0):
    """A step of images and step size along random slopes."""
    slopes = {"x": torch.randn(state.x.shape, generator=generator(seed)), "alpha": torch.tensor(0.1)}
    return state.step(slopes, RATES, MOMENTA, floor=0.0, decay=decay)


def test_a_step_is_that_of_sgd_with_momentum():
    """For images, learned labels and step size, over three steps."""
    state, draws = fresh(y=torch.randn(4, 4, generator=generator(3))), generator(2)
    values = {name: torch.nn.Parameter(getattr(state, name).clone()) for name in LEARNED}
    optimizer = torch.optim.SGD([{"params": [values[name]], "lr": RATES[name], "momentum": MOMENTA[name]} for name in LEARNED])
    for _ in range(3):
        for value in values.values():
            value.grad = torch.randn(value.shape, generator=draws)
        assert not state.step({name: value.grad for name, value in values.items()}, RATES, MOMENTA, floor=0.0002)
        optimizer.step()
        assert all(torch.allclose(getattr(state, name), value, atol=1e-5) for name, value in values.items())
    assert state.iteration == 3


def test_the_average_of_decay_0_is_the_last_iterate():
    """Bit for bit."""
    state = fresh()
    assert torch.equal(state.average, state.x)
    for seed in range(3):
        step(state, seed)
        assert torch.equal(state.average, state.x)


def test_the_average_is_the_exponential_one_of_the_iterates_with_weights_that_sum_to_one():
    """The images before the first step have none."""
    state, seen = fresh(), []
    for seed in range(6):
        step(state, seed, decay=0.9)
        seen.append(state.x)
        weights = 0.9 ** torch.arange(len(seen)).flip(0)
        wanted = (torch.stack(seen) * (weights / weights.sum()).view(-1, 1, 1, 1, 1)).sum(0)
        assert torch.allclose(state.average, wanted, atol=1e-5)


def test_what_is_scored_and_kept_is_the_average():
    state = fresh()
    for seed in range(3):
        step(state, seed, decay=0.9)
    state.score(0.5)
    assert torch.equal(state.best_x, state.average)
    assert not torch.equal(state.best_x, state.x)


def test_an_iteration_that_is_skipped_changes_nothing_but_its_number():
    state = fresh()
    step(state)
    before = {name: getattr(state, name).clone() for name in TENSORS}
    state.skip()
    assert state.iteration == 2
    assert all(torch.equal(getattr(state, name), value) for name, value in before.items())


def test_iterates_that_were_skipped_count_in_the_average_as_others_do():
    """After skips and a step the images before have the weight of the iterations that they stood."""
    state, seen = fresh(), []
    for seed, skipped in enumerate((True, True, False, True, False)):
        state.skip(0.9) if skipped else step(state, seed, decay=0.9)
        seen.append(state.x)
    weights = 0.9 ** torch.arange(len(seen)).flip(0)
    assert torch.allclose(state.average, (torch.stack(seen) * (weights / weights.sum()).view(-1, 1, 1, 1, 1)).sum(0), atol=1e-5)


def test_the_step_size_is_clamped_at_the_floor_and_says_so():
    state = fresh(0.02)
    assert state.step({"alpha": torch.tensor(1.0)}, {"alpha": 1.0}, MOMENTA, floor=0.0002)
    assert float(state.alpha) == pytest.approx(0.0002)


def test_a_step_that_would_not_be_finite_is_refused_and_changes_nothing():
    state, before = fresh(), fresh()
    with pytest.raises(ArithmeticError, match="would not be finite"):
        state.step({"x": torch.ones_like(state.x), "alpha": torch.tensor(1e30)}, {"x": 1.0, "alpha": 1e30}, MOMENTA, floor=0.0)
    for name, value in vars(before).items():
        assert torch.equal(value, getattr(state, name)) if torch.is_tensor(value) else value == getattr(state, name)


def test_the_best_images_are_kept_as_they_were_when_scored():
    """With the step size of then; of several that are best, the first."""
    state = fresh()
    state.score(0.5)
    best, alpha = state.x.clone(), state.alpha.clone()
    for score in (0.4, 0.5):
        step(state)
        state.score(score)
        assert torch.equal(state.best_x, best)
        assert torch.equal(state.best_alpha, alpha)
    state.score(0.6)
    assert torch.equal(state.best_x, state.x)
    assert torch.equal(state.best_alpha, state.alpha)
    assert not torch.equal(state.best_x, best)
    assert not torch.equal(state.best_alpha, alpha)
    assert state.scores == [[0, 0.5], [1, 0.4], [2, 0.5], [2, 0.6]]


def test_the_newest_checkpoint_not_past_the_end_is_resumed_whole(tmp_path):
    """Momenta, best and history come back too."""
    state = fresh()
    for number in range(1, 4):
        step(state, number, decay=0.5)
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
