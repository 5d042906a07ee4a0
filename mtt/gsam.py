"""Gradients that lead to flat minima: surrogate gap guided sharpness-aware minimisation (GSAM, Zhuang et al. 2022), as FTD has it."""

import torch

TINY = 1e-12


def flattening(gradient, rho, alpha):
    """The function (theta (E, P), x, y) -> (loss, direction (E, P)) that SGD follows in place of the gradient of E networks.

    `gradient(theta, x, y)` gives the sum of their losses and its gradient (E, P). Both are taken on the same images as augmented:

        e = rho w^2 g / || |w| g ||        the climb, g the gradient at w
        h                                  the gradient at w + e
        h - alpha (g - <g, h> h / ||h||^2)

    With rho = 0 it is the gradient, bit for bit. theta is moved while it is taken, and put back.
    """

    def direction(theta, x, y):
        loss, g = [value.clone() for value in gradient(theta, x, y)]  # both are overwritten where kernels are captured as one graph
        w = theta.detach().clone()
        theta.data.add_(rho * w.square() * g / ((w.abs() * g).norm(dim=1, keepdim=True) + TINY))
        h = gradient(theta, x, y)[1].clone()
        theta.data.copy_(w)
        along = (g * h).sum(1, keepdim=True) / h.square().sum(1, keepdim=True).clamp(min=torch.finfo(h.dtype).tiny)
        return loss, h - alpha * (g - along * h)

    return direction
