"""A trajectory straightened between a few way-points, so that these are all that is stored (MCT, Zhong et al. 2025).

theta (snapshots, P)       the parameters after every epoch, 0 .. T; points (K, P), the way-points among them
sizes                      the numbers of parameters of the L tensors that make up P
progress (snapshots, L)    how far a tensor is on the line from way-point to way-point: s + w at a share w of the s-th
"""

from itertools import pairwise

import torch


def marks(snapshots, count):
    """The snapshots that become way-points, evenly spread, the first and the last among them: of 51, four are 0, 17, 34, 50."""
    return [-(-index * (snapshots - 1) // (count - 1)) for index in range(count)]


def straighten(theta, sizes, marks):
    """(points (K, P), progress (snapshots, L)): w is the share of its way in the segment that a tensor has gone, by its steps' lengths.

    Inner way-points are then the mean of the snapshots before and after, as published; but where these are kept themselves.
    """
    steps = torch.stack([part.norm(dim=1) for part in theta.diff(dim=0).split(sizes, 1)], 1).double()
    progress = torch.zeros(len(theta), len(sizes), dtype=torch.float64)
    for number, (first, last) in enumerate(pairwise(marks)):
        gone = steps[first:last].cumsum(0)
        evenly = torch.arange(1, last - first + 1, dtype=torch.float64)[:, None] / (last - first)  # of a tensor that does not move
        progress[first + 1 : last + 1] = number + torch.where(gone[-1] > 0, gone / gone[-1], evenly)
    points = theta[marks]
    for number, (before, mark, after) in enumerate(zip(marks, marks[1:], marks[2:], strict=False), 1):
        if before < mark - 1 and mark + 1 < after:
            points[number] = (theta[mark - 1] + theta[mark + 1]) / 2
    return points, progress.float()


def at(points, progress, marks, sizes, epoch):
    """theta (P,) at `epoch`, a real number in 0 .. T: each tensor on the line between the two way-points around, at its own progress."""
    number = max(index for index, mark in enumerate(marks[:-1]) if mark <= epoch)
    low = min(int(epoch), len(progress) - 2)
    share = progress[low].lerp(progress[low + 1], epoch - low) - number
    ends = zip(points[number].split(sizes), points[number + 1].split(sizes), share.tolist(), strict=True)
    return torch.cat([start.lerp(end, w) for start, end, w in ends])
