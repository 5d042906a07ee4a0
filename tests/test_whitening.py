import sys

import pytest
import torch

from mtt import whitening
from mtt.seeds import generator
from mtt.whitening import Whitening


def photographs(n=300, dtype=torch.float64):
    """Random images (n, 3, 4, 5) in [0, 1] whose neighbouring pixels are alike."""
    rough = torch.randn(n, 3, 4, 5, generator=generator("photographs"), dtype=torch.float64).cumsum(2).cumsum(3)
    return rough.sigmoid().to(dtype)


def exactly(found):
    """A Whitening in float64."""
    return Whitening(found.mean.double(), found.matrix.double())


def covariance(images):
    return torch.cov(images.flatten(1).T)


def test_whitened_training_images_have_mean_0_and_the_covariance_u_v_over_v_plus_a_tenth_u():
    """Written out from the eigenvalues v and eigenvectors U of the pixels' own covariance."""
    x = photographs()
    z = exactly(whitening.fit(x)).forward(x)
    v, u = torch.linalg.eigh(covariance(x))
    assert torch.allclose(covariance(z), u @ torch.diag(v / (v + 0.1)) @ u.T, atol=1e-6)
    assert z.mean(0).abs().max() < 1e-6
    assert z.shape == x.shape
    assert v.max() > 1 > 0.01 > v.min(), "some directions are above 0.1 and some below, else nothing was tested"


def test_the_forward_map_is_kornias_own():
    from kornia.enhance import ZCAWhitening

    x, others = photographs(), photographs(500)[300:]
    wanted = ZCAWhitening(eps=0.1).fit(x)(others)
    assert torch.allclose(exactly(whitening.fit(x)).forward(others), wanted, atol=1e-5)


def test_the_inverse_is_that_of_the_eigenvalues_and_leads_back():
    """U diag((v + .1)^1/2) U'; in float32 a round trip loses less than a thousandth of a grey level, for what is beyond [0, 1] too."""
    x = photographs()
    found = whitening.fit(x)
    v, u = torch.linalg.eigh(covariance(x))
    assert torch.allclose(found.inverse, u @ torch.diag((v + 0.1).sqrt()) @ u.T, atol=1e-5)
    pixels = 3 * photographs(dtype=torch.float32) - 1
    back = found.back(found.forward(pixels))
    assert back.dtype == torch.float32
    assert (back - pixels).abs().max() < 1e-3 / 255
    assert pixels.min() < 0
    assert pixels.max() > 1


def test_fitted_in_float32_it_is_nearly_the_same():
    """As stage prepare fits it, in half the memory."""
    found, wanted = whitening.fit(photographs(dtype=torch.float32)), whitening.fit(photographs())
    assert (found.matrix - wanted.matrix).abs().max() < 1e-4


def test_it_is_a_map_of_each_image_for_itself():
    found, x = whitening.fit(photographs()), photographs(dtype=torch.float32)
    assert torch.allclose(found.forward(x)[7:9], found.forward(x[7:9]), atol=1e-6)


def test_images_above_64_pixels_are_refused_before_any_work():
    with pytest.raises(ValueError, match=r"prepare.zca: found images of 128x128 pixels; wanted at most 64x64: .* gigabytes"):
        whitening.fit(torch.zeros(1, 3, 128, 128))


def test_without_kornia_only_fitting_fails_in_one_line(monkeypatch):
    found = whitening.fit(photographs())
    for name in [name for name in sys.modules if name.split(".")[0] == "kornia"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ValueError, match=r"prepare.zca: found no kornia \(.*\); wanted that of requirements.txt"):
        whitening.fit(photographs())
    assert found.back(found.forward(photographs(dtype=torch.float32))).isfinite().all()


def test_the_digest_tells_one_map_from_another():
    mean, matrix = torch.zeros(3), torch.eye(3)
    one, same = Whitening(mean, matrix), Whitening(mean.clone(), matrix.clone())
    others = [Whitening(mean + torch.tensor([0, 0, 1e-7]), matrix), Whitening(mean, matrix * (1 + 1e-6))]
    assert one.digest == same.digest
    assert len({one.digest, *(other.digest for other in others)}) == 3


def test_a_map_that_cannot_be_undone_is_refused_when_it_is_to_be():
    with pytest.raises(ValueError, match="found a matrix without inverse"):
        Whitening(torch.zeros(4), torch.ones(4, 4)).back(torch.zeros(2, 1, 2, 2))
