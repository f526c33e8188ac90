"""The colours by which a thing is known again, in hand-worked cases."""

import numpy as np
import pytest

from molmo2_ros.tracking.looks import own_colour, unlikeness

RED, GREY, BLUE = (180.0, 20.0, 20.0), (100.0, 100.0, 100.0), (20.0, 20.0, 200.0)


def sight(colour, covered=0, by=BLUE):
    """Samples of one colour, the last `covered` of 25 those of something before it."""
    samples = np.tile(np.array(colour, np.float32), (25, 1))
    if covered:
        samples[-covered:] = by
    return samples


def test_the_own_colour_is_the_median_of_all_sights_and_unknown_without_any():
    assert own_colour({1: sight(RED), 2: sight(GREY), 3: sight(RED)}).tolist() == list(RED)
    assert np.isnan(own_colour({})).all()


def test_what_is_half_covered_is_still_like_itself():
    colours = np.array([RED, GREY])
    unlike = unlikeness(colours, [{1: sight(RED, covered=15)}, {1: sight(GREY)}])
    assert unlike.shape == (2, 2)
    assert unlike[0, 0] == pytest.approx(0.0)
    assert unlike[1, 1] == pytest.approx(0.0)
    assert unlike[0, 1] > 50


def test_one_wrong_sight_of_three_does_not_decide():
    looks = [{1: sight(RED), 2: sight(BLUE), 3: sight(RED)}]
    assert unlikeness(np.array([RED, BLUE]), looks)[0, 0] == pytest.approx(0.0)
    assert unlikeness(np.array([RED, BLUE]), looks)[1, 0] > 100


def test_where_nothing_was_seen_nothing_is_known():
    assert np.isnan(unlikeness(np.array([RED]), [{}])).all()
    assert np.isnan(unlikeness(np.array([(np.nan,) * 3]), [{1: sight(RED)}])).all()
    assert unlikeness(np.zeros((0, 3)), [{1: sight(RED)}]).shape == (0, 1)
