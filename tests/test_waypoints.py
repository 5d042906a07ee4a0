import pytest
import torch

from mtt import waypoints
from mtt.seeds import generator

SIZES = [3, 1, 8]


def path(snapshots=13):
    """A walk in three tensors, each at a pace of its own."""
    return torch.randn(snapshots, sum(SIZES), generator=generator("way")).cumsum(0)


def test_of_51_snapshots_four_way_points_are_those_of_the_paper():
    assert waypoints.marks(51, 4) == [0, 17, 34, 50]
    assert waypoints.marks(5, 5) == [0, 1, 2, 3, 4]
    assert waypoints.marks(9, 2) == [0, 8]


def test_way_points_at_full_number_give_back_the_trajectory():
    """Bit for bit."""
    theta, marks = path(), waypoints.marks(13, 13)
    points, progress = waypoints.straighten(theta, SIZES, marks)
    for epoch in range(13):
        assert torch.equal(waypoints.at(points, progress, marks, SIZES, epoch), theta[epoch])


def test_a_straight_trajectory_is_given_back_from_two_way_points():
    """Whatever the pace, which is each tensor's own; also between snapshots."""
    pace = torch.rand(9, 3, generator=generator("pace")).cumsum(0)
    start, way = torch.randn(2, sum(SIZES), generator=generator("line"))
    widths = torch.tensor(SIZES)
    theta = start + way * pace.repeat_interleave(widths, 1)
    points, progress = waypoints.straighten(theta, SIZES, [0, 8])
    for epoch in range(9):
        assert torch.allclose(waypoints.at(points, progress, [0, 8], SIZES, epoch), theta[epoch], atol=1e-5)
    assert torch.allclose(waypoints.at(points, progress, [0, 8], SIZES, 3.25), theta[3].lerp(theta[4], 0.25), atol=1e-5)


def test_progress_is_by_the_lengths_of_each_tensors_own_steps():
    theta, marks = path(), [0, 4, 12]
    _, progress = waypoints.straighten(theta, SIZES, marks)
    part = theta[:, 4:]
    lengths = [float((part[epoch + 1] - part[epoch]).norm()) for epoch in range(12)]
    assert float(progress[2, 2]) == pytest.approx(sum(lengths[:2]) / sum(lengths[:4]), rel=1e-5)
    assert float(progress[7, 2]) == pytest.approx(1 + sum(lengths[4:7]) / sum(lengths[4:]), rel=1e-5)
    assert progress[4].tolist() == [1, 1, 1]
    assert (progress.diff(dim=0) > 0).all()


def test_an_inner_way_point_is_the_mean_of_its_neighbours_and_the_ends_are_as_they_were():
    theta = path()
    points, _ = waypoints.straighten(theta, SIZES, [0, 4, 12])
    assert torch.equal(points[0], theta[0])
    assert torch.allclose(points[1], (theta[3] + theta[5]) / 2)
    assert torch.equal(points[2], theta[12])


def test_a_tensor_that_does_not_move_stays():
    theta = path()
    theta[:, 3] = 7
    points, progress = waypoints.straighten(theta, SIZES, [0, 12])
    assert float(waypoints.at(points, progress, [0, 12], SIZES, 5.5)[3]) == 7
    assert progress.isfinite().all()


def test_the_way_is_continuous_across_way_points():
    theta, marks = path(), [0, 4, 12]
    points, progress = waypoints.straighten(theta, SIZES, marks)
    before, there, after = (waypoints.at(points, progress, marks, SIZES, epoch) for epoch in (4 - 1e-6, 4, 4 + 1e-6))
    assert torch.allclose(before, there, atol=1e-4)
    assert torch.allclose(after, there, atol=1e-4)
