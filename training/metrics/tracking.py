"""Tracks held against masks frame by frame: F1, and what the authors' evaluator makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from molmo2_ros.training.metrics.pointing import (
    Mask,
    PointScore,
    image_pointing,
    in_mask,
    nearest_pairs,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedFrame:
    """One frame of a clip.

    Args:
        predicted: x, y in 0..1 by the id that the answer gave.
        true: x, y in 0..1 by object, of those that are in view.
        masks: bool [H, W] by object, of the same.
    """

    predicted: Mapping[int, tuple[float, float]]
    true: Mapping[int, tuple[float, float]]
    masks: Mapping[int, Mask]


def frame_score(frame: TrackedFrame) -> PointScore:
    """Points assigned by pixel distance within one frame; a pair counts inside the mask."""
    return image_pointing(
        list(frame.predicted.values()),
        list(frame.true.values()),
        [frame.masks[key] for key in frame.true],
    )


def tracking_f1(frames: Sequence[TrackedFrame]) -> float:
    """Mean F1 over the frames that have a prediction or a truth; 1.0 when none has."""
    scores = [frame_score(f).f1 for f in frames if f.predicted or f.true]
    return float(np.mean(scores)) if scores else 1.0


def authors_recall(frames: Sequence[TrackedFrame], objects: Sequence[int]) -> float:
    """Recall as the authors' evaluator has it: wrong where an object of several is out of view.

    It divides by all objects of the clip, also those absent in a frame, and takes the masks in the
    order of all objects for points that are numbered by presence.

    Args:
        frames: of one clip.
        objects: all of the clip's, in the order of its annotation.

    Source: allenai/molmo2 `load_masks_at_frame`, `compute_recall`.
    """
    shares = [
        _authors_hits(frame, objects) / len(objects)
        for frame in frames
        if frame.predicted or frame.true
    ]
    return float(np.mean(shares)) if shares else 1.0


def _authors_hits(frame: TrackedFrame, objects: Sequence[int]) -> int:
    present = [key for key in objects if key in frame.true]
    if not present:
        return 0
    size = np.array(frame.masks[present[0]].shape[::-1], float)
    predicted = list(frame.predicted.values())
    true = np.array([frame.true[key] for key in present]) * size
    hits = 0
    for p, g in nearest_pairs(np.reshape(predicted, (-1, 2)) * size, true):
        mask = frame.masks.get(objects[g])  # by object order, although g counts those present
        hits += mask is not None and in_mask(mask, *predicted[p])
    return hits
