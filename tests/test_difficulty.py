import torch
import torch.nn.functional as F

from mtt import difficulty
from mtt.seeds import generator

LABELS = torch.arange(400) % 4
ERRORS = torch.rand(400, generator=generator("errors"))


def test_the_error_is_the_distance_of_the_probabilities_from_the_class():
    """None for a sure and right answer, the square root of 2 for a sure and wrong one."""
    labels = torch.tensor([0, 1, 2])
    found = difficulty.el2n(torch.tensor([[50.0, 0, 0], [50.0, 0, 0], [0.0, 0, 0]]), labels)
    assert torch.allclose(found, torch.tensor([0.0, 2**0.5, (2 / 9 + 4 / 9) ** 0.5]))
    logits = torch.randn(3, 3, generator=generator("logits"))
    assert torch.allclose(difficulty.el2n(logits, labels), (F.softmax(logits, 1) - torch.eye(3)).square().sum(1).sqrt())


def test_ranks_are_within_each_class_the_easiest_first():
    ranks = difficulty.ranked(ERRORS, LABELS)
    for label in range(4):
        own = label == LABELS
        assert torch.equal(ranks[own].argsort(), ERRORS[own].argsort())
        assert sorted(ranks[own].tolist()) == [float(torch.tensor((place + 0.5) / 100)) for place in range(100)]


def test_a_class_of_few_images_loses_no_more_than_its_share():
    """A tenth and a fifth of one to four are less than half an image; of five a fifth is one; at first each class has some."""
    for count, late, later in [(1, 1, 1), (2, 2, 2), (4, 4, 3), (5, 5, 4), (100, 90, 80)]:
        ranks = difficulty.ranked(torch.rand(count, generator=generator("few")), torch.zeros(count))
        assert len(difficulty.among(ranks, 0, 20)) >= max(1, count // 2)
        assert [len(difficulty.among(ranks, epoch, 20)) for epoch in (40, 41, 61)] == [count, late, later]


def test_epochs_see_the_easiest_first_then_all_then_not_the_easiest():
    """As published: .75 + .25 e/20 up to epoch 20, all up to 40, without a tenth up to 60, then without a fifth; of every class alike."""
    ranks = difficulty.ranked(ERRORS, LABELS)
    for epoch, low, high in [
        (0, 0, 75),
        (10, 0, 87),
        (20, 0, 100),
        (40, 0, 100),
        (41, 10, 100),
        (60, 10, 100),
        (61, 20, 100),
        (99, 20, 100),
    ]:
        found = difficulty.among(ranks, epoch, 20)
        for label in range(4):
            own = ERRORS[label == LABELS].sort().values[low:high]
            seen = ERRORS[found[LABELS[found] == label]].sort().values
            assert abs(len(own) - len(seen)) <= 1
            assert torch.equal(seen[:70], own[:70])
