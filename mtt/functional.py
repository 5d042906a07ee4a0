"""A network as a function of one vector of parameters, and of many networks' vectors at once.

theta (P,)       the parameters in the order of `named_parameters`; several networks: (E, P)
x, y             images (n, C, H, W) and their labels, (n,) or (n, K); several networks: (E, n, ...), each its own
"""

import torch
import torch.nn.functional as F
from torch.func import functional_call


def as_function(network, objective=F.cross_entropy):
    """The loss l(theta, x, y) -> () of `network`, theta (P,) in place of its parameters. `objective(logits, y)` as cross_entropy."""
    names, shapes = zip(*[(name, p.shape) for name, p in network.named_parameters()], strict=True)
    sizes = [shape.numel() for shape in shapes]

    def loss(theta, x, y):
        parts = [part.view(shape) for part, shape in zip(theta.split(sizes), shapes, strict=True)]
        return objective(functional_call(network, dict(zip(names, parts, strict=True)), x), y)

    return loss


def together(loss):
    """The sum of the losses of E networks: theta (E, P), x (E, n, C, H, W), y (E, n) -> (). Row e of its gradient is network e's own."""
    stacked = torch.vmap(loss)

    return lambda theta, x, y: stacked(theta, x, y).sum()


def value_and_gradient(loss):
    """The function (theta, x, y) -> (loss, its gradient by theta), both without a graph; theta as `loss` takes it."""

    def both(theta, x, y):
        theta = theta.detach().requires_grad_()
        with torch.enable_grad():
            value = loss(theta, x, y)
        return value.detach(), torch.autograd.grad(value, theta)[0]

    return both


def learner(network, compile=None):
    """The function (theta (E, P), x (E, n, ...), y (E, n)) -> (sum of losses, its gradient (E, P)) of E networks such as `network`.

    `compile` is compiling.compiled or None. A network alone is trained in place: `network` itself becomes theta's.
    """
    compile = compile or (lambda function: function)
    several = value_and_gradient(compile(together(as_function(network))))
    alone = in_place(network, compile(lambda x, y: F.cross_entropy(network(x), y)))
    return lambda theta, x, y: (several if len(theta) > 1 else alone)(theta, x, y)


def in_place(network, loss):
    """The same for theta (1, P), whose parts `network`'s parameters become; `loss(x, y)` is of the network as it stands.

    A fifth faster, eager on small sets and compiled on large ones, than taking theta apart in every step.
    """
    parameters = list(network.parameters())
    slope = None

    def both(theta, x, y):
        nonlocal slope
        if parameters[0].data_ptr() != theta.data_ptr():
            slope = torch.zeros_like(theta)
            sizes = [parameter.numel() for parameter in parameters]
            for parameter, part, own in zip(parameters, theta[0].split(sizes), slope[0].split(sizes), strict=True):
                parameter.data, parameter.grad = part.view_as(parameter), own.view_as(parameter)
        slope.zero_()
        value = loss(x[0], y[0])
        value.backward()
        return value.detach(), slope

    return both


@torch.no_grad()
def set_parameters(network, theta):
    """Give `network` the parameters theta (P,), copied: parameters that were views of it would change it as they are trained."""
    parameters = list(network.parameters())
    for parameter, part in zip(parameters, theta.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))
    return network
