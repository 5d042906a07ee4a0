"""A bare loop over the convolutions of a network, nothing between them: what no way can beat that computes as many."""

import statistics

import torch
from torch import nn

from benchmarks import harness
from mtt.convnet import ConvNet

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def layers(net, x):
    """[(input, weight, padding)] of the convolutions that `net` does on x."""
    found = []

    def note(layer, inputs, _):
        found.append((inputs[0].detach(), layer.weight.detach(), layer.padding))

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    net(x)
    return found


def three(x, weight, padding):
    """The convolution, its input gradient and its weight gradient, as functions of nothing."""
    settings = ((1, 1), padding, (1, 1), False, (0, 0), 1)
    y = torch.nn.functional.conv2d(x, weight, padding=padding)
    yield lambda: torch.nn.functional.conv2d(x, weight, padding=padding)
    for mask in ((True, False, False), (False, True, False)):
        yield lambda mask=mask: torch.ops.aten.convolution_backward(y, x, weight, None, *settings, mask)


def best(functions, device):
    """The seconds of the fastest of `functions`: the median over a third of a second of each, after a first call.

    On a GPU over a thirtieth, of twenty calls at once: alone, a small one is mostly waited for.
    """
    found, least, calls = [], *((0.3, 1) if device == "cpu" else (0.03, 20))
    for function in functions:
        function()
        each = []
        while sum(each) < least or len(each) < 3:
            each.append(harness.seconds(lambda function=function: [function() for _ in range(calls)], device))
        found.append(statistics.median(each) / calls)
    return min(found)


def convolutions(images, width, channels, side, device="cpu", to_images=1):
    """Seconds of one output, one input gradient and one weight gradient of each layer, each in the layout that suits it.

    Without `to_images` the first layer has no input gradient: training takes none by the images.
    """
    if device == "cpu":
        from mtt import workers

        workers.keep_memory()
    net, total = ConvNet(channels, side, 10, width).to(device), 0.0
    for number, (x, weight, padding) in enumerate(layers(net, torch.randn(images, channels, side, side, device=device))):
        laid = [three(x.to(memory_format=f), weight.to(memory_format=f), padding) for f in LAYOUTS]
        output, to_input, to_weight = zip(*laid, strict=True)
        kinds = [output, to_weight] + [to_input] * (number > 0 or to_images)
        total += sum(best(kind, device) for kind in kinds)
    return {"seconds": total}


if __name__ == "__main__":
    harness.main({"convolutions": convolutions})
