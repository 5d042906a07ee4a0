"""What is measured on: networks at their initialisation and images drawn from a seed, the same in every process."""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from mtt import dsa, trajectory
from mtt.convnet import ConvNet
from mtt.seeds import generator
from mtt.training import initialise
from mtt.unroll import batches

ALL = tuple(dsa.FAMILIES)


class Matching(NamedTuple):
    """An iteration of distillation: a network, and what `match` takes after it."""

    net: torch.nn.Module
    theta: torch.Tensor
    target: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    alpha: torch.Tensor
    steps: list


def pictures(n, channels, side, draws):
    """Smooth images (n, channels, side, side) with a little noise; uncorrelated pixels are like no image."""
    coarse = torch.randn(n, channels, max(2, side // 4), max(2, side // 4), generator=draws)
    smooth = F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
    return smooth + 0.1 * torch.randn(n, channels, side, side, generator=draws)


def matching(images, steps, width, channels, side, *, depth=3, batch=None, families=ALL, seed=0, dtype=torch.float32, device="cpu"):
    """A Matching of `steps` steps of `batch` (default: all) of `images` images; drawn in float32 whatever the dtype."""
    draws = generator("benchmark", seed)
    net = initialise(ConvNet(channels, side, 10, width, depth), draws)
    theta = trajectory.vector(net)
    target = theta + 0.01 * torch.randn(theta.shape, generator=draws)
    x, y = pictures(images, channels, side, draws), torch.arange(images) % 10
    plan = []
    for b in batches(images, batch or images, steps, draws):
        drawn = dsa.draw(families, len(b), draws)
        plan.append((b.to(device), partial(dsa.apply, drawn=drawn)))
    numbers = [number.to(device, dtype) for number in (theta, target, x, torch.tensor(0.02))]
    return Matching(net.to(device, dtype), *numbers[:3], y.to(device), numbers[3], plan)


def training(images, width, channels, side, seed=0):
    """A fresh ConvNet-D3, images and labels to train it on, and a generator for the rest."""
    draws = generator("benchmark", "training", seed)
    net = initialise(ConvNet(channels, side, 10, width), draws)
    return net, pictures(images, channels, side, draws), torch.arange(images) % 10, draws
