import pytest
import torch

from mtt import coresets
from mtt.seeds import generator


def features(n, dtype=torch.float32):
    return torch.randn(n, 5, generator=generator("features", n), dtype=dtype).abs()


@pytest.mark.parametrize("count", [1, 4, 12])
def test_herding_picks_what_brute_force_picks(count):
    """At every step the one, of all that are left, by which the sum of picks is closest to as many means."""
    f, picked = features(12), []
    for k in range(count):
        left = [j for j in range(len(f)) if j not in picked]
        error = {j: float(((k + 1) * f.double().mean(0) - f[[*picked, j]].double().sum(0)).norm()) for j in left}
        picked.append(min(error, key=error.get))
    assert coresets.herding(f, count).tolist() == picked


def test_the_mean_of_herded_images_is_closer_to_that_of_the_class_than_of_random_ones():
    f = features(200)
    herded = (f[coresets.herding(f, 10)].mean(0) - f.mean(0)).norm()
    random = [(f[torch.randperm(200, generator=generator(seed))[:10]].mean(0) - f.mean(0)).norm() for seed in range(20)]
    assert herded < min(random) / 2


@pytest.mark.parametrize("count", [1, 4, 12])
def test_k_center_picks_always_the_one_farthest_from_its_nearest_pick(count):
    f = features(12)
    picked = coresets.k_center(f, count, first=3).tolist()
    assert picked[0] == 3
    for k in range(1, count):
        radius = {j: min(float((f[j].double() - f[i].double()).norm()) for i in picked[:k]) for j in range(len(f)) if j not in picked[:k]}
        assert radius[picked[k]] == max(radius.values())


@pytest.mark.parametrize("choose", [coresets.herding, lambda f, count: coresets.k_center(f, count, 0)])
def test_no_image_is_picked_twice_not_even_of_copies(choose):
    """As many as there are: all of them."""
    for f in (features(9), torch.ones(9, 5)):
        assert sorted(choose(f, 9).tolist()) == list(range(9))
