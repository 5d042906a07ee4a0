import pytest
import torch
import torch.nn.functional as F

from mtt import dsa, textures, trajectory
from mtt.compiling import compiled
from mtt.convnet import ConvNet
from mtt.functional import as_function
from mtt.seeds import generator
from mtt.training import initialise
from mtt.unroll import Step, batches, match


def setting(families=(), batch=10, steps=6, soft=False, channels=1, dtype=torch.float64):
    """A small matching problem, drawn in float32: step, theta, target, x, y, alpha, steps."""
    draws = generator("unroll", *families, batch)
    net = initialise(ConvNet(channels, 8, 5, width=4, depth=2), draws).to(dtype)
    loss, theta = as_function(net, F.cross_entropy), trajectory.vector(net)
    target = theta + 0.1 * torch.randn(theta.shape, generator=draws).to(dtype)
    x = torch.randn(10, channels, 8, 8, generator=draws).to(dtype)
    y = torch.rand(10, 5, generator=draws).to(dtype).softmax(1) if soft else torch.arange(10) % 5
    plan = []
    for b in batches(10, batch, steps, draws):
        drawn = dsa.draw(families, len(b), draws)
        plan.append((b, lambda images, drawn=drawn: dsa.apply(images, drawn)))
    return Step(loss), theta, target, x, y, torch.tensor(0.1, dtype=dtype), plan


def plain(step, theta, target, x, y, alpha, steps):
    """The obvious way: autograd through all steps at once."""
    x, alpha, student = x.clone().requires_grad_(), alpha.clone().requires_grad_(), theta.clone().requires_grad_()
    for b, augment in steps:
        student = student - alpha * torch.autograd.grad(step.loss(student, augment(x[b]), y[b]), student, create_graph=True)[0]
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


@pytest.mark.parametrize("batch", [10, 4])
def test_the_adjoint_equals_autograd_for_images_cropped_from_canvases(batch):
    """Three crops of each canvas in a step, then augmented: every image stands several times in a mini-batch, and all count."""
    step, theta, target, _, y, alpha, _ = setting()
    draws, plan = generator("canvases", batch), []
    x = torch.randn(10, 1, 16, 16, generator=draws, dtype=torch.float64)
    for b in batches(10, batch, 6, draws):
        b = b.repeat_interleave(3)
        offsets, drawn = textures.draw(len(b), 2, draws), dsa.draw(list(dsa.FAMILIES), len(b), draws)
        plan.append((b, lambda x, offsets=offsets, drawn=drawn: dsa.apply(textures.crop(x, offsets, 2), drawn)))
    problem = step, theta, target, x, y, alpha, plan
    value, dx, dalpha = match(*problem)
    wanted = plain(*problem)
    assert relative(value, wanted[0]) < 1e-13
    assert relative(dx, wanted[1]) < 1e-11
    assert relative(dalpha, wanted[2]) < 1e-11
    assert (dx != 0).double().mean() > 0.7, "most pixels of the canvases are used"


def test_in_float32_the_gradient_is_nearer_to_the_truth_than_the_plain_way():
    """Over 50 steps, as its parameters are summed up in float64."""
    errors = []
    for families in (["crop"], ["flip"], ["scale"], ["rotate"]):
        wanted = plain(*setting(families, steps=50))[1]
        problem = setting(families, steps=50, dtype=torch.float32)
        errors.append([relative(way(*problem)[1].double(), wanted) for way in (match, plain)])
    ours, theirs = torch.tensor(errors).median(0).values
    assert ours < 0.8 * theirs


@pytest.mark.slow
def test_in_float32_the_path_is_the_same_compiled_or_not():
    """On a CPU, where compiled convolutions round more coarsely: the loss is equal bit for bit, the gradients are to their own rounding."""
    step, *rest = setting(list(dsa.FAMILIES), steps=30, channels=3, dtype=torch.float32)
    (value, dx, dalpha), wanted = match(Step(step.loss, compiled), *rest), match(step, *rest)
    assert torch.equal(value, wanted[0])
    assert relative(dx, wanted[1]) < 1e-5
    assert relative(dalpha, wanted[2]) < 1e-4


def test_the_adjoint_equals_autograd_for_soft_labels():
    problem = setting(soft=True)
    assert relative(match(*problem)[1], plain(*problem)[1]) < 1e-11


def test_without_the_hessian_term_the_gradient_is_another():
    """The test above would see it: lam held constant, as truncated gradients have it, is far off."""
    step, theta, target, x, y, alpha, steps = setting()
    student = theta
    thetas = []
    for b, augment in steps:
        thetas.append(student)
        student = student - alpha * step.gradient(student, augment(x[b]), y[b])
    lam = 2 * (student - target) / (theta - target).square().sum()
    dx = torch.zeros_like(x)
    for (b, augment), at in zip(steps, thetas, strict=True):
        dx[b] -= alpha * step.pullback(at, augment(x[b]), y[b], lam)[2]
    wanted = plain(step, theta, target, x, y, alpha, steps)[1]
    assert relative(match(step, theta, target, x, y, alpha, steps)[1], wanted) < 1e-11
    assert relative(dx, wanted) > 1e-3


def test_the_gradient_agrees_with_finite_differences():
    """Of the images along a random direction, and of the step size."""
    step, theta, target, x, y, alpha, steps = setting()
    _, dx, dalpha = match(step, theta, target, x, y, alpha, steps)
    direction, h = torch.randn(x.shape, generator=generator(1), dtype=torch.float64), 1e-6
    up, down = [match(step, theta, target, x + sign * h * direction, y, alpha, steps)[0] for sign in (1, -1)]
    assert float((up - down) / (2 * h)) == pytest.approx(float((dx * direction).sum()), rel=1e-4)
    up, down = [match(step, theta, target, x, y, alpha + sign * h, steps)[0] for sign in (1, -1)]
    assert float((up - down) / (2 * h)) == pytest.approx(float(dalpha), rel=1e-4)


def test_the_two_ways_to_a_pullback_are_one():
    """Two reverses, as eager; the slope along lam, as compiled: s, ds/dtheta and ds/dx, for each class of label."""
    for soft in (False, True):
        step, theta, _, x, y, *_ = setting(soft=soft)
        lam = torch.randn(theta.shape, generator=generator(5), dtype=torch.float64)
        along = Step(step.loss, compile=lambda function, otherwise=None: function)
        for found, wanted in zip(along.pullback(theta, x, y, lam), step.pullback(theta, x, y, lam), strict=True):
            assert relative(found, wanted) < 1e-12
        assert relative(step.pullback(theta, x, y, lam)[0], lam @ step.gradient(theta, x, y)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("batch", [10, 4])
def test_compiled_the_gradient_is_the_same(batch):
    """To 1e-11 in float64; with mini-batches whose last chunk is shorter, and so not compiled; theta and target rows of a buffer."""
    step, theta, target, *rest = setting(["crop"], batch)
    found = match(Step(step.loss, compiled), *torch.stack([theta, target]), *rest)
    for number, wanted in zip(found, match(step, theta, target, *rest), strict=True):
        assert relative(number, wanted) < 1e-11


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
    step, theta, target, x, y, alpha, steps = setting(steps=1)
    assert float(match(step, theta, target, x, y, torch.zeros_like(alpha), steps)[0]) == 1
    b, augment = steps[0]
    there = theta - alpha * step.gradient(theta, augment(x[b]), y[b])
    assert float(match(step, theta, there, x, y, alpha, steps)[0]) < 1e-25
