"""Which images an expert sees in which epoch: the easy ones first, later without the easiest (PAD, Li et al. 2024)."""

import torch
import torch.nn.functional as F


def el2n(logits, labels):
    """The error of each image (n,): || softmax(logits) - its class, one-hot ||_2 (EL2N, Paul et al. 2021)."""
    return (logits.softmax(1) - F.one_hot(labels, logits.shape[1])).norm(dim=1)


def ranked(errors, labels):
    """How hard each image is for its class (n,): between 0, the easiest, and 1: the middles of as many equal parts."""
    found = torch.empty_like(errors)
    for label in labels.unique():
        own = (labels == label).nonzero().squeeze(1)
        found[own[errors[own].argsort(stable=True)]] = (torch.arange(len(own), dtype=errors.dtype) + 0.5) / len(own)
    return found


def among(ranks, epoch, growing):
    """The images of an epoch, counted from 0: indices (m,).

    Up to epoch `growing` (20, as published) the easiest three quarters and more and more; then all; after twice `growing` without
    the easiest tenth, after three times without the easiest fifth.
    """
    low = 0.0 if epoch <= 2 * growing else 0.1 if epoch <= 3 * growing else 0.2
    high = min(1.0, 0.75 + 0.25 * epoch / growing)
    return ((low <= ranks) & (ranks < high)).nonzero().squeeze(1)
