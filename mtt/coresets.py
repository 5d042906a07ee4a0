"""Coresets: real images of one class, chosen by their features (n, F), one after the other and none twice.

Computed in float64: small differences of large sums decide.
"""

import torch


def herding(features, count):
    """Indices (count,) whose mean follows that of the class (Welling 2009).

    Pick k = 0, 1, ... is the f that minimises ||(k+1) mean - sum(picked) - f||.
    """
    features, picked = features.double(), []
    mean, rest = features.mean(0), torch.zeros_like(features[0], dtype=torch.float64)
    for _ in range(count):
        rest = rest + mean
        distances = (features - rest).norm(dim=1)
        distances[picked] = torch.inf
        picked.append(int(distances.argmin()))
        rest = rest - features[picked[-1]]
    return torch.tensor(picked)


def k_center(features, count, first):
    """Indices (count,) that leave no image far from all of them (Sener & Savarese 2018: k-Center-Greedy).

    Image `first`, then always the one that is farthest from its nearest pick.
    """
    features, picked = features.double(), [first]
    nearest = (features - features[first]).norm(dim=1)
    while len(picked) < count:
        nearest[picked] = -1  # below any distance: a copy of a pick may be picked, a pick may not
        picked.append(int(nearest.argmax()))
        nearest = nearest.minimum((features - features[picked[-1]]).norm(dim=1))
    return torch.tensor(picked)
