import re

import pytest
from conftest import ROOT

from benchmarks import estimate

CIFAR10, TINY_IMAGENET, IMAGENET = estimate.CASES


def test_the_table_of_the_results_is_what_the_formulas_say():
    found = re.search("<!-- estimate -->\n(.*?)<!-- /estimate -->", (ROOT / "RESULTS.md").read_text(), re.S)[1]
    assert found == estimate.markdown()


def test_the_parameters_are_those_of_the_literature():
    """ConvNet-D3 and D4 as published; ResNet18 for a thousand classes has 11.7 million."""
    assert [case.parameters for case in estimate.CASES[:2]] == [320_010, 857_160]
    assert IMAGENET.parameters == pytest.approx(11.7e6, rel=0.01)


def test_the_bytes_of_cifar_10_are_those_of_the_published_buffer():
    """6.55 GB; ours counts the numbers alone."""
    assert estimate.EXPERTS * CIFAR10.file(51, 4) == pytest.approx(6.55e9, rel=0.005)


@pytest.mark.parametrize(("bytes", "push", "pull"), [(3000, 112, 111), (52_428_801, 112, 311), (120_000_000, 512, 411)])
def test_a_large_file_travels_in_parts_of_fifty_mebibytes(bytes, push, pull):
    """A hundred and an index: 11 and 10 requests besides; of a file in three parts a push starts and ends, a pull asks first."""
    assert (estimate.push(bytes), estimate.pull(bytes)) == (push, pull)


def test_training_is_counted_by_hand():
    """ConvNet-D3 on 3x32x32: three convolutions 3x3 on maps of 32, 16 and 8, and the linear layer."""
    forward = 2 * (27 * 128 * 32**2 + 9 * 128 * 128 * (16**2 + 8**2) + 128 * 4 * 4 * 10)
    assert CIFAR10.training(51) == 100 * 50 * 50_000 * 3 * forward
    assert CIFAR10.matching() == 5000 * 50 * 10 * 12 * forward


@pytest.mark.parametrize(
    ("hours", "says"), [(0.0007, "2.52 s"), (0.3, "18 min"), (1, "1 h"), (71.9, "71.9 h"), (72, "3 days"), (297_600, "12,400 days")]
)
def test_a_duration_is_said_in_its_unit(hours, says):
    assert estimate.duration(hours) == says


@pytest.mark.parametrize(("bytes", "says"), [(256e6, "0.256 GB"), (22.4e6, "22.4 MB"), (1.5e12, "1,500 GB")])
def test_bytes_are_said_in_their_unit(bytes, says):
    assert estimate.size_of(bytes) == says
