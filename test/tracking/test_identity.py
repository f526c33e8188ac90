"""Which answered point is which carried target, in hand-worked cases."""

import numpy as np
import pytest

from molmo2_ros.tracking.identity import NEAR_NS, assign, distances


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
    assert assign(distance_CA, 80.0) == []


def test_two_that_cross_are_told_apart_by_where_they_were():
    left_to_right = {0: (0.0, 0.0), 1: (50.0, 0.0), 2: (100.0, 0.0)}
    right_to_left = {0: (100.0, 0.0), 1: (50.0, 0.0), 2: (0.0, 0.0)}
    pairs = assign(distances([left_to_right, right_to_left], [right_to_left, left_to_right]), 200.0)
    assert pairs == [(0, 1), (1, 0)]


def test_pairs_beyond_the_gate_do_not_pull_near_ones_apart():
    # The least plain sum would be 60 + 60; the pair at distance 1 is right and 200 is too far.
    distance_CA = np.array([[1.0, 60.0], [60.0, 200.0]])
    assert assign(distance_CA, 50.0) == [(0, 0)]


def test_each_target_may_have_its_own_gate():
    distance_CA = np.array([[60.0, np.inf], [np.inf, 60.0]])
    assert assign(distance_CA, np.array([50.0, 70.0])) == [(1, 1)]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
def test_nothing_to_pair_gives_no_pairs(shape):
    assert assign(np.zeros(shape), 10.0) == []
