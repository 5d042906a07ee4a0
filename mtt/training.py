"""Training a network on tensors: what makes the experts, and what scores a set."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def initialise(network, generator):
    """`network` with PyTorch's default initialisation, drawn from `generator` and not from the global one."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    return network


def run_epoch(network, optimizer, images, labels, batch, augment, generator, tick=lambda loss: None):
    """One pass over (images, labels) in random order, cross-entropy, `batch` images a step.

    `augment(images, generator)` gives the images as the network sees them; `tick(loss)` is called after each step.
    """
    network.train()
    for chunk in torch.randperm(len(images), generator=generator).to(images.device).split(batch):
        loss = F.cross_entropy(network(augment(images[chunk], generator=generator)), labels[chunk])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tick(loss.detach())


def fit(network, images, labels, *, epochs, batch, learning_rate, momentum, weight_decay, augment, generator, tick=lambda loss: None):
    """Train a fresh network on a set by the protocol of the paper (its appendix): SGD, a tenth of the rate after half.

    At half a new optimiser starts, so the momentum starts from rest, as in the published protocol.
    """
    for first, last, rate in [(0, epochs // 2, learning_rate), (epochs // 2, epochs, learning_rate / 10)]:
        optimizer = torch.optim.SGD(network.parameters(), rate, momentum, weight_decay=weight_decay, fused=True)
        for _ in range(first, last):
            run_epoch(network, optimizer, images, labels, batch, augment, generator, tick)
    return network


@torch.no_grad()
def accuracy(network, images, labels, batch=500):
    """The share of images whose class has the largest logit."""
    network.eval()
    hits = [(network(x).argmax(1) == y).sum() for x, y in zip(images.split(batch), labels.split(batch), strict=True)]
    return int(sum(hits)) / len(labels)
