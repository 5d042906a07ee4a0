"""Batch norm whose state is determined by a network's parameters and its training images: no step leaves a trace, no order matters."""

import torch
from torch import nn


class BatchNorm(nn.BatchNorm2d):
    """Normalises by its batch in training and keeps nothing of it; at rest by the statistics that `settle` gave it.

    Running averages would be one buffer for all networks that are trained as one, and would depend on the order of their steps.
    """

    def __init__(self, channels):
        super().__init__(channels, momentum=None)  # None: where statistics are tracked, all batches weigh the same
        self.track_running_stats = False


def batch_normed(architecture):
    """The same architecture with batch norm in place of each instance norm."""

    def build(*sizes, **more):
        network = architecture(*sizes, **more)
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.GroupNorm):
                    setattr(module, name, BatchNorm(child.num_channels))
        return network

    return build


@torch.no_grad()
def settle(network, images, see=lambda images: images, batch=500):
    """`network`, its batch norms given the statistics of what it sees of `images` (n, C, H, W), in batches of one size, at most `batch`.

    "Precise" batch norm (Wu & Johnson 2021, section 3): one pass with the final parameters, each layer normalised by its batch.
    The images are those it was trained on, without augmentation: nothing is drawn, and test images have none either.
    """
    norms, trained = [module for module in network.modules() if isinstance(module, BatchNorm)], network.training
    network.train()
    for norm in norms:
        norm.track_running_stats = True
        norm.reset_running_stats()
    for chunk in torch.arange(len(images)).tensor_split(-(-len(images) // batch)) if norms else ():
        network(see(images[chunk]))
    for norm in norms:
        norm.track_running_stats = False
    return network.train(trained)
