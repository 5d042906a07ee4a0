"""torch.compile where the whole run is long enough to repay it; the same mathematics, other last bits.

MTT_COMPILE=0 turns it off, MTT_COMPILE=1 on for runs of any length. It is no parameter, as the number of threads is none.
Decided from the whole run, never from what is left of it, so that a resumed run goes on as it began.
"""

import os
import sys
import warnings
from functools import cache

import torch
from torch import nn

from mtt import workers

# What a step costs without compiling at the least, in seconds, and the work done in a second, in floating-point operations:
# measured on two cores; on an H200 the rate alone, by ten experts as one, its overhead is a guess. Of 150 iterations of a
# distillation that took it 75 s they say 53.
# REPAID: how many times a compilation's time a run must take.
OVERHEAD = {"cpu": 0.004, "cuda": 0.004}
RATE = {"cpu": 80e9, "cuda": 15e12}
REPAID = {"cpu": 4.2, "cuda": 2}


def repays(network, shape, steps, images, cost=1, sharing=None):
    """Whether to compile a run of `steps` steps on `images` images (C, H, W) = `shape` each; False where it cannot be done.

    Where the steps are shared out over `sharing` workers, each of them compiles, for its own share.
    Compiling takes about a second for each tensor of parameters, `cost` times as long for a pullback or several functions, and saves about
    a third on a CPU, where it repays above some four times that, and on a GPU more than two thirds (RESULTS.md).
    """
    long = eager_seconds(network, shape, steps, images, sharing) > REPAID[kind()] * cost * len(list(network.parameters()))
    asked = os.environ.get("MTT_COMPILE") or str(int(long))
    if asked not in ("0", "1"):
        raise ValueError(f"MTT_COMPILE: found {asked}; wanted 0 (never), 1 (always) or nothing (where a run is long)")
    return asked == "1" and works()


def kind():
    """The kind of device that stages compute on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def eager_seconds(network, shape, steps, images, sharing=None):
    """What the run would take without, roughly: a step of training has 3 times a forward pass's work. A worker has one thread of two."""
    rate = RATE[kind()] / (2 if sharing and kind() == "cpu" else 1)
    return steps / (sharing or 1) * (3 * images * work(network, shape) / rate + OVERHEAD[kind()])


def work(network, shape):
    """Floating-point operations of a forward pass of one image, by the weights of its convolutions, linear layers and attentions.

    Counted by hand: torch's FlopCounterMode says the same (but for the products of queries, keys and values, a tenth of a small
    transformer) and takes a second to load, in every stage.
    """
    found = []

    def note(layer, _, output):
        weights = [parameter for parameter in layer.parameters() if parameter.ndim > 1]  # an attention's: its inputs', its output's
        places = (output[0] if isinstance(output, tuple) else output).numel() // len(weights[-1])
        found.append(2 * places * sum(weight.numel() for weight in weights))

    kinds = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, kinds)]
    with torch.no_grad():
        network(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return sum(found)


@cache
def works():
    """Whether something compiles here; says why not in one line, once."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(64, device=workers.device()))
    except Exception as error:  # whatever a missing or broken compiler raises
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        print(f"warning: torch.compile does not work here, going on without, slower: {reason.strip()}", file=sys.stderr, flush=True)
        return False
    return True


def compiled(function, otherwise=None):
    """`function` of tensors, compiled for the shapes of its first call; for others (a last batch, shorter) `otherwise` or itself is called.

    On CUDA its kernels are captured as one graph: small steps are bound by the launches of their kernels.
    """
    fast, first = None, None

    def either(*tensors):
        nonlocal fast, first
        shapes = [tensor.shape for tensor in tensors]
        if fast is None:
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # PyTorch advises them for products; these stay in float32
            mode = "reduce-overhead" if tensors[0].is_cuda else None
            fast, first = torch.compile(function, dynamic=False, mode=mode), shapes
        return (fast if shapes == first else otherwise or function)(*tensors)

    return either
