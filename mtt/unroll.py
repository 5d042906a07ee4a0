"""The gradient of trajectory matching, exact, with one step's graph in memory at a time.

Notation (Cazenavette et al. 2022, Algorithm 1; the discrete adjoint of its inner loop):

    theta_i   (P,)            the student's parameters after i of N steps; theta_0 lies on an expert's path
    target    (P,)            the expert's parameters M epochs after theta_0
    x, y      (n, C, H, W)    the synthetic images, and their labels, (n,) or (n, K)
    alpha     ()              the learned step size
    b_i, A_i                  step i's mini-batch (indices) and its draw of the augmentation
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
from torch.func import functional_call


def as_function(network, objective):
    """The loss l(theta, x, y) -> () of `network`, theta (P,) in place of its parameters. `objective(logits, y)` as cross_entropy."""
    names, shapes = zip(*[(name, p.shape) for name, p in network.named_parameters()], strict=True)
    sizes = [shape.numel() for shape in shapes]

    def loss(theta, x, y):
        parts = [part.view(shape) for part, shape in zip(theta.split(sizes), shapes, strict=True)]
        return objective(functional_call(network, dict(zip(names, parts, strict=True)), x), y)

    return loss


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


def gradient(loss, theta, x, y, create_graph=False):
    """g (P,): the gradient of loss(theta, x, y) by theta."""
    theta = theta if theta.requires_grad else theta.detach().requires_grad_()
    return torch.autograd.grad(loss(theta, x, y), theta, create_graph=create_graph)[0]


def match(loss, theta, target, x, y, alpha, steps):
    """The matching loss L and its gradients (dL/dx, dL/dalpha).

    `loss` is l(theta, x, y); `steps` a list of (b_i, A_i), A_i a pure function of images.
    """
    x, alpha, thetas = x.detach(), alpha.detach(), [theta]
    for b, augment in steps:
        thetas.append(thetas[-1] - alpha * gradient(loss, thetas[-1], augment(x[b]), y[b]))

    value, lam = distance(thetas[-1], theta, target)
    dx, dalpha = torch.zeros_like(x), torch.zeros_like(alpha)
    for theta_i, (b, augment) in zip(reversed(thetas[:-1]), reversed(steps), strict=True):
        theta_i, x_b = theta_i.detach().requires_grad_(), x[b].requires_grad_()
        s = lam @ gradient(loss, theta_i, augment(x_b), y[b], create_graph=True)
        ds_dx, ds_dtheta = torch.autograd.grad(s, (x_b, theta_i))
        dalpha -= s.detach()
        dx[b] -= alpha * ds_dx  # b is a piece of a permutation: no index twice
        lam = lam - alpha * ds_dtheta
    return value, dx, dalpha
