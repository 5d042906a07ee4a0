"""The gradient of trajectory matching, exact, with one step's graph in memory at a time.

Notation (Cazenavette et al. 2022, Algorithm 1; the discrete adjoint of its inner loop):

    theta_i   (P,)            the student's parameters after i of N steps; theta_0 lies on an expert's path
    target    (P,)            the expert's parameters M epochs after theta_0
    x, y      (n, C, H, W)    the synthetic images, and their labels, (n,) or (n, K)
    alpha     ()              the learned step size
    b_i, A_i                  step i's mini-batch (indices, some more than once) and its draw of crops and augmentation
    g_i       (P,)            gradient by theta of l(theta_i, A_i(x[b_i]), y[b_i])

Forward:   theta_{i+1} = theta_i - alpha g_i
Loss:      L = ||theta_N - target||^2 / ||theta_0 - target||^2                             (Equation 2)
Backward:  lam_N = dL/dtheta_N, and at the beginning of each iteration lam = dL/dtheta_{i+1}:
    s = <lam, g_i(theta_i, x)>
    dL/dalpha -= s
    dL/dx     -= alpha ds/dx
    lam       -= alpha ds/dtheta_i        the Hessian term: (I - alpha H_i) lam

Kept: theta_0 .. theta_N and the numbers drawn for each step, nothing else; so memory is flat in N but for these vectors.
"""

import torch

from mtt.functional import value_and_gradient


class Step:
    """The two derivatives of a student's step, from its loss l(theta, x, y).

    Eager, the gradient is differentiated again. Compiled (by `compile`, as compiling.compiled), s is taken as the slope of
    the loss along lam, by forward mode: <lam, g> without g, one convolution a layer less. Eager, that is the slower one.

    The gradient, and with it the student's path, is eager on a CPU always: compiled, its convolutions round two to three
    times as coarsely, and a ReLU that falls to the other side leads the path elsewhere. It would save 4 % of the time.
    """

    def __init__(self, loss, compile=None):
        self.loss = loss
        self._eager, self._captured = value_and_gradient(loss), value_and_gradient(compile(loss) if compile else loss)
        self.pullback = compile(self._slope_along, self._twice_reversed) if compile else self._twice_reversed

    def gradient(self, theta, x, y):
        """g (P,): the gradient of the loss by theta."""
        return (self._captured if theta.is_cuda else self._eager)(theta, x, y)[1]

    def _twice_reversed(self, theta, x, y, lam):
        """s = <lam, g> (), and its derivatives by theta and x."""
        theta, x = theta.detach().requires_grad_(), x.detach().requires_grad_()
        with torch.enable_grad():
            s = lam @ torch.autograd.grad(self.loss(theta, x, y), theta, create_graph=True)[0]
        return s.detach(), *torch.autograd.grad(s, (theta, x))

    def _slope_along(self, theta, x, y, lam):
        """The same."""

        def slope(theta, x):
            return torch.func.jvp(lambda theta: self.loss(theta, x, y), (theta,), (lam,))[1]

        (ds_dtheta, ds_dx), s = torch.func.grad_and_value(slope, (0, 1))(theta, x)
        return s, ds_dtheta, ds_dx


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


def match(step, theta, target, x, y, alpha, steps):
    """The matching loss L and its gradients (dL/dx, dL/dalpha).

    `step` is the Step of the loss; `steps` a list of (b_i, A_i), A_i a pure function of images.
    """
    x, alpha = x.detach(), alpha.detach()
    # Copied: theta is a row of a buffer, a view, which compiled forward mode does not take.
    # Summed up in float64: rounded in each step, float32 parameters lose more than their gradient is off, and add that up.
    thetas, exact = [theta.clone()], theta.double()
    for b, augment in steps:
        exact = exact - alpha * step.gradient(thetas[-1], augment(x[b]), y[b])
        thetas.append(exact.to(theta.dtype))

    value, lam = distance(thetas[-1], theta, target)
    dx, dalpha = torch.zeros_like(x), torch.zeros_like(alpha)
    for i, (b, augment) in reversed(list(enumerate(steps))):
        x_b = x[b].requires_grad_()
        seen = augment(x_b)
        s, ds_dtheta, ds_dseen = step.pullback(thetas[i], seen.detach(), y[b], lam)
        dalpha -= s
        dx.index_add_(0, b, alpha * torch.autograd.grad(seen, x_b, ds_dseen)[0], alpha=-1)  # an image used twice in a step gets both
        lam = lam - alpha * ds_dtheta
    return value, dx, dalpha
