import torch

from mtt.seeds import generator


def numbers(*names):
    return torch.randint(1 << 30, (4,), generator=generator(*names)).tolist()


def test_the_same_names_give_the_same_numbers_in_every_process():
    """Numbers written down once: another process, another day, another hash seed."""
    assert numbers("expert", 0, 7) == numbers("expert", 0, 7) == [103832760, 305743747, 378926352, 784203892]


def test_other_names_give_other_numbers():
    """Also where they would read alike when joined, and whatever their order."""
    names = [("a", 1), ("a", 2), ("b", 1), (1, "a"), ("a", "1"), ("a1",), ("a", 1, 0), ("a",), ()]
    assert len({tuple(numbers(*each)) for each in names}) == len(names)


def test_each_generator_is_its_own():
    first = generator("a")
    torch.rand(100, generator=first)
    assert torch.equal(torch.rand(3, generator=generator("a")), torch.rand(3, generator=generator("a")))
    assert not torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=generator("a")))


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    torch.rand(100, generator=generator("a"))
    assert torch.equal(torch.get_rng_state(), before)
