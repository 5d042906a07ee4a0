from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mtt import dsa, training
from mtt.convnet import ConvNet
from mtt.functional import as_function, set_parameters, together, value_and_gradient
from mtt.imageset import ImageSet
from mtt.seeds import generator
from mtt.trajectory import vector
from stages.evaluate import ARCHITECTURES


def plainly(images, generator):
    """No augmentation."""
    return images


def toy(n=40, dtype=torch.float64):
    """Images (n, 1, 4, 4) of two classes that a line separates."""
    labels = torch.arange(n) % 2
    images = torch.randn(n, 1, 4, 4, generator=generator("toy"), dtype=dtype)
    images[:, 0, 0] = images[:, 0, 0].abs() * (2 * labels - 1).view(-1, 1)
    return images, labels


def line(dtype=torch.float64):
    return training.initialise(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), generator("line")).to(dtype)


def learning(network, objective=F.cross_entropy):
    """The gradient of networks such as this one, and its own parameters as theta (1, P)."""
    return value_and_gradient(together(as_function(network, objective))), vector(network)[None]


def trained(network, images, labels, *, seed=0, epochs, learning_rate, tick=lambda loss: None, **settings):
    """The network after both halves of the protocol."""
    gradient, theta = learning(network)
    for number, rate in training.halves(epochs, learning_rate):
        training.fit(
            gradient, theta, images, labels, epochs=number, learning_rate=rate, **settings, augment=plainly, generators=[generator(seed)],
            tick=lambda loss: tick(theta[0].clone()),
        )  # fmt: skip
    return set_parameters(network, theta[0])


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "ViT"])
def test_the_initialisation_is_that_of_pytorch(name):
    """Bitwise what reset_parameters draws, convolution, linear layer and norm, with and without bias."""
    network = nn.Sequential(ARCHITECTURES[name](3, 8, 10), nn.Conv2d(5, 7, 3, bias=False), nn.Linear(11, 3, bias=False))
    found = vector(training.initialise(network, torch.Generator().manual_seed(3)))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    assert torch.equal(found, vector(network))


def test_the_initialisation_has_the_published_bound_and_spread():
    """Uniform on +-1/sqrt(fan-in), weights and biases."""
    network = training.initialise(nn.Sequential(nn.Conv2d(16, 64, 3), nn.Linear(100, 200)), generator(0))
    for module, fan_in in zip(network, (16 * 9, 100), strict=True):
        for parameter in (module.weight.detach(), module.bias.detach()):
            assert 0.9 * fan_in**-0.5 < float(parameter.abs().max()) <= fan_in**-0.5
            assert float(parameter.std()) == pytest.approx((3 * fan_in) ** -0.5, rel=0.15)


def test_the_initialisation_of_an_attention_and_of_what_is_no_layer_has_the_published_spread():
    """Xavier's bound for queries, keys and values, no bias; 0.5 for the embedding of places and the class token."""
    transformer = training.initialise(ARCHITECTURES["ViT"](1, 8, 10), generator(0))[1]
    attention = transformer.encoder.layers[0].self_attention
    assert 0.99 * (6 / 512) ** 0.5 < float(attention.in_proj_weight.detach().abs().max()) <= (6 / 512) ** 0.5
    assert not attention.in_proj_bias.any()
    for parameter in (transformer.encoder.pos_embedding, transformer.class_token):
        assert float(parameter.detach().std()) == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_initialisation_is_determined_by_its_generator_alone(name):
    """Not by the global one, and not by what the network was: every parameter is written, the norms' too."""
    network, before = ARCHITECTURES[name](1, 8, 4), torch.get_rng_state()
    first, again, other = [vector(training.initialise(network, generator(seed))) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    trained = set_parameters(network, torch.full_like(first, 7.0))
    assert torch.equal(vector(training.initialise(trained, generator(1))), first)
    assert not torch.equal(first, other)


def test_an_epoch_of_one_batch_is_one_step_of_sgd():
    (images, labels), network = toy(), line()
    weights = [parameter.detach().clone().requires_grad_() for parameter in network.parameters()]
    loss = F.cross_entropy(F.linear(images.flatten(1), *weights), labels)
    wanted = [weight - 0.3 * slope for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True)]
    losses, (gradient, theta) = [], learning(network)
    training.epoch(gradient, theta, torch.optim.SGD([theta], 0.3), images, labels, 99, plainly, [generator(0)], losses.append)
    assert torch.allclose(theta[0], torch.cat([weight.flatten() for weight in wanted]), rtol=0, atol=1e-14)
    assert losses == [pytest.approx(loss.item())]


def test_an_epoch_shows_every_image_once_in_an_order_of_its_generator():
    """In batches whose last may be shorter; each image with its own label; one tick a step."""
    images, seen = torch.arange(10.0).view(10, 1), []

    def watch(chunk, generator):
        seen.append(chunk.flatten().tolist())
        return F.one_hot(chunk.flatten().long(), 10).double() * 50  # the right logits, whatever the order

    network, losses = nn.Linear(10, 10, bias=False).double(), []
    nn.init.eye_(network.weight)
    gradient, theta = learning(network)
    for seed in (0, 0, 1):
        optimizer = torch.optim.SGD([theta], 0.0)
        training.epoch(gradient, theta, optimizer, images, torch.arange(10), 4, watch, [generator(seed)], losses.append)
    assert [len(chunk) for chunk in seen[:3]] == [4, 4, 2]
    orders = [sum(seen[k : k + 3], []) for k in (0, 3, 6)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] == orders[1] != orders[2]
    assert len(losses) == 9
    assert max(losses) < 1e-9


def test_networks_trained_as_one_are_those_trained_alone():
    """Each in its own order, with its own augmentation, momentum and decay; bitwise the same draws."""
    images, labels = torch.randn(22, 1, 8, 8, generator=generator("images"), dtype=torch.float64), torch.arange(22) % 5
    network = ConvNet(1, 8, 5, width=4, depth=2).double()
    starts = torch.stack([vector(training.initialise(network, generator("start", seed))) for seed in range(3)])
    gradient, augment = value_and_gradient(together(as_function(network))), partial(dsa.augment, families=list(dsa.FAMILIES))
    settings = {"epochs": 3, "batch": 8, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01, "augment": augment}
    as_one, alone = starts.clone(), [start[None].clone() for start in starts]
    training.fit(gradient, as_one, images, labels, **settings, generators=[generator(seed) for seed in range(3)])
    for seed, theta in enumerate(alone):
        training.fit(gradient, theta, images, labels, **settings, generators=[generator(seed)])
    assert torch.allclose(as_one, torch.cat(alone), rtol=0, atol=1e-12)
    assert float((as_one - starts).norm()) > 0.1


def test_training_on_pixels_is_training_on_the_whole_set_normalised_bit_for_bit():
    """The same theta, and the same accuracy; the last batch is shorter."""
    pixels, labels = torch.randint(256, (50, 3, 8, 8), generator=generator("pixels")).to(torch.uint8), torch.arange(50) % 5
    data = ImageSet(pixels, labels, "toy", list("abcde"), [0.4, 0.5, 0.45], [0.2, 0.25, 0.22])
    network, found = training.initialise(ConvNet(3, 8, 5, width=4, depth=2), generator("start")), []
    settings = {"epochs": 3, "batch": 16, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    for images in (data.normalised(), data.on("cpu")):
        gradient, theta = learning(network)
        augment = partial(dsa.augment, families=list(dsa.FAMILIES))
        training.fit(gradient, theta, images, labels, **settings, augment=augment, generators=[generator("draws")])
        found.append((theta, training.accuracy(set_parameters(network, theta[0]), images, labels, batch=7)))
        network = training.initialise(network, generator("start"))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("epochs", [6, 7])
def test_half_way_the_rate_drops_to_a_tenth_and_the_momentum_starts_from_rest(epochs):
    """Seen in the steps themselves: the rate is so low that the gradient stays the same; the first half is the shorter one."""
    (images, labels), network = toy(), line()
    path = [vector(network)]
    settings = {"epochs": epochs, "batch": 99, "learning_rate": 1e-6, "momentum": 0.9, "weight_decay": 0.0}
    trained(network, images, labels, **settings, tick=path.append)
    steps = torch.stack([(after - before).norm() for before, after in zip(path, path[1:], strict=False)])
    speed = [sum(0.9**k for k in range(step + 1)) for step in range(epochs)]
    wanted = torch.tensor(speed[: epochs // 2] + [v / 10 for v in speed[: epochs - epochs // 2]], dtype=torch.float64)
    assert torch.allclose(steps / steps[0], wanted, rtol=1e-4)


def test_weight_decay_pulls_the_parameters_to_zero():
    """Without a gradient (one class: its cross-entropy is 0) nothing else moves them."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).double()
    before = vector(network)
    images, labels = toy()
    trained(network, images, labels * 0, epochs=2, batch=99, learning_rate=0.5, momentum=0.0, weight_decay=0.1)
    assert torch.allclose(vector(network), before * (1 - 0.5 * 0.1) * (1 - 0.05 * 0.1), rtol=1e-12)


def test_a_few_epochs_fit_a_separable_set():
    """And the same generator gives the same network."""
    images, labels = toy(dtype=torch.float32)
    settings = {"epochs": 20, "batch": 16, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    first, again, other = [trained(line(torch.float32), images, labels, seed=seed, **settings) for seed in (1, 1, 2)]
    assert training.accuracy(line(torch.float32), images, labels) < 0.9
    assert training.accuracy(first, images, labels) == 1
    assert torch.equal(vector(first), vector(again))
    assert not torch.equal(vector(first), vector(other))


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 500])
def test_accuracy_counts_every_image_once(batch):
    """Ten images that are their own logits, seven of them right: also where the last batch is shorter."""
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    logits = F.one_hot(labels, 3).float()
    logits[torch.tensor([0, 4, 9])] = logits[torch.tensor([0, 4, 9])].roll(1, 1)
    assert training.accuracy(nn.Identity(), logits, labels, batch) == 0.7


def test_accuracy_is_of_the_network_at_rest_and_leaves_it_as_it_was():
    """A dropout shows it: all is kept when counting, nothing when training."""
    (images, labels), network = toy(), nn.Sequential(nn.Flatten(), nn.Dropout(1.0), nn.Linear(16, 2)).double()
    wanted = float((network[2](images.flatten(1)).argmax(1) == labels).double().mean())
    assert 0 < wanted < 1
    assert training.accuracy(network, images, labels) == wanted
    assert network[1].training
    assert training.accuracy(network.eval(), images, labels) == wanted
    assert not network[1].training


def test_each_image_of_a_step_is_used_several_times_with_its_label_and_augmented_anew():
    """As crops of canvases are: batches of 4 images, 3 samples each, for two networks that have orders of their own."""
    images, labels = torch.arange(8.0).view(8, 1, 1, 1), 10 * torch.arange(8)
    seen, theta = [], torch.zeros(2, 1)

    def gradient(theta, x, y):
        seen.append((x.view(2, 12), y))
        return torch.zeros(()), torch.zeros(2, 1)

    def noisy(images, generator):
        return images + 0.5 * torch.rand(images.shape, generator=generator)

    draws = [generator("samples", number) for number in range(2)]
    training.epoch(gradient, theta, torch.optim.SGD([theta], 1), images, labels, 4, noisy, draws, samples=3)
    assert len(seen) == 2
    for x, y in seen:
        assert torch.equal(10 * x.floor().long(), y)
        assert x.unique().numel() == 24
    for network in range(2):
        used = torch.cat([y[network] for _, y in seen]).bincount(minlength=80)[::10]
        assert used.tolist() == [3] * 8
