"""How sure the model was of a point: from the probabilities of the tokens that decide about it.

A point's score is the product of three things that the model may doubt:

- that there is anything at all: the answer's first token;
- that there is another one, there and then: the least probable of the tokens that lead to the
  point, from the end of the point before to its id;
- where it is: the geometric mean over the first two digits of x and y, the hundredth of the frame,
  each with the probability of the token that wrote it.

Of the figures tried it tells right points from wrong ones best (docs/journal.md). It is a rank,
well below the share of points that are right: neighbouring hundredths share probability however
sure the model is of the object. An engine whose manifest holds a calibration (fitted on held-out
scenes by `python -m molmo2_ros.training.calibrate`) turns it into the probability that the point
lies on what was asked for.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from molmo2_ros.answers.text import ParsedPoint
from molmo2_ros.runtime.manifest import CalibrationFacts

NUM_DIGITS = 2  # of each coordinate that decide; a third one is label noise


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenToken:
    """One generated token: the characters that it added to the text and its probability."""

    start: int
    end: int
    probability: float  # 0..1


def point_scores(
    points: Sequence[ParsedPoint], tokens: Sequence[WrittenToken]
) -> list[float | None]:
    """The raw score of each point.

    Args:
        points: of one answer, all of them, in the order written.
        tokens: in the order written, from the answer's first; spans refer to the same text.

    Returns:
        0..1 each, or None where no token covers a deciding digit.
    """
    starts = [token.start for token in tokens]
    scores = []
    before = 0
    for point in points:
        places = [at + step for at, _ in (point.x_span, point.y_span) for step in range(NUM_DIGITS)]
        found = (_index_at(place, tokens, starts) for place in places)
        digits = [index for index in found if index is not None]
        score = None
        if len(digits) == len(places):
            # The first token has a say of its own, in every point of the answer.
            leading = tokens[max(1, bisect_left(starts, before)) : digits[0]]
            least = min((token.probability for token in leading), default=1.0)
            where = math.prod([tokens[index].probability for index in digits])
            score = tokens[0].probability * least * float(where ** (1 / len(digits)))
        scores.append(score)
        before = point.y_span[1]
    return scores


def confidence(
    score: float | None, calibration: CalibrationFacts | None, *, is_track: bool
) -> float | None:
    """The probability that a point is right, or its raw score where no curve was fitted.

    Args:
        score: from `point_scores`.
        calibration: the engine's.
        is_track: the point stands in a <tracks> tag, whose curve is another one.
    """
    if score is None or calibration is None:
        return score
    curve = calibration.tracks if is_track else calibration.points
    return float(np.interp(score, curve.scores, curve.probabilities))


def _index_at(place: int, tokens: Sequence[WrittenToken], starts: Sequence[int]) -> int | None:
    """The token that wrote the character at `place`; None if none did."""
    index = bisect_right(starts, place) - 1
    return index if index >= 0 and place < tokens[index].end else None
