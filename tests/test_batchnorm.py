import torch
from torch import nn

from mtt.architectures import ResNet18
from mtt.batchnorm import BatchNorm, batch_normed, settle
from mtt.convnet import ConvNet
from mtt.functional import learner, set_parameters
from mtt.seeds import generator
from mtt.training import accuracy, fit, initialise
from mtt.trajectory import layout, vector


def network():
    return batch_normed(ConvNet)(1, 8, 5, width=4, depth=2).double()


def images(n=13):
    return torch.randn(n, 1, 8, 8, generator=generator("images", n), dtype=torch.float64) * 3 + 1, torch.arange(n) % 5


def trained(net, seeds):
    """Theta (E, P) of networks trained as one for three epochs."""
    theta = torch.stack([vector(initialise(net, generator("start", seed))) for seed in seeds])
    settings = {"epochs": 3, "batch": 5, "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.001}
    fit(learner(net), theta, *images(), **settings, augment=lambda x, generator: x, generators=[generator(seed) for seed in seeds])
    return theta


def statistics(net):
    """Of its norms: [(running mean, running variance), ...], copied."""
    return [(norm.running_mean.clone(), norm.running_var.clone()) for norm in net.modules() if isinstance(norm, nn.BatchNorm2d)]


def test_every_instance_norm_became_a_batch_norm_and_nothing_else_changed():
    for architecture in (ConvNet, ResNet18):
        net, plain = batch_normed(architecture)(1, 8, 5), architecture(1, 8, 5)
        assert not any(isinstance(module, nn.GroupNorm) for module in net.modules())
        norms = sum(isinstance(module, nn.GroupNorm) for module in plain.modules())
        assert sum(isinstance(module, BatchNorm) for module in net.modules()) == norms > 0
        assert layout(net) == layout(plain)


def test_in_training_an_image_is_normalised_by_its_batch_and_no_trace_is_left():
    net = initialise(network(), generator(1))
    before, (x, _) = statistics(net), images()
    first = net(x)[:4]
    assert not torch.allclose(first, net(x[:4]))
    mapped = net[0](x)
    wanted = (mapped - mapped.mean((0, 2, 3), keepdim=True)) / (mapped.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(net[1](mapped), wanted)
    assert all(torch.equal(a, b) for now, then in zip(statistics(net), before, strict=True) for a, b in zip(now, then, strict=True))


def test_networks_trained_and_settled_as_one_are_those_alone():
    """Parameters, statistics and logits; the shared module keeps nothing from one network for the next."""
    net, (x, _) = network(), images()
    as_one, alone = trained(net, (0, 1, 2)), torch.cat([trained(network(), (seed,)) for seed in (0, 1, 2)])
    assert torch.allclose(as_one, alone, rtol=0, atol=1e-9)
    for seed in (2, 0, 1):
        found = settle(set_parameters(net, as_one[seed]), x).eval()(x)
        wanted = settle(set_parameters(network(), alone[seed]), x).eval()(x)
        assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-8)


def test_the_statistics_are_those_of_the_images_layer_by_layer():
    """The slow route: each layer's input by hand, mean and unbiased variance; whatever they were before."""
    net, (x, _) = initialise(network(), generator(1)), images()
    net[1].running_mean.fill_(7)
    assert not settle(net.eval(), x).training
    for layer in net.train():
        if isinstance(layer, BatchNorm):
            assert torch.allclose(layer.running_mean, x.mean((0, 2, 3)))
            assert torch.allclose(layer.running_var, x.var((0, 2, 3)))
        x = layer(x)


def test_the_statistics_in_batches_weigh_every_image_the_same():
    """Twelve images at most five at a time are three batches of four: the first layer's means are those of all twelve."""
    net, (x, _) = initialise(network(), generator(1)), images(12)
    settle(net, x, batch=5)
    assert torch.allclose(net[1].running_mean, net[0](x).mean((0, 2, 3)))


def test_accuracy_does_not_depend_on_what_else_is_in_the_batch():
    """In any order, in batches of any size; as it would if a batch's own statistics were used."""
    net = network()
    settle(set_parameters(net, trained(net, (0,))[0]), images()[0])
    x, y = images(200)
    order = x.mean((1, 2, 3)).argsort()
    wanted = accuracy(net, x, y)
    assert {accuracy(net, x[order], y[order], batch) for batch in (200, 50, 7, 1)} == {wanted}
    hits = torch.cat([net(chunk).argmax(1) == label for chunk, label in zip(x[order].split(7), y[order].split(7), strict=True)])
    assert int(hits.sum()) / 200 != wanted


def test_a_network_without_batch_norm_is_left_alone():
    net = ConvNet(1, 8, 5, width=4, depth=1)
    assert settle(net, None) is net
