"""The plain way, as the existing codes go it and written straightforwardly: what this project is measured against. At most 60 lines.

Nothing here is tuned: eager, the default number of threads, one network after another.
"""

import torch
import torch.nn.functional as F
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from mtt import dsa


def logits(net, theta, x):
    """What `net` gives for x with the flat vector theta (P,) in place of its parameters."""
    parameters, start = {}, 0
    for name, parameter in net.named_parameters():
        parameters[name] = theta[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    return functional_call(net, parameters, x)


def match(net, theta, target, x, y, alpha, steps):
    """The matching loss and its gradients (dL/dx, dL/dalpha): autograd through all steps. `steps` is a list of (indices, augment)."""
    x, alpha, student = x.clone().requires_grad_(), alpha.clone().requires_grad_(), theta.clone().requires_grad_()
    for b, augment in steps:
        loss = F.cross_entropy(logits(net, student, augment(x[b])), y[b])
        student = student - alpha * torch.autograd.grad(loss, student, create_graph=True)[0]
    value = (student - target).square().sum() / (theta - target).square().sum()
    return value.detach(), *torch.autograd.grad(value, (x, alpha))


def train(net, images, labels, epochs, batch, optimizer, families, generator):
    """Train `net` over a DataLoader with DSA; gives the list of its parameters after every epoch."""
    loader = DataLoader(TensorDataset(images, labels), batch, shuffle=True, generator=generator)
    device, snapshots = next(net.parameters()).device, []
    for _ in range(epochs):
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            loss = F.cross_entropy(net(dsa.augment(x, families, generator)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        snapshots.append([parameter.detach().clone() for parameter in net.parameters()])
    return snapshots


def save_buffer(path, experts):
    """Write nested lists of tensors, [expert][epoch][parameter], to one file."""
    torch.save(experts, path)


def segment(path, expert, start, epochs):
    """theta*_start and theta*_{start + epochs} of one expert, each (P,)."""
    found = torch.load(path, weights_only=True)[expert]
    return [torch.cat([parameter.flatten() for parameter in found[epoch]]) for epoch in (start, start + epochs)]
