"""How sure the model was of a point, from its digits."""

import pytest

from molmo2_ros.answers.confidence import WrittenToken, point_confidence
from molmo2_ros.answers.text import parse_answer

TEXT = '<points coords="0.0 1 250 500">mug</points>'
POINT = parse_answer(TEXT).points[0]


def one_token_per_character(probabilities):
    """Tokens of TEXT with probability 1 except at the given positions."""
    return [
        WrittenToken(start=at, end=at + 1, probability=probabilities.get(at, 1.0))
        for at in range(len(TEXT))
    ]


def test_confidence_is_that_of_the_weaker_first_digit():
    x, y = TEXT.index("250"), TEXT.index("500")
    assert point_confidence(POINT, one_token_per_character({x: 0.9, y: 0.4})) == 0.4
    assert point_confidence(POINT, one_token_per_character({x: 0.3, y: 0.4})) == 0.3


def test_later_digits_and_other_tokens_do_not_count():
    x, y = TEXT.index("250"), TEXT.index("500")
    tokens = one_token_per_character({x + 1: 0.1, x + 2: 0.1, y + 2: 0.1, x - 1: 0.1, 3: 0.1})
    assert point_confidence(POINT, tokens) == 1.0


def test_a_token_that_writes_a_whole_number_counts_whole():
    x, y = TEXT.index("250"), TEXT.index("500")
    tokens = [
        WrittenToken(start=x, end=x + 3, probability=0.7),
        WrittenToken(start=y - 1, end=y + 3, probability=0.6),
    ]
    assert point_confidence(POINT, tokens) == pytest.approx(0.6)


def test_confidence_is_unknown_without_tokens():
    assert point_confidence(POINT, []) is None
