"""How sure the model was of a point, in answers whose tokens have hand-picked probabilities."""

import pytest

from molmo2_ros.answers.confidence import WrittenToken, point_confidences
from molmo2_ros.answers.text import parse_answer

TEXT = '<points coords="0.0 1 250 500 2 340 110">mugs</points>'
POINTS = parse_answer(TEXT).points
X1, Y1, ID2, X2, Y2 = (TEXT.index(part) for part in ("250", "500", "2 340", "340", "110"))


def confidences(probabilities):
    """One token per character, with probability 1 except at the given places."""
    tokens = [
        WrittenToken(start=at, end=at + 1, probability=probabilities.get(at, 1.0))
        for at in range(len(TEXT))
    ]
    return point_confidences(POINTS, tokens)


def test_the_first_digits_count_by_their_geometric_mean():
    assert confidences({X1: 0.9, Y1: 0.4}) == pytest.approx([0.6, 1.0])


def test_a_point_is_as_sure_as_the_weakest_token_that_leads_to_it():
    # Whether there is anything at all was said with 0.8, that there is a second one with 0.5.
    assert confidences({0: 0.8, ID2: 0.5}) == pytest.approx([0.8, 0.5])
    assert confidences({0: 0.8, 5: 0.7, X1: 0.25}) == pytest.approx([0.35, 1.0])


def test_later_digits_and_what_follows_do_not_count():
    later = {at + step: 0.1 for at in (X1, Y1, X2, Y2) for step in (1, 2)}
    assert confidences({**later, Y2 + 4: 0.1}) == pytest.approx([1.0, 1.0])


def test_a_token_that_writes_a_whole_number_counts_whole():
    tokens = [
        WrittenToken(start=0, end=X1, probability=1.0),
        WrittenToken(start=X1, end=X1 + 3, probability=0.9),
        WrittenToken(start=Y1 - 1, end=Y1 + 3, probability=0.4),
    ]
    first, second = point_confidences(POINTS, tokens)
    assert first == pytest.approx(0.6)
    assert second is None


def test_confidence_is_unknown_without_tokens():
    assert point_confidences(POINTS, []) == [None, None]
