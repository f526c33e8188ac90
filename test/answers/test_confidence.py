"""How sure the model was of a point, in answers whose tokens have hand-picked probabilities."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.answers.confidence import WrittenToken, confidence, point_scores
from molmo2_ros.answers.text import parse_answer
from molmo2_ros.runtime.manifest import CalibrationFacts, CurveFacts

TEXT = '<points coords="0.0 1 250 500 2 340 110">mugs</points>'
POINTS = parse_answer(TEXT).points
X1, Y1, ID2, X2, Y2 = (TEXT.index(part) for part in ("250", "500", "2 340", "340", "110"))


def scores(probabilities):
    """One token per character, with probability 1 except at the given places."""
    tokens = [
        WrittenToken(start=at, end=at + 1, probability=probabilities.get(at, 1.0))
        for at in range(len(TEXT))
    ]
    return point_scores(POINTS, tokens)


def test_the_first_two_digits_of_x_and_y_count_by_their_geometric_mean():
    assert scores({X1: 0.9, X1 + 1: 0.5, Y1: 0.4, Y1 + 1: 0.2}) == pytest.approx(
        [(0.9 * 0.5 * 0.4 * 0.2) ** 0.25, 1.0]
    )


def test_a_point_is_as_sure_as_the_weakest_token_that_leads_to_it():
    assert scores({5: 0.7, 6: 0.9, X1: 0.25**2}) == pytest.approx([0.35, 1.0])
    # That there is a second one was said with 0.5.
    assert scores({5: 0.7, ID2: 0.5}) == pytest.approx([0.7, 0.5])


def test_that_there_is_anything_counts_for_every_point():
    assert scores({0: 0.8, ID2: 0.5}) == pytest.approx([0.8, 0.4])


def test_third_digits_and_what_follows_do_not_count():
    later = {at + 2: 0.1 for at in (X1, Y1, X2, Y2)}
    assert scores({**later, Y2 + 4: 0.1}) == pytest.approx([1.0, 1.0])


def test_a_token_that_writes_a_whole_number_counts_once():
    tokens = [
        WrittenToken(start=0, end=X1, probability=1.0),
        WrittenToken(start=X1, end=X1 + 3, probability=0.9),
        WrittenToken(start=Y1 - 1, end=Y1 + 3, probability=0.4),
    ]
    first, second = point_scores(POINTS, tokens)
    assert first == pytest.approx(0.6)
    assert second is None
    assert point_scores(POINTS, tokens[:2]) == [None, None]  # y is not covered


def test_tokens_that_add_no_character_do_not_hide_a_digit():
    tokens = [
        WrittenToken(start=0, end=X1, probability=1.0),
        WrittenToken(start=X1, end=X1, probability=0.3),
        WrittenToken(start=X1, end=len(TEXT), probability=0.5),
        WrittenToken(start=len(TEXT), end=len(TEXT), probability=0.3),
    ]
    assert point_scores(POINTS, tokens)[1] == pytest.approx(0.5)


def test_score_is_unknown_without_tokens():
    assert point_scores(POINTS, []) == [None, None]


CALIBRATION = CalibrationFacts(
    points=CurveFacts(scores=(0.2, 0.6), probabilities=(0.5, 0.9), num_points=10),
    tracks=CurveFacts(scores=(0.1,), probabilities=(0.4,), num_points=3),
    stills=2,
    clips=1,
    seed=100,
)


@pytest.mark.parametrize(
    ("score", "probability"), [(0.0, 0.5), (0.2, 0.5), (0.3, 0.6), (0.6, 0.9), (1.0, 0.9)]
)
def test_the_curve_is_straight_between_knots_and_level_beyond_them(score, probability):
    assert confidence(score, CALIBRATION, is_track=False) == pytest.approx(probability)


def test_points_of_tracks_have_a_curve_of_their_own():
    assert confidence(0.6, CALIBRATION, is_track=True) == 0.4


def test_without_a_curve_the_score_itself_is_given_and_unknown_stays_unknown():
    assert confidence(0.37, None, is_track=False) == 0.37
    assert confidence(None, CALIBRATION, is_track=False) is None


SHARES = st.floats(0, 1)


@st.composite
def curves(draw):
    num_knots = draw(st.integers(1, 8))
    written = st.integers(0, 100_000).map(lambda number: number / 100_000)  # as in a manifest
    scores = draw(st.lists(written, min_size=num_knots, max_size=num_knots, unique=True))
    levels = draw(st.lists(written, min_size=num_knots, max_size=num_knots))
    return CurveFacts(
        scores=tuple(sorted(scores)), probabilities=tuple(sorted(levels)), num_points=9
    )


@given(curves(), curves(), st.lists(SHARES, min_size=2), st.booleans())
def test_confidences_rise_with_scores_and_stay_probabilities(points, tracks, some, is_track):
    calibration = CalibrationFacts(points=points, tracks=tracks, stills=1, clips=1, seed=100)
    given_scores = sorted(some)
    confidences = [confidence(score, calibration, is_track=is_track) for score in given_scores]
    rounding = 1e-12
    assert all(b >= a - rounding for a, b in pairwise(confidences))
    assert all(0 <= value <= 1 + rounding for value in confidences)
