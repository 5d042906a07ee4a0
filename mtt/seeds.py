"""Random numbers without global state: a generator is made from what it is for, so nothing need be checkpointed."""

import hashlib

import torch


def generator(*names):
    """A CPU torch.Generator determined by `names` (numbers and words), such as ("expert", seed, index, epoch)."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
