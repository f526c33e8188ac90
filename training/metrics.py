"""Grounding metrics on instance masks, and how far probabilities can be trusted.

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
from scipy.stats import rankdata


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


def instance_at(instances_HW: npt.NDArray[np.uint8], x: float, y: float) -> int:
    """Label of the pixel under a point.

    Args:
        instances_HW: 0 background, j an object.
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


def bootstrap_interval(
    values: Sequence[float], *, seed: int = 0, rounds: int = 1000
) -> tuple[float, float]:
    """95 % confidence interval of a mean, by resampling.

    Args:
        values: one per question or clip.
        seed: of the resampling.
        rounds: how many resamples.
    """
    if not values:
        return (float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    array = np.asarray(values, float)
    means = array[rng.integers(len(array), size=(rounds, len(array)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def brier_score(probabilities: npt.ArrayLike, outcomes: npt.ArrayLike) -> float:
    """Mean squared difference of what was foretold (0..1) and what came (0 or 1)."""
    return float(np.mean((np.asarray(probabilities, float) - np.asarray(outcomes, float)) ** 2))


def auroc(scores: npt.ArrayLike, outcomes: npt.ArrayLike) -> float:
    """How often a right one has a higher score than a wrong one; ties count half.

    Args:
        scores: [N].
        outcomes: [N] 0 or 1.

    Returns:
        0..1, 0.5 for scores that tell nothing; NaN where all are right or all are wrong.
    """
    right = np.asarray(outcomes, bool)
    num_right, num_wrong = int(right.sum()), int((~right).sum())
    if not num_right or not num_wrong:
        return float("nan")
    ranks = rankdata(scores)  # the mean rank for equal scores
    return float((ranks[right].sum() - num_right * (num_right + 1) / 2) / (num_right * num_wrong))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """The points whose probabilities fall together into one bin."""

    num: int
    foretold: float  # mean probability
    came: float  # share that was right


def reliability(
    probabilities: npt.ArrayLike,
    outcomes: npt.ArrayLike,
    *,
    num_bins: int = 10,
    equal_mass: bool = False,
) -> list[ReliabilityBin]:
    """What was foretold beside what came, bin by bin.

    Args:
        probabilities: [N] 0..1.
        outcomes: [N] 0 or 1.
        num_bins: how many; of equal width, each with its upper edge.
        equal_mass: bins of equal numbers of points instead.

    Returns:
        the bins that hold a point, rising.
    """
    probability_N = np.asarray(probabilities, float)
    outcome_N = np.asarray(outcomes, float)
    order = np.argsort(probability_N, kind="stable")
    if equal_mass:
        groups = np.array_split(order, num_bins)
    else:
        inner = np.linspace(0, 1, num_bins + 1)[1:-1]
        bin_N = np.searchsorted(inner, probability_N, side="left")
        groups = [np.flatnonzero(bin_N == number) for number in range(num_bins)]
    return [
        ReliabilityBin(
            num=len(group),
            foretold=float(probability_N[group].mean()),
            came=float(outcome_N[group].mean()),
        )
        for group in groups
        if len(group)
    ]


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: mean of |foretold - came|, each bin weighed by its points."""
    total = sum(entry.num for entry in bins)
    return sum(entry.num * abs(entry.foretold - entry.came) for entry in bins) / total
