"""How sure the model was of a point: from the probabilities of the digits that place it.

A point's confidence is the MINIMUM over the tokens that write the first digit of its x and of its
y. That digit says in which tenth of the frame the point lies; where it is unsure, the model wavers
between objects. The later digits only say where on the object it lies: their neighbours share
probability however sure the model is of the object, and with them in it the figure tells right from
wrong no better than chance (docs/journal.md). The product would call a point less sure merely
because a tokenizer spends two tokens on it rather than one. A point near the border between two
tenths is called less sure than it is.
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
    """The least probability among the tokens that write a point's first digits.

    Args:
        point: with the spans of its digits in the text.
        tokens: in the order written; spans refer to the same text.

    Returns:
        0..1, or None if no token covers the digits.
    """
    places = [(start, start + 1) for start, _ in (point.x_span, point.y_span)]
    found = [
        token.probability
        for token in tokens
        if any(token.start < end and token.end > start for start, end in places)
    ]
    return min(found) if found else None
