"""Gradient matching: images that give a network the gradients that real ones give (Zhao, Mopuri & Bilen 2021).

D(a, b) = sum over weight tensors and output rows r of 1 - <a_r, b_r> / (||a_r|| ||b_r|| + 1e-6)
"""

import torch
import torch.nn.functional as F


def distance(a, b):
    """D () of two lists of gradients by weights, each (rows, ...)."""
    return sum(_rows(own.flatten(1), other.flatten(1)) for own, other in zip(a, b, strict=True))


def _rows(a, b):
    return (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()


def gradients(network, images, label, create_graph=False):
    """Those of the cross-entropy of images (n, C, H, W) of one class, by the weights of `network`: not by what is 1-D, biases and norms."""
    loss = F.cross_entropy(network(images), torch.full((len(images),), label, device=images.device))
    return torch.autograd.grad(loss, [p for p in network.parameters() if p.ndim > 1], create_graph=create_graph)


def match(network, label, real, x, augment):
    """D () between real images (m, C, H, W) of class `label` and synthetic x (n, C, H, W), and its derivative by x.

    `augment` is a function of images, the same for both: the Siamese augmentation of Zhao & Bilen 2021.
    """
    target, x = gradients(network, augment(real), label), x.detach().requires_grad_()
    value = distance(target, gradients(network, augment(x), label, create_graph=True))
    return value.detach(), torch.autograd.grad(value, x)[0]
