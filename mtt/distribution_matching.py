"""Distribution matching: images whose features have the mean that real ones' have (Zhao & Bilen 2023)."""

import torch


def match(features, real, x, augment):
    """|| mean phi(A(real)) - mean phi(A(x)) ||^2 () and its derivative by x.

    Of one class: real images (m, C, H, W) and synthetic x (n, C, H, W). phi = `features` gives (n, F), those of a network
    that was never trained; A = `augment` is a function of images, the same for both.
    """
    with torch.no_grad():
        target = features(augment(real)).mean(0)
    x = x.detach().requires_grad_()
    value = (features(augment(x)).mean(0) - target).square().sum()
    return value.detach(), torch.autograd.grad(value, x)[0]
