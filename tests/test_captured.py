"""On CUDA a compiled function is a captured graph, whose next replay overwrites what the last one gave. No GPU is needed to see whether
that is heeded: here is a stand-in whose every call spoils all that it, and any other like it, gave before."""

from functools import partial

import pytest
import torch

from benchmarks import gradient, problems
from mtt import compiling, dsa, gsam, trajectory
from mtt.functional import as_function, learner
from mtt.training import epoch
from mtt.unroll import Step, match

_given = []


def given(tensors):
    """Copies of tensors, good until a function is called again."""
    copies = [tensor.detach().clone() for tensor in tensors]
    _given.extend(copies)
    return tuple(copies)


def spoil():
    """Make all that was given useless."""
    for old in _given:
        old.fill_(torch.nan)
    _given.clear()


class Replayed(torch.autograd.Function):
    """A function's output, and its gradients, both in memory that is used again."""

    @staticmethod
    def forward(ctx, function, *tensors):
        ctx.inputs = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
        with torch.enable_grad():
            ctx.output = function(*ctx.inputs)
        return given([ctx.output])[0]

    @staticmethod
    def backward(ctx, slope):
        wanted = [tensor for tensor in ctx.inputs if tensor.requires_grad]
        found = iter(given(torch.autograd.grad(ctx.output, wanted, slope)))
        return None, *(next(found) if tensor.requires_grad else None for tensor in ctx.inputs)


def captured(function, otherwise=None):
    """In place of compiling.compiled."""

    def replay(*tensors):
        spoil()
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return Replayed.apply(function, *tensors)
        return given(function(*tensors))

    return replay


def on_cuda(step):
    """A Step that takes its gradient compiled, as it does on CUDA."""
    step._eager = step._captured
    return step


def test_the_stand_in_spoils_what_is_read_too_late():
    twice = captured(lambda x: (2 * x,))
    first = twice(torch.ones(1))[0]
    twice(torch.ones(1))
    assert first.isnan()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("stop", ["last", "nearest"])
def test_matching_reads_each_step_in_time(soft, truncated, stop):
    net, theta, target, x, y, alpha, steps = problems.matching(6, 4, 4, 1, 8, depth=2, batch=3)
    y = torch.eye(10)[y] if soft else y
    found, wanted = [
        match(on_cuda(Step(as_function(net), way, truncated)), theta, target, x, y, alpha, steps, stop=stop) for way in (captured, None)
    ]
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_training_together_reads_each_step_in_time():
    net, x, y, _ = problems.training(12, 4, 1, 8)
    ends = []
    for way in (captured, None):
        theta = trajectory.vector(net).repeat(3, 1)
        seen, draws = [], [torch.Generator().manual_seed(expert) for expert in range(3)]
        optimizer, augment = torch.optim.SGD([theta], 0.1), partial(dsa.augment, families=problems.ALL)
        epoch(learner(net, way), theta, optimizer, x, y, 4, augment, draws, tick=lambda loss, seen=seen: seen.append(float(loss)))
        ends.append((theta.detach(), torch.tensor(seen)))
    for found, wanted in zip(*ends, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-5)


def test_gsam_reads_each_gradient_in_time():
    net, x, y, _ = problems.training(12, 4, 1, 8)
    theta, found = trajectory.vector(net).repeat(3, 1), []
    for way in (captured, None):
        direction = gsam.flattening(learner(net, way), 0.01, 1.0)
        found.append(direction(theta.clone(), x.repeat(3, 1, 1, 1, 1), y.repeat(3, 1))[1])
    assert torch.allclose(*found, rtol=1e-4, atol=1e-7)


def test_the_benchmark_reads_each_step_in_time(monkeypatch):
    monkeypatch.setattr(compiling, "compiled", captured)
    monkeypatch.setattr(Step, "gradient", lambda self, theta, x, y: self._captured(theta, x, y)[1])
    assert gradient.step_case(2, 4, 1, 8, 1) < 1e-5
