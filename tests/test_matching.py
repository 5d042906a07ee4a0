"""Gradient matching and distribution matching: what is compared, and its derivative by the images."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mtt import distribution_matching, dsa, gradient_matching
from mtt.convnet import ConvNet
from mtt.seeds import generator
from mtt.training import initialise
from stages.baseline import before_last, siamese

FAMILIES = list(dsa.FAMILIES)


def images(n, *names):
    return torch.randn(n, 2, 8, 8, generator=generator("images", *names), dtype=torch.float64)


def network():
    return initialise(ConvNet(2, 8, 3, width=4, depth=2), generator("network")).double()


def plainly(x):
    """No augmentation."""
    return x


def slow_distance(net, label, real, x):
    """Tensor by tensor, row by row."""
    found, labels = 0, torch.tensor([label])
    losses = [F.cross_entropy(net(own), labels.expand(len(own))) for own in (real, x)]
    a, b = [torch.autograd.grad(loss, list(net.parameters()), create_graph=True) for loss in losses]
    for own, other in zip(a, b, strict=True):
        if own.ndim > 1:
            for r in range(len(own)):
                lengths = own[r].square().sum().sqrt() * other[r].square().sum().sqrt()
                found = found + 1 - (own[r] * other[r]).sum() / (lengths + 1e-6)
    return found


def test_the_distance_of_gradients_is_the_written_out_sum_over_rows_and_its_slope_that_of_autograd():
    net, real, x = network(), images(5, "real"), images(2, "x")
    value, slope = gradient_matching.match(net, 1, real, x, plainly)
    x.requires_grad_()
    wanted = slow_distance(net, 1, real, x)
    assert float(value) == pytest.approx(wanted.item(), abs=1e-12)
    assert torch.allclose(slope, torch.autograd.grad(wanted, x)[0], rtol=0, atol=1e-12)
    assert float(slope.norm()) > 1e-3


def methods(net):
    yield lambda real, x, augment: gradient_matching.match(net, 2, real, x, augment)
    yield lambda real, x, augment: distribution_matching.match(before_last(net), real, x, augment)


@pytest.mark.parametrize("family", FAMILIES)
def test_slopes_equal_finite_differences_through_every_augmentation(family):
    """Along random directions, in float64; the images themselves stay as they were."""
    for match in methods(network()):
        real, x, along = images(5, "real"), images(2, "x"), images(2, "along")
        before, augment = x.clone(), siamese([family], generator(family))
        _, slope = match(real, x, augment)
        ahead, behind = [match(real, x + step * along, augment)[0] for step in (1e-6, -1e-6)]
        assert float((slope * along).sum()) == pytest.approx(float((ahead - behind) / 2e-6), rel=1e-5)
        assert torch.equal(x, before)


def test_images_equal_to_the_real_ones_match_them():
    """Distance and slope are 0; of gradients to the 1e-6 that keeps a row of zeros finite."""
    net, real = network(), images(6, "real")
    gradients, means = methods(net)
    value, slope = means(real, real.flip(0), siamese(FAMILIES, generator(0)))
    assert float(value) == pytest.approx(0, abs=1e-24)
    assert float(slope.abs().max()) < 1e-12
    value, slope = gradients(real, real.flip(0), siamese(FAMILIES, generator(0)))
    assert 0 < float(value) < 1e-3
    other, steeper = gradients(real, images(6, "x"), plainly)
    assert float(other) > 1e3 * float(value)
    assert float(steeper.norm()) > 100 * float(slope.norm())


def test_distributions_are_compared_by_what_comes_before_the_linear_layer():
    net, real, x = network(), images(5, "real"), images(3, "x")
    maps = [real, x]
    for layer in list(net)[:-2]:  # the last two flatten and are linear
        maps = [layer(own) for own in maps]
    a, b = [sum(own) / len(own) for own in maps]
    assert isinstance(net[-1], nn.Linear)
    assert a.ndim == 3
    found = distribution_matching.match(before_last(net), real, x, plainly)[0]
    assert found.item() == pytest.approx((a - b).square().sum().item(), rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_siamese_augmentation_gives_every_image_of_both_batches_the_numbers_of_one(family):
    """One image among others comes out as it does alone; and a draw of its own for each image, as in training, does not do that."""
    x = images(1, "x")
    augment = siamese([family], generator(family))
    batch = augment(torch.cat([images(3, "others"), x]))
    assert torch.equal(augment(x.expand(4, -1, -1, -1))[3:], augment(x))
    assert torch.allclose(batch[3:], augment(x), rtol=0, atol=1e-14)
    usual = dsa.augment(x.expand(16, -1, -1, -1), [family], generator(family))
    assert not torch.allclose(usual, usual[:1].expand_as(usual))


def test_without_families_the_siamese_augmentation_changes_nothing():
    x = images(3, "x")
    assert torch.equal(siamese([], generator(0))(x), x)
