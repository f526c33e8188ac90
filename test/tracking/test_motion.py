"""One motion from many features, worked by hand."""

import numpy as np
import pytest

from molmo2_ros.tracking.motion import fit_similarity, largest_group, nearness

RADIUS_PX = 20.0


def fit(point, start, end, *, found=None, agreed=None):
    """Fit one point's features, all of equal weight."""
    start_NK2 = np.array([start], np.float32)
    everything = np.ones(start_NK2.shape[:2], bool)
    turn_N, place_N2, agreed_NK = fit_similarity(
        np.array([point], float),
        start_NK2,
        np.array([end], np.float32),
        everything if found is None else np.array([found]),
        everything if agreed is None else np.array([agreed]),
        np.ones(start_NK2.shape[:2]),
    )
    return turn_N[0], place_N2[0], agreed_NK[0]


def test_features_on_one_side_turn_the_point_about_them():
    # A quarter of a radian about (110, 100), which lies beside the point.
    start = np.array([(110, 100), (118, 100), (110, 108), (118, 108)], float)
    angle = 0.25
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    end = (start - (110, 100)) @ turn.T + (110, 100)
    turned, place, agreed = fit((90, 100), start, end)
    assert turned == pytest.approx(np.exp(0.25j), abs=1e-5)
    assert place == pytest.approx(np.array([-20, 0]) @ turn.T + (110, 100), abs=1e-3)
    assert agreed.all()


def test_growing_features_push_the_point_outwards():
    start = np.array([(100, 100), (110, 100), (100, 110), (110, 110)], float)
    turned, place, _ = fit((95, 100), start, 1.2 * (start - 100) + 100)
    assert turned == pytest.approx(1.2, abs=1e-5)
    assert place == pytest.approx((94, 100), abs=1e-3)


def test_a_stray_feature_is_left_out_and_a_forgotten_one_taken_in():
    start = np.array([(90, 90), (110, 90), (90, 110), (110, 110), (100, 95), (100, 105)], float)
    end = start + (7, -3)
    end[5] += (9, 9)
    agreed = [True, True, True, True, False, False]
    _, place, fitting = fit((100, 100), start, end, agreed=agreed)
    assert place == pytest.approx((107, 97), abs=1e-3)
    assert fitting.tolist() == [True, True, True, True, True, False]


def test_few_or_crowded_features_say_nothing_about_rotation():
    # Two features that spread by a pixel would mean a growth of a tenth.
    turned, place, _ = fit((100, 100), [(95, 100), (105, 100)], [(97.5, 100), (108.5, 100)])
    assert turned == 1
    assert place == pytest.approx((103, 100))
    crowded = np.array([(100, 100), (101, 100), (100, 101), (101, 101)], float)
    turned, _, _ = fit((100, 100), crowded, 1.2 * (crowded - 100) + 100)
    assert turned == 1


def test_a_point_without_features_stays():
    nothing = [False] * 4
    start = np.zeros((4, 2))
    turned, place, agreed = fit((100, 100), start, start + 5, found=nothing, agreed=nothing)
    assert turned == 1
    assert place == pytest.approx((100, 100))
    assert not agreed.any()


def test_the_group_near_the_point_wins_over_a_larger_one_at_the_rim():
    features_NK2 = np.array(
        [[(100, 101), (101, 100), (99, 100), *[(118, 100 + i) for i in range(5)]]]
    )
    weight_NK = nearness(features_NK2, np.array([[100.0, 100.0]]), RADIUS_PX)
    motion_NK2 = np.array([[(5.0, 0)] * 3 + [(0.0, 0)] * 5], np.float32)
    group = largest_group(motion_NK2, np.ones((1, 8), bool), weight_NK)
    assert group[0].tolist() == [True] * 3 + [False] * 5


def test_features_that_were_not_found_belong_to_no_group():
    found = np.array([[True, True, False, True]])
    group = largest_group(np.zeros((1, 4, 2), np.float32), found, np.ones((1, 4)))
    assert group[0].tolist() == found[0].tolist()
