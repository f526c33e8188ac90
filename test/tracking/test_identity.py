"""Which answered point is which carried target, in hand-worked cases."""

import math

import numpy as np
import pytest

from molmo2_ros.tracking.identity import (
    NEAR_NS,
    REMEMBER_S,
    assign,
    distances,
    looks_odds,
    place_odds,
)

VGA = {"width": 640, "height": 480}
NOWHERE = np.full((1, 1), np.inf)


def test_distance_is_the_median_over_the_answered_stamps():
    carried = [{1: (0.0, 0.0), 2: (10.0, 0.0), 3: (20.0, 0.0)}]
    # 5 px apart at stamp 1, 3 px at stamp 2; at stamp 3 the carried point sits on a neighbour.
    answered = [{1: (0.0, 5.0), 2: (10.0, 3.0), 3: (20.0, 200.0)}]
    assert distances(carried, answered)[0, 0] == pytest.approx(5.0)


def test_a_stamp_that_was_not_carried_is_held_against_the_nearest():
    carried = [{NEAR_NS: (0.0, 0.0), 2 * NEAR_NS: (9.0, 0.0)}]
    assert distances(carried, [{0: (0.0, 2.0)}])[0, 0] == pytest.approx(2.0)
    assert distances(carried, [{2 * NEAR_NS + 1: (9.0, 3.0)}])[0, 0] == pytest.approx(3.0)


def test_paths_far_apart_in_time_have_no_distance():
    assert np.isinf(distances([{1: (0.0, 0.0)}], [{2 + NEAR_NS: (0.0, 0.0)}])).all()
    assert np.isinf(distances([{}], [{0: (0.0, 0.0)}])).all()


def test_two_that_cross_are_told_apart_by_where_they_were():
    left_to_right = {0: (0.0, 0.0), 1: (150.0, 0.0), 2: (300.0, 0.0)}
    right_to_left = {0: (300.0, 0.0), 1: (150.0, 0.0), 2: (0.0, 0.0)}
    distance_CA = distances([left_to_right, right_to_left], [right_to_left, left_to_right])
    assert assign(place_odds(distance_CA, distance_CA, np.zeros((2, 2)), **VGA)) == [(0, 1), (1, 0)]


def test_odds_of_a_place_fall_with_the_distance_to_where_the_target_was_carried():
    near, far = (
        place_odds(np.full((1, 1), px), np.full((1, 1), px), np.zeros((1, 1)), **VGA)[0, 0]
        for px in (10.0, 300.0)
    )
    assert near > 0 > far


def test_a_lost_target_is_looked_for_in_a_circle_that_grows_until_it_is_forgotten():
    def odds(away_px, away_s):
        sought_CA, away_CA = np.full((1, 1), away_px), np.full((1, 1), away_s)
        return place_odds(NOWHERE, sought_CA, away_CA, **VGA)[0, 0]

    assert odds(200.0, 0.1) < odds(200.0, 0.7)  # so far it may have gone since, but not at once
    assert odds(20.0, 0.1) > odds(20.0, 0.7) > 0  # here it is expected, ever less surely
    assert odds(0.0, REMEMBER_S + 1) == -math.inf


def test_of_two_that_fit_the_one_lost_last_is_it():
    lost_C1 = np.array([[20.0], [5.0]])  # seconds ago, both where the object is now
    odds_CA = place_odds(np.full((2, 1), np.inf), np.zeros((2, 1)), lost_C1, **VGA)
    assert odds_CA[1, 0] > odds_CA[0, 0]


def test_looks_speak_for_the_target_of_their_colour_and_against_another():
    # Two targets, two objects, each 2 grey levels from its own colour and 90 from the other's.
    odds_CA = looks_odds(np.array([[2.0, 90.0], [90.0, 2.0]]))
    assert odds_CA[0, 0] > 3
    assert odds_CA[0, 1] < -2
    assert np.allclose(odds_CA, odds_CA.T)


def test_looks_say_little_where_all_look_alike_and_nothing_where_they_are_unknown():
    alone = looks_odds(np.array([[2.0]]))[0, 0]
    alike = looks_odds(np.full((4, 1), 2.0))
    assert (alike < alone).all()
    assert np.allclose(alike, alike[0, 0])  # none is preferred
    assert looks_odds(np.array([[np.nan]])).tolist() == [[0.0]]


def test_pairs_that_are_bad_guesses_do_not_pull_good_ones_apart():
    # The greatest plain sum would be -0.2 - 0.2; the pair at 0.9 is right and -3 is a bad guess.
    assert assign(np.array([[0.9, -0.2], [-0.2, -3.0]])) == [(0, 0)]


def test_odds_decide_between_two_and_even_odds_make_no_pair():
    place_CA = np.array([[2.0, 1.8], [1.8, 2.0]])
    looks_CA = np.array([[-1.0, 1.0], [1.0, -1.0]])
    assert assign(place_CA) == [(0, 0), (1, 1)]
    assert assign(place_CA + looks_CA) == [(0, 1), (1, 0)]
    assert assign(np.array([[0.0]])) == []


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
def test_nothing_to_pair_gives_no_pairs(shape):
    assert assign(np.zeros(shape)) == []
