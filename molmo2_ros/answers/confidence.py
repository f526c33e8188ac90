"""How sure the model was of a point: from the probabilities of the digits that place it.

A point's confidence is the MINIMUM over the tokens that write the hundreds and tens of its x and y.
The product would call a point less sure merely because a tokenizer spends six tokens on it rather
than two, and would mix in digits that do not matter; the weakest digit decides whether the point
stands on the object. The last digit is left out: it moves the point by less than a hundredth of the
frame, and neighbouring values share its probability however sure the model is of the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from molmo2_ros.answers.text import ParsedPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenToken:
    """One generated token: the characters that it added to the text and its probability."""

    start: int
    end: int
    probability: float  # 0..1


def point_confidence(point: ParsedPoint, tokens: Sequence[WrittenToken]) -> float | None:
    """The least probability among the tokens that place a point.

    Args:
        point: with the spans of its digits in the text.
        tokens: in the order written; spans refer to the same text.

    Returns:
        0..1, or None if no token covers the digits.
    """
    places = [(start, end - 1) for start, end in (point.x_span, point.y_span)]
    found = [
        token.probability
        for token in tokens
        if any(token.start < end and token.end > start for start, end in places)
    ]
    return min(found) if found else None
