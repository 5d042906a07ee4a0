from math import exp

import pytest

from mtt import robustness


def test_a_gain_of_one_scores_one_and_a_loss_of_one_nothing():
    assert robustness.score(1) == pytest.approx(1, abs=1e-15)
    assert robustness.score(-1) == pytest.approx(0, abs=1e-15)
    assert robustness.score(0) == pytest.approx((1 - exp(-1)) / (exp(1) - exp(-1)))


def test_a_set_that_is_as_good_as_the_whole_one_where_random_images_teach_nothing_is_robust():
    """Gains of one in all: the best that there is; and of minus one the worst."""
    assert robustness.label_robust(robustness.hard_label_recovery(0, 1), robustness.improvement_over_random(1, 0)) == pytest.approx(1)
    assert robustness.label_robust(hlr=1, ior=-1) == pytest.approx(0)
    assert robustness.augmentation_robust(1, 1) == pytest.approx(1)


def test_the_scores_of_mtt_by_hand():
    """CIFAR-10 at 10 as published: 65.3 % distilled, 84.8 % whole, 26.0 % random; without augmentation 50 % and 24 % are made up."""
    hlr, ior = robustness.hard_label_recovery(0.848, 0.653), robustness.improvement_over_random(0.653, 0.26)
    assert (hlr, ior) == (pytest.approx(0.195), pytest.approx(0.393))
    assert robustness.label_robust(hlr, ior) == pytest.approx((exp(0.099) - exp(-1)) / (exp(1) - exp(-1)))  # (0.393 - 0.195) / 2
    assert robustness.label_robust(hlr, ior) == pytest.approx(0.31322, abs=1e-5)
    assert robustness.augmentation_robust(ior, 0.5 - 0.24) == pytest.approx((exp(0.3265) - exp(-1)) / (exp(1) - exp(-1)))


def test_each_score_grows_with_each_gain_and_falls_with_what_is_lost():
    steps = [k / 10 for k in range(-10, 11)]
    for series in (
        [robustness.label_robust(0.2, ior) for ior in steps],
        [robustness.label_robust(-hlr, 0.2) for hlr in steps],
        [robustness.augmentation_robust(gain, 0.2) for gain in steps],
        [robustness.augmentation_robust(0.2, gain) for gain in steps],
    ):
        assert all(low < high for low, high in zip(series, series[1:], strict=False))


def test_the_weight_goes_from_one_part_to_the_other():
    assert robustness.label_robust(0.7, 0.3, weight=1) == robustness.score(0.3)
    assert robustness.label_robust(0.7, 0.3, weight=0) == robustness.score(-0.7)
    assert robustness.augmentation_robust(0.7, 0.3, weight=1) == robustness.score(0.7)
    assert robustness.augmentation_robust(0.7, 0.3, weight=0) == robustness.score(0.3)
