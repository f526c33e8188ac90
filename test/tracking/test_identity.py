"""Which answered point is which carried target, in hand-worked cases."""

import numpy as np
import pytest

from molmo2_ros.tracking.identity import NEAR_NS, OTHER_COLOUR, assign, distances, unlikeness


def test_distance_is_the_mean_over_the_answered_stamps():
    carried = [{1: (0.0, 0.0), 2: (10.0, 0.0), 3: (20.0, 0.0)}]
    # 5 px apart at stamp 2, 3 px at stamp 3.
    answered = [{2: (10.0, 5.0), 3: (20.0, 3.0)}]
    assert distances(carried, answered)[0, 0] == pytest.approx(4.0)


def test_a_stamp_that_was_not_carried_is_held_against_the_nearest():
    carried = [{NEAR_NS: (0.0, 0.0), 2 * NEAR_NS: (9.0, 0.0)}]
    assert distances(carried, [{0: (0.0, 2.0)}])[0, 0] == pytest.approx(2.0)
    assert distances(carried, [{2 * NEAR_NS + 1: (9.0, 3.0)}])[0, 0] == pytest.approx(3.0)


def test_paths_far_apart_in_time_cannot_be_paired():
    distance_CA = distances([{1: (0.0, 0.0)}], [{2 + NEAR_NS: (0.0, 0.0)}])
    assert np.isinf(distance_CA).all()
    assert assign(distance_CA / 80.0) == []


def test_two_that_cross_are_told_apart_by_where_they_were():
    left_to_right = {0: (0.0, 0.0), 1: (50.0, 0.0), 2: (100.0, 0.0)}
    right_to_left = {0: (100.0, 0.0), 1: (50.0, 0.0), 2: (0.0, 0.0)}
    distance_CA = distances([left_to_right, right_to_left], [right_to_left, left_to_right])
    assert assign(distance_CA / 200.0) == [(0, 1), (1, 0)]


def test_pairs_beyond_the_gate_do_not_pull_good_ones_apart():
    # The least plain sum would be 1.2 + 1.2; the pair at cost 0.1 is right and 4 is too much.
    assert assign(np.array([[0.1, 1.2], [1.2, 4.0]])) == [(0, 0)]


def test_unlikeness_is_the_largest_difference_of_a_channel_and_0_where_unknown():
    red, grey, unknown = (180.0, 20.0, 20.0), (100.0, 100.0, 100.0), (np.nan,) * 3
    unlike_CA = unlikeness(np.array([red, unknown]), np.array([red, grey]))
    assert unlike_CA == pytest.approx(np.array([[0, 80 / OTHER_COLOUR], [0, 0]]))
    assert unlikeness(np.zeros((0, 3)), np.array([red])).shape == (0, 1)


def test_costs_decide_between_two_and_a_cost_of_one_is_refused():
    distance_CA = np.array([[0.25, 0.3], [0.3, 0.25]])
    unlike_CA = np.array([[0.6, 0.0], [0.0, 0.6]])
    assert assign(distance_CA) == [(0, 0), (1, 1)]
    assert assign(distance_CA + unlike_CA) == [(0, 1), (1, 0)]
    assert assign(np.array([[1.0]])) == []


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
def test_nothing_to_pair_gives_no_pairs(shape):
    assert assign(np.zeros(shape)) == []
