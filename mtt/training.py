"""Training a network on tensors: what makes the experts, and what scores a set."""

import math

import torch
from torch import nn

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)


def initialise(network, generator):
    """`network` with PyTorch's default initialisation, whatever it was before; drawn from `generator` and not from the global one.

    The output layer of an attention too is drawn as any linear layer. Parameters that no layer of PyTorch has (a vision transformer's
    class token and embedding of places) are normal with a standard deviation of 0.5, about that of the patches' embedding, which
    they meet in a sum; Adam outgrows BERT's 0.02, SGD does not (LOG.md).
    """
    for module in network.modules():
        if isinstance(module, NORMS):
            module.reset_parameters()  # ones and zeros: nothing is drawn
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.MultiheadAttention):
            nn.init.xavier_uniform_(module.in_proj_weight, generator=generator)
            nn.init.zeros_(module.in_proj_bias)
        else:
            for parameter in module.parameters(recurse=False):
                nn.init.normal_(parameter, std=0.5, generator=generator)
    return network


def epoch(gradient, theta, optimizer, images, labels, batch, augment, generators, tick=lambda loss: None, samples=1, among=None):
    """One pass of E networks theta (E, P) over (images, labels), each in an order of its own, `batch` images a step.

    `images` is a tensor, or what gives tensors for indices as one would (imageset.Normalised), so that a large set is not held in float32;
    `gradient(theta, x, y)` gives the sum of their losses and its gradient (E, P) for x (E, n, C, H, W) and y (E, n);
    `augment(images, generator)` the images as a network sees them; `generators` are E, one for each network.
    `tick(loss)` gets their mean loss after each step. Each image of a step is used `samples` times, augmented anew each time.
    `among` (m,): indices of the images that the pass is over, where it is not all.
    """
    count = len(images) if among is None else len(among)
    orders = torch.stack([torch.randperm(count, generator=draws) for draws in generators])
    orders = (orders if among is None else among[orders]).to(labels.device)
    for chunks in orders.split(batch, dim=1):
        chunks = chunks.repeat_interleave(samples, dim=1)
        x = torch.stack([augment(images[chunk], generator=draws) for chunk, draws in zip(chunks, generators, strict=True)])
        loss, theta.grad = gradient(theta, x, labels[chunks])
        optimizer.step()
        tick(loss / len(theta))


def fit(
    gradient, theta, images, labels, *, epochs, batch, learning_rate, momentum, weight_decay, augment, generators,
    tick=lambda loss: None, samples=1,
):  # fmt: skip
    """Half of a training by the protocol of the paper (its appendix): SGD from theta (E, P), which it changes, at one learning rate.

    A training is two such halves, the second at a tenth of the rate. Each starts an optimiser of its own, so at half the
    momentum starts from rest, as in the published protocol; and so all that one half hands on is theta.
    """
    optimizer = torch.optim.SGD([theta], learning_rate, momentum, weight_decay=weight_decay, fused=True)
    for _ in range(epochs):
        epoch(gradient, theta, optimizer, images, labels, batch, augment, generators, tick, samples)


def halves(epochs, learning_rate):
    """[(epochs, learning rate) of the first half, of the second]."""
    return [(epochs // 2, learning_rate), (epochs - epochs // 2, learning_rate / 10)]


@torch.no_grad()
def outputs(network, images, batch=500):
    """What the function `network` gives for all images, so many at a time: (n, ...) for images (n, C, H, W), or as in epoch."""
    return torch.cat([network(images[first : first + batch]) for first in range(0, len(images), batch)])


def accuracy(network, images, labels, batch=500):
    """The share of images whose class has the largest logit; `images` as in epoch."""
    trained = network.training
    network.eval()
    hits = outputs(network, images, batch).argmax(1) == labels
    network.train(trained)
    return int(hits.sum()) / len(labels)
