"""The gradient of trajectory matching, exact, with one step's graph in memory at a time.

Notation (Cazenavette et al. 2022, Algorithm 1; the discrete adjoint of its inner loop):

    theta_i   (P,)            the student's parameters after i of N steps; theta_0 lies on an expert's path
    target    (P,)            the expert's parameters M epochs after theta_0
    x, y      (n, C, H, W)    the synthetic images, and their labels: classes (n,), or soft, (n, K)
    alpha     ()              the learned step size
    b_i, A_i                  step i's mini-batch (indices, some more than once) and its draw of crops and augmentation
    g_i       (P,)            gradient by theta of l(theta_i, A_i(x[b_i]), y[b_i])

Forward:   theta_{i+1} = theta_i - alpha g_i
Loss:      L = ||theta_N - target||^2 / ||theta_0 - target||^2                             (Equation 2)
Backward:  lam_N = dL/dtheta_N, and at the beginning of each iteration lam = dL/dtheta_{i+1}:
    s = <lam, g_i(theta_i, x)>
    dL/dalpha -= s
    dL/dx     -= alpha ds/dx              and so for soft labels y
    lam       -= alpha ds/dtheta_i        the Hessian term: (I - alpha H_i) lam

Truncated (the gradient of TESLA's code, Cui et al. 2023), each theta_i is held constant: without the last line, lam is lam_N throughout.

Kept: theta_0 .. theta_N and the numbers drawn for each step, nothing else; so memory is flat in N but for these vectors.
"""

import torch
import torch.nn.functional as F

from mtt.functional import value_and_gradient


class Step:
    """The two derivatives of a student's step, from its loss l(theta, x, y).

    Eager, the gradient is differentiated again. Compiled (by `compile`, as compiling.compiled), s is taken as the slope of
    the loss along lam, by forward mode: <lam, g> without g, one convolution a layer less. Eager, that is the slower one.

    The gradient, and with it the student's path, is eager on a CPU always: compiled, its convolutions round two to three
    times as coarsely, and a ReLU that falls to the other side leads the path elsewhere. It would save 4 % of the time.

    On CUDA, compiled, what either gives is good until either is called again: it lies in the memory of a captured graph.
    """

    def __init__(self, loss, compile=None, truncated=False):
        self.loss, self.truncated = loss, truncated
        self._eager, self._captured = value_and_gradient(loss), value_and_gradient(compile(loss) if compile else loss)
        self.pullback = compile(self._slope_along, self._twice_reversed) if compile else self._twice_reversed

    def gradient(self, theta, x, y):
        """g (P,): the gradient of the loss by theta."""
        return (self._captured if theta.is_cuda else self._eager)(theta, x, y)[1]

    def _twice_reversed(self, theta, x, y, lam):
        """s = <lam, g> (), and its derivatives by theta (0 where truncated), x, and y where it is soft."""
        theta, x, *soft = [tensor.detach().requires_grad_() for tensor in (theta, x, y) if tensor.is_floating_point()]
        with torch.enable_grad():
            s = lam @ torch.autograd.grad(self.loss(theta, x, *(soft or [y])), theta, create_graph=True)[0]
        constant = [torch.zeros_like(theta)] if self.truncated else []
        return s.detach(), *constant, *torch.autograd.grad(s, (theta, x, *soft)[len(constant) :])

    def _slope_along(self, theta, x, y, lam):
        """The same."""

        def slope(theta, x, *soft):
            return torch.func.jvp(lambda theta: self.loss(theta, x, *(soft or [y])), (theta,), (lam,))[1]

        soft, constant = [y] if y.is_floating_point() else [], [torch.zeros_like(theta)] if self.truncated else []
        slopes, s = torch.func.grad_and_value(slope, tuple(range(len(constant), 2 + len(soft))))(theta, x, *soft)
        return s, *constant, *slopes


def batches(n, batch, steps, generator):
    """`steps` index tensors that walk a permutation of n images, drawn afresh when used up; its last chunk may be shorter."""
    chunks = []
    while len(chunks) < steps:
        chunks += torch.randperm(n, generator=generator).split(batch)
    return chunks[:steps]


def distance(theta, start, target):
    """||theta - target||^2 / ||start - target||^2 (Equation 2) and its derivative by theta (P,)."""
    difference, length = theta - target, (start - target).square().sum()
    return difference.square().sum() / length, 2 * difference / length


def nearest(thetas, target):
    """i* >= 1, the step after which the student is nearest to the target, by the sum of absolute differences (ATT, Liu et al. 2024)."""
    return 1 + int(torch.stack([(theta - target).abs().sum() for theta in thetas[1:]]).argmin())


def match(step, theta, target, x, y, alpha, steps, objective=distance, stop="last", first=0):
    """The matching loss L and its gradients (dL/dx, dL/dalpha), and dL/dy where labels are soft.

    `step` is the Step of the loss; `steps` a list of (b_i, A_i), A_i a pure function of images. `objective(theta_N, theta_0,
    target)` gives L and lam_N: another end of the student is another lam_N, nothing else. It sees the parameters from `first` on:
    deeper layers come later. `stop`: "last", or "nearest": the student's end is then the step nearest to the target.
    """
    x, y, alpha = x.detach(), y.detach(), alpha.detach()
    # Copied: theta is a row of a buffer, a view, which compiled forward mode does not take.
    # Summed up in float64: rounded in each step, float32 parameters lose more than their gradient is off, and add that up.
    thetas, exact = [theta.clone()], theta.double()
    for b, augment in steps:
        exact = exact - alpha * step.gradient(thetas[-1], augment(x[b]), y[b])
        thetas.append(exact.to(theta.dtype))

    if stop == "nearest":
        steps = steps[: nearest([own[first:] for own in thetas], target[first:])]
    value, lam = objective(thetas[len(steps)][first:], theta[first:], target[first:])
    lam = F.pad(lam, (first, 0))
    dx, dalpha, dy = torch.zeros_like(x), torch.zeros_like(alpha), [torch.zeros_like(y)] if y.is_floating_point() else []
    for i, (b, augment) in reversed(list(enumerate(steps))):
        x_b = x[b].requires_grad_()
        seen = augment(x_b)
        s, ds_dtheta, ds_dseen, *ds_dy = step.pullback(thetas[i], seen.detach(), y[b], lam)
        dalpha -= s
        dx.index_add_(0, b, alpha * torch.autograd.grad(seen, x_b, ds_dseen)[0], alpha=-1)  # an image used twice in a step gets both
        for total, slope in zip(dy, ds_dy, strict=True):
            total.index_add_(0, b, alpha * slope, alpha=-1)
        lam = lam - alpha * ds_dtheta
    return value, dx, dalpha, *dy
