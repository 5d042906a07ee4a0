import itertools

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
    """Their own gradient too; with mini-batches whose last chunk is shorter."""
    step, theta, target, x, y, alpha, steps = setting(batch=4, soft=True)
    _, dx, _, dy = match(step, theta, target, x, y, alpha, steps)
    assert relative(dx, plain(step, theta, target, x, y, alpha, steps)[1]) < 1e-11
    y = y.clone().requires_grad_()
    student = theta.clone().requires_grad_()
    for b, augment in steps:
        student = student - alpha * torch.autograd.grad(step.loss(student, augment(x[b]), y[b]), student, create_graph=True)[0]
    value = (student - target).square().sum() / (theta - target).square().sum()
    assert relative(dy, torch.autograd.grad(value, y)[0]) < 1e-11


def test_soft_labels_that_are_one_hot_give_the_gradient_of_hard_ones():
    step, theta, target, x, y, alpha, steps = setting(batch=4)
    soft = F.one_hot(y, 5).double()
    for found, wanted in zip(
        match(step, theta, target, x, soft, alpha, steps), match(step, theta, target, x, y, alpha, steps), strict=False
    ):
        assert relative(found, wanted) < 1e-12


def path(step, theta, x, y, alpha, steps):
    """theta_0 .. theta_N and g_0 .. g_{N-1}."""
    thetas, slopes = [theta], []
    for b, augment in steps:
        slopes.append(step.gradient(thetas[-1], augment(x[b]), y[b]))
        thetas.append(thetas[-1] - alpha * slopes[-1])
    return thetas, slopes


def test_the_truncated_gradient_is_the_exact_one_without_the_hessian_terms():
    """It is that of TESLA's own formula, every theta_i held constant; and far from the exact one."""
    step, theta, target, x, y, alpha, steps = setting(batch=4)
    _, dx, dalpha = match(Step(step.loss, truncated=True), theta, target, x, y, alpha, steps)
    thetas, slopes = path(step, theta, x, y, alpha, steps)
    total, length = sum(slopes), (theta - target).square().sum()
    images, rate = x.clone().requires_grad_(), alpha.clone().requires_grad_()
    held = 2 * (alpha * (target - theta) + alpha**2 * total) / length
    for (b, augment), at in zip(steps, thetas, strict=False):
        at = at.clone().requires_grad_()
        g = torch.autograd.grad(step.loss(at, augment(images[b]), y[b]), at, create_graph=True)[0]
        (held @ g).backward(inputs=images)
    value = (theta - rate * total - target).square().sum() / length
    assert relative(dx, images.grad) < 1e-11
    assert relative(dalpha, torch.autograd.grad(value, rate)[0]) < 1e-11
    exact = plain(step, theta, target, x, y, alpha, steps)
    assert relative(dx, exact[1]) > 1e-3
    assert relative(dalpha, exact[2]) > 1e-3


def bent(steps=8):
    """A problem whose student passes its target and goes on."""
    step, theta, _, x, y, alpha, plan = setting(steps=steps)
    thetas, _ = path(step, theta, x, y, alpha, plan)
    away = 1e-3 * torch.randn(theta.shape, generator=generator("bent"), dtype=theta.dtype)
    return (step, theta, thetas[3] + away, x, y, alpha, plan), thetas


def test_nearest_stops_where_the_sum_of_differences_is_least():
    """At no step of the student is it less; the gradient is that of the steps up to there, exact."""
    (step, theta, target, x, y, alpha, steps), thetas = bent()
    sums = [float((own - target).abs().sum()) for own in thetas[1:]]
    least = 1 + sums.index(min(sums))
    assert least == 3 < len(steps)
    found = match(step, theta, target, x, y, alpha, steps, stop="nearest")
    for number, wanted in zip(found, plain(step, theta, target, x, y, alpha, steps[:least]), strict=True):
        assert relative(number, wanted) < 1e-10
    assert found[0] < match(step, theta, target, x, y, alpha, steps)[0]


def test_nearest_is_by_the_sum_of_differences_and_not_of_their_squares():
    """A target that has the third step's parameters but for the few that change most until the sixth, in which it has the sixth's."""
    (step, theta, _, x, y, alpha, steps), thetas = bent()
    change = (thetas[6] - thetas[3]).abs()
    few = change >= change.sort(descending=True).values[(change.sort(descending=True).values.cumsum(0) < 0.45 * change.sum()).sum()]
    target = torch.where(few, thetas[6], thetas[3])
    squares = [float((own - target).square().sum()) for own in thetas[1:]]
    assert 1 + squares.index(min(squares)) > 3
    found = match(step, theta, target, x, y, alpha, steps, stop="nearest")
    assert relative(found[1], plain(step, theta, target, x, y, alpha, steps[:3])[1]) < 1e-10


def test_a_student_that_never_turns_back_is_nearest_at_its_end():
    step, theta, _, *rest = setting()
    end = path(step, theta, *rest)[0][-1]
    for found, wanted in zip(match(step, theta, end, *rest, stop="nearest"), match(step, theta, end, *rest), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("stop", ["last", "nearest"])
def test_only_the_deeper_parameters_are_matched_from_the_first_on(stop):
    """Loss and gradients are those of autograd with the loss of these alone; which step is nearest is theirs to say."""
    (step, theta, target, x, y, alpha, steps), thetas = bent()
    first = len(theta) // 3
    target = torch.cat([thetas[6][:first], target[first:]])
    steps = steps[:3] if stop == "nearest" else steps
    images, rate, student = x.clone().requires_grad_(), alpha.clone().requires_grad_(), theta.clone().requires_grad_()
    for b, augment in steps:
        student = student - rate * torch.autograd.grad(step.loss(student, augment(images[b]), y[b]), student, create_graph=True)[0]
    value = (student - target)[first:].square().sum() / (theta - target)[first:].square().sum()
    found = match(step, theta, target, x, y, alpha, bent()[0][-1], stop=stop, first=first)
    for number, wanted in zip(found, (value.detach(), *torch.autograd.grad(value, (images, rate))), strict=True):
        assert relative(number, wanted) < 1e-10


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
    """Two reverses, as eager; the slope along lam, as compiled: s, ds/dtheta, ds/dx and ds/dy, for each kind of label; truncated too."""
    for soft, truncated in itertools.product((False, True), repeat=2):
        step, theta, _, x, y, *_ = setting(soft=soft)
        lam = torch.randn(theta.shape, generator=generator(5), dtype=torch.float64)
        step = Step(step.loss, truncated=truncated)
        along = Step(step.loss, compile=lambda function, otherwise=None: function, truncated=truncated)
        for found, wanted in zip(along.pullback(theta, x, y, lam), step.pullback(theta, x, y, lam), strict=True):
            assert relative(found, wanted) < 1e-12 or torch.equal(found, wanted)
        assert relative(step.pullback(theta, x, y, lam)[0], lam @ step.gradient(theta, x, y)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "soft", "truncated"), [(10, False, False), (4, False, False), (4, True, False), (10, True, True)])
def test_compiled_the_gradient_is_the_same(batch, soft, truncated):
    """To 1e-11 in float64; with mini-batches whose last chunk is shorter, and so not compiled; theta and target rows of a buffer."""
    step, theta, target, *rest = setting(["crop"], batch, soft=soft)
    found = match(Step(step.loss, compiled, truncated), *torch.stack([theta, target]), *rest)
    for number, wanted in zip(found, match(Step(step.loss, truncated=truncated), theta, target, *rest), strict=True):
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
