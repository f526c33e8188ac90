"""Points held against instance masks that do not overlap, as rendered scenes have them.

A predicted point counts when it lies in the mask of an object that was asked for; a second point in
the same mask is false. Instance masks do not overlap, so this is the best one-to-one assignment and
no Hungarian matching is needed (the authors' evaluator assigns by distance first, which can turn a
hit into a miss when two objects are close).

Source: Molmo2's evaluation (image pointing: one assignment an image; tracking F1: per frame,
averaged over the frames that have a prediction or a truth, then over clips).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameScore:
    """Counts of one frame."""

    hits: int
    false_points: int
    missed: int

    @property
    def empty(self) -> bool:
        """Neither a prediction nor a truth."""
        return self.hits + self.false_points + self.missed == 0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1.0 for an empty frame."""
        total = 2 * self.hits + self.false_points + self.missed
        return 2 * self.hits / total if total else 1.0


def instance_at(
    instances_HW: npt.NDArray[np.uint8] | npt.NDArray[np.bool_], x: float, y: float
) -> int:
    """Label of the pixel under a point; the nearest one's where it lies outside.

    Args:
        instances_HW: 0 background, j an object; or the mask of one.
        x: 0..1 of the width.
        y: 0..1 of the height.
    """
    height, width = instances_HW.shape
    column = min(max(int(x * width), 0), width - 1)
    row = min(max(int(y * height), 0), height - 1)
    return int(instances_HW[row, column])


def score_frame(
    instances_HW: npt.NDArray[np.uint8],
    points: Iterable[tuple[float, float]],
    wanted: Iterable[int],
    neutral: Iterable[int] = (),
) -> FrameScore:
    """Score the points of one frame.

    Args:
        instances_HW: labels, 0 background.
        points: x, y in 0..1.
        wanted: labels of the objects that are asked for and count.
        neutral: labels of objects that are asked for but too small or too hidden to count: points
            on them are neither right nor wrong.
    """
    wanted, neutral = set(wanted), set(neutral)
    found: set[int] = set()
    false_points = 0
    for x, y in points:
        label = instance_at(instances_HW, x, y)
        if label in wanted and label not in found:
            found.add(label)
        elif label not in neutral:
            false_points += 1
    return FrameScore(hits=len(found), false_points=false_points, missed=len(wanted - found))


def track_f1(frames: Sequence[FrameScore]) -> float:
    """Mean F1 over the frames that have a prediction or a truth; 1.0 when none has."""
    scored = [frame.f1 for frame in frames if not frame.empty]
    return float(np.mean(scored)) if scored else 1.0


def ids_one_to_one(pairs: Iterable[tuple[int, int]]) -> bool:
    """Whether written ids and instances map one to one.

    Args:
        pairs: (id in the answer, label under the point) of every hit of a track.
    """
    by_id: dict[int, set[int]] = {}
    by_instance: dict[int, set[int]] = {}
    for object_id, instance in pairs:
        by_id.setdefault(object_id, set()).add(instance)
        by_instance.setdefault(instance, set()).add(object_id)
    maps = (*by_id.values(), *by_instance.values())
    return all(len(partners) == 1 for partners in maps)
