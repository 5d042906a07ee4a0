"""ZCA whitening: in place of mean and deviation of each channel, a linear map that takes from images what neighbouring pixels share.

    x      (n, D)    pixels in [0, 1], an image a row;  mu (D,) their mean;  U diag(v) U' their covariance, by 1 / (n - 1)
    W      (D, D)    U diag((v + EPS)^-1/2) U'
    z      (n, D)    (x - mu) W, and back: x = z W^-1 + mu

W is fitted by kornia, which a machine that only trains can do without; the inverse is derived from W and stored nowhere.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch

EPS = 0.1  # as published
LARGEST = 64  # pixels, the side of an image: there W has 604 MB; at 128 it would have 10 GB


@dataclass(eq=False)
class Whitening:
    """A fitted map."""

    mean: torch.Tensor  # mu (D,) float32
    matrix: torch.Tensor  # W (D, D) float32

    def forward(self, pixels):
        """z of pixels (n, C, H, W) in [0, 1], in the same shape."""
        self.mean, self.matrix = self.mean.to(pixels.device), self.matrix.to(pixels.device)  # and stay there: other batches follow
        return ((pixels.flatten(1) - self.mean) @ self.matrix).view_as(pixels)

    def back(self, z):
        """The pixels (n, C, H, W) of z, unclipped; computed in float64. Raises ValueError where W has no inverse."""
        x = z.flatten(1).double() @ self.inverse.to(z.device) + self.mean.to(z.device)
        return x.view_as(z).to(z.dtype)

    @cached_property
    def inverse(self):
        """W^-1 (D, D) float64, on the CPU."""
        inverse, fault = torch.linalg.inv_ex(self.matrix.cpu().double())
        if fault:
            raise ValueError("the whitening of a set: found a matrix without inverse; wanted one that can be undone")
        return inverse

    @cached_property
    def digest(self):
        """The sha256 of both tensors' bytes: what sets of one space share."""
        found = hashlib.sha256()
        for tensor in (self.mean, self.matrix):
            found.update(tensor.cpu().contiguous().numpy())
        return found.hexdigest()


def fit(pixels):
    """The Whitening of training images (n, C, H, W) in [0, 1]. Raises ValueError for images that are too large, and without kornia."""
    if max(pixels.shape[2:]) > LARGEST:
        found = f"images of {pixels.shape[2]}x{pixels.shape[3]} pixels"
        raise ValueError(f"prepare.zca: found {found}; wanted at most {LARGEST}x{LARGEST}: their covariance would take gigabytes")
    try:
        from kornia.enhance import ZCAWhitening
    except ImportError as error:
        raise ValueError(f"prepare.zca: found no kornia ({error}); wanted that of requirements.txt") from None
    fitted = ZCAWhitening(eps=EPS).fit(pixels)
    return Whitening(fitted.mean_vector.flatten().float(), fitted.transform_matrix.float())
