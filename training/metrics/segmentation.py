"""J&F of masks: how much of the region is shared, and how much of the outline.

Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation", 2016; outlines count as equal within 0.8 % of the picture's diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.training.metrics.pointing import Mask

OUTLINE_SHARE = 0.008  # of the diagonal


def region_similarity(predicted: Mask, true: Mask) -> float:
    """J: intersection over union of two masks, bool [H, W]; 1.0 where both are empty."""
    union = np.logical_or(predicted, true).sum()
    return float(np.logical_and(predicted, true).sum() / union) if union else 1.0


def outline(mask: Mask) -> Mask:
    """Pixels that differ from their right, lower or lower right neighbour, bool [H, W]."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, lower, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    found: npt.NDArray[np.bool_] = (mask != right) | (mask != lower) | (mask != diagonal)
    return found


def outline_accuracy(predicted: Mask, true: Mask) -> float:
    """F: harmonic mean of the shares of each outline that lie near the other."""
    reach = math.ceil(OUTLINE_SHARE * math.hypot(*true.shape))
    ours, theirs = outline(predicted), outline(true)
    if not ours.any() or not theirs.any():
        return float(not ours.any() and not theirs.any())
    precision = float((ours & _grown(theirs, reach)).sum() / ours.sum())
    recall = float((theirs & _grown(ours, reach)).sum() / theirs.sum())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def j_and_f(predicted: Sequence[Mask], true: Sequence[Mask]) -> float:
    """Mean of J and F over the frames of one object."""
    pairs = list(zip(predicted, true, strict=True))
    return float(np.mean([(region_similarity(*p) + outline_accuracy(*p)) / 2 for p in pairs]))


def _grown(mask: Mask, reach: int) -> Mask:
    offset = np.arange(-reach, reach + 1)
    disk = (offset[:, None] ** 2 + offset**2 <= reach**2).astype(np.uint8)
    return cv2.dilate(mask.astype(np.uint8), disk) > 0
