import pytest
import torch
import torch.nn.functional as F

from mtt import dsa, trajectory
from mtt.convnet import ConvNet
from mtt.seeds import generator
from mtt.training import initialise
from mtt.unroll import as_function, batches, gradient, match


def setting(families=(), batch=10, steps=6, soft=False, channels=1):
    """A small matching problem in float64: loss, theta, target, x, y, alpha, steps."""
    draws = generator("unroll", *families, batch)
    net = initialise(ConvNet(channels, 8, 5, width=4, depth=2), draws).double()
    loss, theta = as_function(net, F.cross_entropy), trajectory.vector(net)
    target = theta + 0.1 * torch.randn(theta.shape, generator=draws, dtype=torch.float64)
    x = torch.randn(10, channels, 8, 8, generator=draws, dtype=torch.float64)
    y = torch.rand(10, 5, generator=draws, dtype=torch.float64).softmax(1) if soft else torch.arange(10) % 5
    plan = []
    for b in batches(10, batch, steps, draws):
        drawn = dsa.draw(families, len(b), draws)
        plan.append((b, lambda images, drawn=drawn: dsa.apply(images, drawn)))
    return loss, theta, target, x, y, torch.tensor(0.1, dtype=torch.float64), plan


def plain(loss, theta, target, x, y, alpha, steps):
    """The obvious way: autograd through all steps at once."""
    x, alpha, student = x.clone().requires_grad_(), alpha.clone().requires_grad_(), theta.clone().requires_grad_()
    for b, augment in steps:
        student = student - alpha * torch.autograd.grad(loss(student, augment(x[b]), y[b]), student, create_graph=True)[0]
    value = (student - target).square().sum() / (theta - target).square().sum()
    return value.detach(), *torch.autograd.grad(value, (x, alpha))


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("families", [[], *[[family] for family in dsa.FAMILIES], list(dsa.FAMILIES)], ids=lambda f: "+".join(f) or "none")
@pytest.mark.parametrize("batch", [10, 4])
def test_the_adjoint_equals_autograd_through_the_whole_unroll(families, batch):
    """Loss, images and step size, to 1e-11 in float64; with mini-batches whose last chunk is shorter."""
    problem = setting(families, batch, channels=3 if families == ["color"] else 1)
    value, dx, dalpha = match(*problem)
    wanted = plain(*problem)
    assert relative(value, wanted[0]) < 1e-13
    assert relative(dx, wanted[1]) < 1e-11
    assert relative(dalpha, wanted[2]) < 1e-11


def test_the_adjoint_equals_autograd_for_soft_labels():
    problem = setting(soft=True)
    assert relative(match(*problem)[1], plain(*problem)[1]) < 1e-11


def test_without_the_hessian_term_the_gradient_is_another():
    """The test above would see it: lam held constant, as truncated gradients have it, is far off."""
    loss, theta, target, x, y, alpha, steps = setting()
    student = theta
    thetas = []
    for b, augment in steps:
        thetas.append(student)
        student = student - alpha * gradient(loss, student, augment(x[b]), y[b])
    lam = 2 * (student - target) / (theta - target).square().sum()
    dx = torch.zeros_like(x)
    for (b, augment), at in zip(steps, thetas, strict=True):
        x_b = x[b].requires_grad_()
        dx[b] -= alpha * torch.autograd.grad(lam @ gradient(loss, at, augment(x_b), y[b], create_graph=True), x_b)[0]
    wanted = plain(loss, theta, target, x, y, alpha, steps)[1]
    assert relative(match(loss, theta, target, x, y, alpha, steps)[1], wanted) < 1e-11
    assert relative(dx, wanted) > 1e-3


def test_the_gradient_agrees_with_finite_differences():
    """Of the images along a random direction, and of the step size."""
    loss, theta, target, x, y, alpha, steps = setting()
    _, dx, dalpha = match(loss, theta, target, x, y, alpha, steps)
    direction, h = torch.randn(x.shape, generator=generator(1), dtype=torch.float64), 1e-6
    up, down = [match(loss, theta, target, x + sign * h * direction, y, alpha, steps)[0] for sign in (1, -1)]
    assert float((up - down) / (2 * h)) == pytest.approx(float((dx * direction).sum()), rel=1e-4)
    up, down = [match(loss, theta, target, x, y, alpha + sign * h, steps)[0] for sign in (1, -1)]
    assert float((up - down) / (2 * h)) == pytest.approx(float(dalpha), rel=1e-4)


def test_a_network_as_a_function_of_one_vector_equals_the_network():
    net = initialise(ConvNet(3, 16, 7, width=8, depth=3), generator(2))
    x, y = torch.randn(4, 3, 16, 16, generator=generator(3)), torch.tensor([0, 6, 2, 2])
    assert torch.equal(as_function(net, F.cross_entropy)(trajectory.vector(net), x, y), F.cross_entropy(net(x), y))


def test_matching_leaves_its_arguments_as_they_were():
    problem = setting()
    before = [tensor.clone() for tensor in problem[1:6]]
    match(*problem)
    assert all(torch.equal(a, b) for a, b in zip(before, problem[1:6], strict=True))


def test_batches_use_every_image_before_any_twice():
    """A permutation is walked, its last chunk shorter; then another is drawn."""
    found = batches(10, 4, 7, generator(4))
    assert [len(b) for b in found] == [4, 4, 2, 4, 4, 2, 4]
    first, second = torch.cat(found[:3]), torch.cat(found[3:6])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert not torch.equal(first, second)


def test_a_student_at_its_target_has_no_loss_and_one_that_stays_has_loss_one():
    loss, theta, target, x, y, alpha, steps = setting(steps=1)
    assert float(match(loss, theta, target, x, y, torch.zeros_like(alpha), steps)[0]) == 1
    b, augment = steps[0]
    there = theta - alpha * gradient(loss, theta, augment(x[b]), y[b])
    assert float(match(loss, theta, there, x, y, alpha, steps)[0]) < 1e-25
