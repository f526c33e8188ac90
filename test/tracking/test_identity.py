"""Which answered object is which known target, in hand-worked cases."""

import math

import numpy as np
import pytest

from molmo2_ros.tracking.identity import (
    COLOUR_RANGE,
    COLOUR_SPREAD,
    FORGET_RATE,
    NEAR_NS,
    OTHER_LOOKS,
    REMEMBER_S,
    RIGHTLY_CARRIED,
    assign,
    distances,
    looks_odds,
    place_odds,
)

INF = math.inf


def test_distance_is_the_median_over_the_answered_stamps():
    carried = [{1: (0.0, 0.0), 2: (10.0, 0.0), 3: (20.0, 0.0), 4: (30.0, 0.0)}]
    # 5 px apart at stamp 2, 3 px at stamp 3; at stamp 4 it has jumped on to a neighbour.
    answered = [{2: (10.0, 5.0), 3: (20.0, 3.0), 4: (30.0, 80.0)}, {3: (20.0, 4.0)}]
    assert distances(carried, answered) == pytest.approx(np.array([[5.0, 4.0]]))


def test_a_stamp_that_was_not_carried_is_held_against_the_nearest():
    carried = [{NEAR_NS: (0.0, 0.0), 2 * NEAR_NS: (9.0, 0.0)}]
    assert distances(carried, [{0: (0.0, 2.0)}])[0, 0] == pytest.approx(2.0)
    assert distances(carried, [{2 * NEAR_NS + 1: (9.0, 3.0)}])[0, 0] == pytest.approx(3.0)
    # Paths are not always written in the order of time.
    turned = [{2 * NEAR_NS: (9.0, 0.0), NEAR_NS: (0.0, 0.0)}]
    assert distances(turned, [{NEAR_NS + 1: (0.0, 2.0)}])[0, 0] == pytest.approx(2.0)


def test_paths_far_apart_in_time_have_no_distance():
    carried, answered = [{1: (0.0, 0.0)}, {}], [{2 + NEAR_NS: (0.0, 0.0)}]
    assert np.isinf(distances(carried, answered)).all()
    assert distances(carried, []).shape == (2, 0)


def test_two_that_cross_are_told_apart_by_where_they_were():
    left_to_right = {0: (0.0, 0.0), 1: (50.0, 0.0), 2: (100.0, 0.0)}
    right_to_left = {0: (100.0, 0.0), 1: (50.0, 0.0), 2: (0.0, 0.0)}
    distance_CA = distances([left_to_right, right_to_left], [right_to_left, left_to_right])
    assert assign(50.0 - distance_CA) == [(0, 1), (1, 0)]


def odds_of_place(carried_px, sought_px, away_s):
    (odds,) = place_odds(
        *(np.array([[value]]) for value in (carried_px, sought_px, away_s)), width=640, height=480
    )[0]
    return odds


def test_where_a_target_was_carried_its_place_there_says_most():
    # A circle of 24 px (3 % of the diagonal) is 1 / 170 of the picture.
    there = math.log(640 * 480 / (math.pi * 24**2))
    assert odds_of_place(0.0, INF, 0.5) == pytest.approx(math.log(RIGHTLY_CARRIED) + there)
    assert odds_of_place(24.0, INF, 0.5) == pytest.approx(
        math.log(RIGHTLY_CARRIED) + there - 2 * math.log(2)
    )
    assert odds_of_place(80.0, INF, 0.5) == pytest.approx(0.05, abs=0.05)  # about even
    assert odds_of_place(300.0, INF, 0.5) < -4


def test_a_carried_target_may_have_gone_along_with_what_passed_before_it():
    # It stands 300 px off, and the answer points to where the last one had seen it.
    assert odds_of_place(300.0, 0.0, 0.0) == pytest.approx(
        math.log((1 - RIGHTLY_CARRIED) * 640 * 480 / (math.pi * 24**2)), abs=0.01
    )


def test_what_is_out_of_sight_is_sought_in_a_circle_that_grows_to_the_whole_picture():
    assert odds_of_place(INF, 0.0, 0.0) > odds_of_place(INF, 0.0, 0.5) > 1
    assert odds_of_place(INF, 200.0, 0.5) > odds_of_place(INF, 200.0, 0.0)
    assert odds_of_place(INF, 0.0, 10.0) == pytest.approx(-10 * FORGET_RATE)
    assert odds_of_place(INF, 0.0, REMEMBER_S + 0.1) == -INF


def test_of_two_that_fit_the_one_lost_last_is_it():
    odds_CA = place_odds(
        np.full((2, 1), INF), np.zeros((2, 1)), np.array([[9.0], [4.0]]), width=640, height=480
    )
    assert assign(odds_CA + 5.0) == [(1, 0)]


def test_equal_colours_are_strong_evidence_and_others_are_weak_against_it():
    own = 4 / (math.pi**2 * COLOUR_SPREAD**3)
    odds = looks_odds(np.array([[0.0, COLOUR_SPREAD, 500.0, np.nan]]))
    chance = own * COLOUR_RANGE**3
    assert odds[0, 0] == pytest.approx(math.log((1 - OTHER_LOOKS) * chance + OTHER_LOOKS))
    assert odds[0, 1] == pytest.approx(math.log((1 - OTHER_LOOKS) * chance / 8 + OTHER_LOOKS))
    # A thing shows another side, or is half covered: the place may still speak for it.
    assert odds[0, 2] == pytest.approx(math.log(OTHER_LOOKS), abs=0.01)
    assert odds[0, 3] == 0


def test_where_all_look_alike_the_looks_say_little():
    alone = looks_odds(np.array([[2.0]]))[0, 0]
    among_alike = looks_odds(np.full((8, 1), 2.0))[0, 0]
    among_others = looks_odds(np.array([[2.0], *[[90.0]] * 7]))[0, 0]
    assert alone > 8
    assert among_others > 8
    assert 0 < among_alike < 1


def test_no_targets_and_no_objects_have_no_odds():
    for shape in ((0, 2), (2, 0), (0, 0)):
        assert looks_odds(np.zeros(shape)).shape == shape
        empty = [np.zeros(shape)] * 3
        assert place_odds(*empty, width=640, height=480).shape == shape


def test_bad_pairs_do_not_pull_good_ones_apart():
    # The greatest plain sum would be -0.2 - 0.2; the pair at 0.9 is right and the other too bad.
    assert assign(np.array([[0.9, -0.2], [-0.2, -3.0]])) == [(0, 0)]


def test_odds_decide_between_two_and_even_odds_are_a_new_thing():
    place_CA = np.array([[0.5, 0.0], [0.0, 0.5]])
    looks_CA = np.array([[0.2, 2.0], [2.0, 0.2]])
    assert assign(place_CA) == [(0, 0), (1, 1)]
    assert assign(place_CA + looks_CA) == [(0, 1), (1, 0)]
    assert assign(np.array([[0.0]])) == []
    assert assign(np.array([[-np.inf]])) == []


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
def test_nothing_to_pair_gives_no_pairs(shape):
    assert assign(np.zeros(shape)) == []
