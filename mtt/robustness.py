"""Robustness scores of DD-Ranking (Li et al. 2025, arXiv 2505.13300): what a set is worth apart from its labels and augmentation.

Arguments are test accuracies as fractions in 0..1, and so are the scores where they are not said to be differences.
"""

from math import exp


def score(gain):
    """A gain in -1..1 as a score in 0..1: (e^gain - e^-1) / (e - e^-1); no gain is 0.269."""
    return (exp(gain) - exp(-1)) / (exp(1) - exp(-1))


def hard_label_recovery(whole, distilled):
    """HLR = whole set - distilled set, both with hard labels: what is still lost; a difference, less is better."""
    return whole - distilled


def improvement_over_random(distilled, random):
    """IOR = distilled set - as many random real images, both with the distilled set's recipe; a difference, more is better."""
    return distilled - random


def label_robust(hlr, ior, weight=0.5):
    """LRS, the score of weight IOR - (1 - weight) HLR."""
    return score(weight * ior - (1 - weight) * hlr)


def augmentation_robust(augmented, plain, weight=0.5):
    """ARS, the score of weight IOR with augmentation + (1 - weight) IOR without."""
    return score(weight * augmented + (1 - weight) * plain)
