import json
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from conftest import ROOT
from torch.utils.flop_counter import FlopCounterMode

from mtt import compiling
from mtt.architectures import MLP, VGG11, AlexNet, LeNet, ResNet18, ViT
from mtt.batchnorm import batch_normed
from mtt.convnet import ConvNet
from mtt.functional import as_function, learner, value_and_gradient
from mtt.imageset import ImageSet
from mtt.params import Augmentation, Network
from mtt.seeds import generator
from mtt.training import initialise
from mtt.trajectory import vector
from recipes.__main__ import merged
from stages import distill, experts


def net():
    return ConvNet(1, 28, 10, width=128, depth=3)


def test_the_work_of_a_run_grows_with_its_steps_and_images():
    """A forward pass of ConvNet-D3 of width 128, counted by hand: three convolutions on maps of 32, 16 and 8, and the linear layer."""
    forward = 18 * (128 * 1024 + 128 * 128 * 256 + 128 * 128 * 64) + 2 * 2048 * 10
    seconds = compiling.eager_seconds(net(), (1, 28, 28), 100, 256)
    assert seconds == pytest.approx(100 * (3 * 256 * forward / compiling.RATE["cpu"] + compiling.OVERHEAD["cpu"]), rel=1e-3)
    assert compiling.eager_seconds(net(), (1, 28, 28), 200, 256) == pytest.approx(2 * seconds)


@pytest.mark.parametrize("kind", [AlexNet, VGG11, ResNet18, LeNet, MLP, batch_normed(ConvNet)])
def test_the_work_is_what_torch_counts(kind):
    with FlopCounterMode(display=False) as counter:
        kind(3, 32, 10)(torch.zeros(1, 3, 32, 32))
    assert compiling.work(kind(3, 32, 10), (3, 32, 32)) == counter.get_total_flops()


def test_the_work_of_a_transformer_is_what_torch_counts_less_the_products_of_queries_keys_and_values():
    with FlopCounterMode(display=False) as counter:
        ViT(3, 32, 10)(torch.zeros(1, 3, 32, 32))
    products = 4 * 2 * 2 * 65 * 65 * 128  # layers x two products x multiply and add x tokens x tokens x hidden
    assert compiling.work(ViT(3, 32, 10), (3, 32, 32)) == counter.get_total_flops() - products


def test_measuring_a_network_leaves_it_as_it_was():
    network = net()
    before = vector(network)
    compiling.eager_seconds(network, (1, 28, 28), 1, 1)
    assert torch.equal(vector(network), before)
    assert not any(module._forward_hooks for module in network.modules())


def test_long_runs_are_compiled_short_ones_are_not_and_the_environment_overrules(monkeypatch):
    monkeypatch.setattr(compiling, "works", lambda: True)
    monkeypatch.delenv("MTT_COMPILE", raising=False)
    assert compiling.repays(net(), (1, 28, 28), 10_000, 256)
    assert not compiling.repays(net(), (1, 28, 28), 10, 256)
    monkeypatch.setenv("MTT_COMPILE", "0")
    assert not compiling.repays(net(), (1, 28, 28), 10_000, 256)
    monkeypatch.setenv("MTT_COMPILE", "1")
    assert compiling.repays(net(), (1, 28, 28), 10, 256)
    monkeypatch.setenv("MTT_COMPILE", "yes")
    with pytest.raises(ValueError, match="MTT_COMPILE: found yes; wanted 0"):
        compiling.repays(net(), (1, 28, 28), 10, 256)


def test_each_worker_compiles_for_its_own_share_of_the_steps(monkeypatch):
    """And has one thread of the two that the rate is of: twice as long for twice the work, half the steps."""
    monkeypatch.setattr(compiling, "works", lambda: True)
    monkeypatch.delenv("MTT_COMPILE", raising=False)
    assert compiling.repays(net(), (1, 28, 28), 10_000, 10)
    assert compiling.repays(net(), (1, 28, 28), 10_000, 10, sharing=2)
    assert not compiling.repays(net(), (1, 28, 28), 10_000, 10, sharing=16)
    alone, shared = [compiling.eager_seconds(net(), (1, 28, 28), 1000, 10, sharing) for sharing in (None, 2)]
    assert alone - shared == pytest.approx(500 * compiling.OVERHEAD["cpu"])


def test_the_default_is_too_short_to_be_compiled(monkeypatch, tmp_path):
    """Its experts, its distillation and its evaluations, as the stages ask; the recipe of an hour is long enough."""
    monkeypatch.delenv("MTT_COMPILE", raising=False)
    monkeypatch.setattr(compiling, "works", lambda: True)
    asked = []
    for name in ("default", "fashion-mnist-ipc1-cpu"):
        p, shape = json.loads(json.dumps(merged(name))), (1, 8, 8) if name == "default" else (1, 28, 28)
        index = {"shape": shape, "classes": list(range(10))}
        asked.append(distill.repays(distill.Distill(**p["distill"]), distill.convnet(Network(**p["network"]), index), index))
        if name == "default":
            for architecture, kind in {"AlexNet": AlexNet, "VGG11": VGG11, "ResNet18": ResNet18}.items():
                asked.append(compiling.repays(kind(*shape[:2], 10), shape, 11 * p["evaluate"]["epochs"][architecture], 10))
            asked.append(compiling.repays(ConvNet(*shape[:2], 10, 32, 2), shape, 11 * 300, 10))
    assert asked == [False] * 5 + [True]


def test_experts_are_compiled_by_the_work_of_all_that_are_trained_as_one_however_few_are_left(monkeypatch):
    asked = []
    data = ImageSet(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10), "toy", list("abcdefghij"), [0.5], [0.25])
    monkeypatch.setenv("MTT_TOGETHER", "10")
    monkeypatch.setenv("MTT_WORKERS", "1")
    monkeypatch.setattr(experts.imageset, "load", lambda path: data)
    monkeypatch.setattr(experts.workers, "pool", lambda most: nullcontext(lambda functions, tasks, label, steps: None))
    monkeypatch.setattr(compiling, "repays", lambda network, shape, steps, images: asked.append((steps, images)))
    p = merged("default")
    p["experts"] |= {"count": 15, "batch": 4}
    settings = Network(**p["network"]), Augmentation(**p["augmentation"]), experts.Experts(**p["experts"])
    for missing in (range(15), range(10, 15), [14]):
        experts.train_missing(list(missing), None, None, None, *settings)
    assert asked == [(p["experts"]["epochs"] * 3, 40)] * 3


@pytest.mark.slow
def test_without_a_compiler_one_line_says_so_and_the_run_goes_on():
    """Asked twice, said once."""
    asking = (
        "from mtt import compiling; from mtt.convnet import ConvNet; "
        + "print(compiling.repays(ConvNet(1, 8, 10, 4, 1), (1, 8, 8), 1, 1)); " * 2
    )
    environment = {**os.environ, "MTT_COMPILE": "1", "CXX": "/no/such/compiler", "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", asking], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
    assert found.stderr.startswith("warning: torch.compile does not work here, going on without, slower: ")
    assert found.stderr.count("\n") == 1


@pytest.mark.slow
def test_compiled_is_the_same_function_and_runs_other_shapes_uncompiled():
    """Another shape must not start another compilation: a last, shorter batch would cost more than it saves."""
    network = initialise(ConvNet(1, 8, 5, width=4, depth=2), generator(1)).double()
    theta, loss, graphs = vector(network), as_function(network), []
    gradient = value_and_gradient(compiling.compiled(loss))
    counted = torch._dynamo.utils.counters["stats"]
    for n in (6, 4, 6, 3):
        x, y = torch.randn(n, 1, 8, 8, generator=generator(n), dtype=torch.float64), torch.arange(n) % 5
        for found, wanted in zip(gradient(theta, x, y), value_and_gradient(loss)(theta, x, y), strict=True):
            assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-13)
        graphs.append(counted["unique_graphs"])
    assert len(set(graphs)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [lambda *a: ViT(*a, layers=1), lambda *a: batch_normed(ConvNet)(*a, width=4, depth=1)], ids=["ViT", "BN"])
def test_attention_and_batch_norm_can_be_compiled_alone_and_together(kind, monkeypatch):
    """Traced as one graph and differentiated; the code that is generated from the graph is left out, it takes half a minute."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: compile(function, dynamic=False, fullgraph=True, backend="aot_eager"))
    fast, plain = learner(kind(1, 8, 10), compiling.compiled), learner(kind(1, 8, 10))
    theta = torch.stack([vector(initialise(kind(1, 8, 10), generator(seed))) for seed in range(2)])
    x, y = torch.randn(2, 5, 1, 8, 8, generator=generator("x")), torch.arange(10).view(2, 5)
    for count in (1, 2):
        found, wanted = [gradient(theta[:count].clone(), x[:count], y[:count]) for gradient in (fast, plain)]
        assert torch.allclose(found[0], wanted[0], rtol=1e-5)
        assert torch.allclose(found[1], wanted[1], rtol=1e-4, atol=1e-6)
