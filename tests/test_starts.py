import pytest
import torch

from mtt import starts
from mtt.seeds import generator

LABELS = torch.arange(40) % 4
GOOD = torch.arange(40) < 20  # the first expert is right on five images of each class


def masks(asked):
    for mask in (GOOD, torch.ones(40, dtype=torch.bool)):
        asked.append(mask)
        yield mask


def test_images_are_those_that_the_first_expert_is_right_on_and_it_alone_is_asked_where_it_suffices():
    asked = []
    found, lacking = starts.rightly(masks(asked), LABELS, 4, 5, generator(0))
    assert lacking == 0
    assert sorted(found.tolist()) == list(range(20))
    assert LABELS[found].tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert len(asked) == 1


def test_the_next_expert_gives_what_the_first_lacks_and_no_image_twice():
    found = starts.rightly(masks([]), LABELS, 4, 7, generator(0))[0].view(4, 7)
    assert all(set(own[:5].tolist()) <= set(range(20)) and set(own[5:].tolist()) <= set(range(20, 40)) for own in found)
    assert len(set(found.flatten().tolist())) == 28


def test_the_order_is_random():
    found = [starts.rightly(masks([]), LABELS, 4, 2, generator(seed))[0].tolist() for seed in range(8)]
    assert len(set(map(tuple, found))) > 4


def test_where_experts_are_right_on_too_few_others_of_the_class_follow_and_are_counted():
    found, lacking = starts.rightly([GOOD], LABELS, 4, 6, generator(0))
    assert LABELS[found].tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    assert lacking == 4
    assert set(range(20)) <= set(found.tolist())
    with pytest.raises(ValueError, match="found a class of fewer than 11 images; wanted as many, to start from"):
        starts.rightly([GOOD], LABELS, 4, 11, generator(0))


def test_a_start_epoch_is_whole_or_real_and_in_its_range():
    draws = generator("epoch")
    whole, real = [[starts.epoch(2, 5, between, draws) for _ in range(100)] for between in (False, True)]
    assert set(whole) == {2, 3, 4}
    assert all(2 <= epoch < 5 for epoch in real)
    assert len(set(real)) == 100


def test_every_expert_is_visited_before_any_twice():
    found = [starts.visited(number, 5, 0) for number in range(10)]
    assert sorted(found[:5]) == sorted(found[5:]) == list(range(5))
    assert len({tuple(starts.visited(5 * walk + number, 5, 0) for number in range(5)) for walk in range(20)}) > 10


def test_the_range_of_start_epochs_grows_evenly_from_the_first_to_the_last_and_stays():
    found = [starts.end(iteration, 10, 20, 100) for iteration in (0, 9, 10, 50, 99, 100, 5000)]
    assert found == [10, 10, 11, 15, 19, 20, 20]
    assert starts.end(0, 8, 8, 1) == 8
