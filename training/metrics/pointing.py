"""Points against points with masks: one assignment by distance for an image or a whole clip.

Letters: P predicted points, G true ones.

Source: Molmo2's evaluators of image pointing and of Molmo2-VP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from molmo2_ros.training.metrics.points import instance_at

Mask = npt.NDArray[np.bool_]
STAMP_TOLERANCE_S = 0.051  # stamps are written with one decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class PointScore:
    """Hits among predicted and true points."""

    hits: int
    num_predicted: int
    num_true: int

    @property
    def precision(self) -> float:
        """Share of the predicted points that hit; 1.0 where both are none, else 0.0 for none."""
        return _share(self.hits, self.num_predicted, self.num_true)

    @property
    def recall(self) -> float:
        """Share of the true points that were hit; 1.0 where both are none, else 0.0 for none."""
        return _share(self.hits, self.num_true, self.num_predicted)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1.0 where there is neither point nor truth."""
        total = self.num_predicted + self.num_true
        return 2 * self.hits / total if total else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedTruth:
    """One object of a clip.

    Args:
        time_s: of its point.
        x: 0..1 of the width.
        y: 0..1 of the height.
        masks: bool [H, W] by stamp: the half seconds in a window of 3 s in which it has one.
    """

    time_s: float
    x: float
    y: float
    masks: Mapping[float, Mask]


def _share(hits: int, whole: int, other: int) -> float:
    return hits / whole if whole else float(other == 0)


def in_mask(mask: Mask, x: float, y: float) -> bool:
    """Whether a point lies on an object.

    Args:
        mask: bool [H, W].
        x: 0..1 of the width.
        y: 0..1 of the height.
    """
    return bool(instance_at(mask, x, y))


def nearest_pairs(
    predicted: npt.NDArray[np.float64], true: npt.NDArray[np.float64]
) -> list[tuple[int, int]]:
    """The one-to-one pairs (predicted, true) with the least sum of distances.

    Args:
        predicted: [P, any] coordinates, in one unit.
        true: [G, the same].
    """
    if not len(predicted) or not len(true):
        return []
    rows, columns = linear_sum_assignment(cdist(predicted, true))
    return [(int(p), int(g)) for p, g in zip(rows, columns, strict=True)]


def image_pointing(
    predicted: Sequence[tuple[float, float]],
    true: Sequence[tuple[float, float]],
    masks: Sequence[Mask],
) -> PointScore:
    """One assignment of the whole image by pixel distance; a pair counts inside the true mask.

    Args:
        predicted: x, y in 0..1.
        true: x, y in 0..1, one an object.
        masks: bool [H, W] of the objects, in the order of `true`.
    """
    size = np.array(masks[0].shape[::-1] if masks else (1, 1), float)
    pairs = nearest_pairs(np.reshape(predicted, (-1, 2)) * size, np.reshape(true, (-1, 2)) * size)
    hits = sum(in_mask(masks[g], *predicted[p]) for p, g in pairs)
    return PointScore(hits=hits, num_predicted=len(predicted), num_true=len(true))


def video_pointing(
    predicted: Sequence[tuple[float, float, float]],
    true: Sequence[TimedTruth],
    duration_s: float,
) -> PointScore:
    """One assignment of the whole clip on time, x and y, each scaled to 0..100 (Molmo2-VP).

    Args:
        predicted: seconds from the clip's first frame, x and y in 0..1.
        true: the objects.
        duration_s: of the clip, above 0.
    """
    scale = np.array([100 / duration_s, 100.0, 100.0])
    true_G3 = np.reshape([(t.time_s, t.x, t.y) for t in true], (-1, 3)) * scale
    pairs = nearest_pairs(np.reshape(predicted, (-1, 3)) * scale, true_G3)
    hits = sum(_hits(predicted[p], true[g]) for p, g in pairs)
    return PointScore(hits=hits, num_predicted=len(predicted), num_true=len(true))


def _hits(point: tuple[float, float, float], truth: TimedTruth) -> bool:
    time_s, x, y = point
    stamp_s = min(truth.masks, key=lambda stamp: abs(stamp - time_s), default=None)
    if stamp_s is None or abs(stamp_s - time_s) > STAMP_TOLERANCE_S:
        return False
    return in_mask(truth.masks[stamp_s], x, y)
