"""How sure the model was of a point: from the probabilities of the tokens that decide about it.

A point's confidence is the least probability of the tokens that lead to it ("is there another one,
and when": everything from the end of the point before to its id), times the geometric mean of the
probabilities of the first digits of x and y ("in which tenth of the frame"). Of the figures tried
it tells right points from wrong ones best (docs/journal.md). The later digits tell nothing: their
neighbours share probability however sure the model is of the object. It is a rank rather than a
probability: points near the border between two tenths come out too low, so that a calibration
would be a rising curve over it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from molmo2_ros.answers.text import ParsedPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenToken:
    """One generated token: the characters that it added to the text and its probability."""

    start: int
    end: int
    probability: float  # 0..1


def point_confidences(
    points: Sequence[ParsedPoint], tokens: Sequence[WrittenToken]
) -> list[float | None]:
    """The confidence of each point.

    Args:
        points: of one answer, all of them, in the order written.
        tokens: in the order written; spans refer to the same text.

    Returns:
        0..1 each, or None where no token covers a point's first digits.
    """
    confidences = []
    before = 0
    for point in points:
        confidences.append(_confidence(point, before, tokens))
        before = point.y_span[1]
    return confidences


def _confidence(point: ParsedPoint, before: int, tokens: Sequence[WrittenToken]) -> float | None:
    x_at, y_at = point.x_span[0], point.y_span[0]
    digits = [
        token.probability
        for at in (x_at, y_at)
        for token in tokens
        if token.start <= at < token.end
    ]
    if len(digits) < 2:
        return None
    leading = [token.probability for token in tokens if token.start >= before and token.end <= x_at]
    return min(leading, default=1.0) * math.sqrt(digits[0] * digits[1])
