"""How sure a figure is, and how far probabilities can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata


@dataclass(frozen=True, slots=True)
class Cases:
    """Values that are averaged, and what each belongs to, such as a picture.

    Values of one group are resampled together: questions about one picture fail together.
    """

    values: Sequence[float]
    groups: Sequence[Hashable]


def bootstrap_interval(
    values: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    rounds: int = 1000,
) -> tuple[float, float]:
    """95 % confidence interval of a mean, by resampling.

    Args:
        values: one per question or clip.
        groups: as in Cases; None: each value by itself.
        seed: of the resampling.
        rounds: how many resamples.
    """
    cases = Cases(values, range(len(values)) if groups is None else groups)
    return joint_interval([cases], lambda means: means[0], seed=seed, rounds=rounds)


def joint_interval(
    cases: Sequence[Cases],
    combine: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    *,
    seed: int = 0,
    rounds: int = 1000,
) -> tuple[float, float]:
    """95 % confidence interval of what is made of several means, by resampling their groups.

    Args:
        cases: of each mean; a group that is drawn is drawn for all of them.
        combine: makes [rounds] of [C, rounds] means, such as their differences.
        seed: of the resampling.
        rounds: how many resamples.

    Returns:
        NaN for both where a mean has no case.
    """
    if not all(len(each.values) for each in cases):
        return (float("nan"), float("nan"))
    numbers: dict[Hashable, int] = {}
    for each in cases:
        for group in each.groups:
            numbers.setdefault(group, len(numbers))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(numbers), size=(rounds, len(numbers)))
    with np.errstate(invalid="ignore"):  # a resample may have no case of a small set
        means = np.stack([_resampled(each, numbers, drawn) for each in cases])
        low, high = np.nanpercentile(combine(means), [2.5, 97.5])
    return float(low), float(high)


def _resampled(
    cases: Cases, numbers: Mapping[Hashable, int], drawn: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    group_N = np.array([numbers[group] for group in cases.groups])
    sum_G = np.bincount(group_N, np.asarray(cases.values, float), len(numbers))
    num_G = np.bincount(group_N, minlength=len(numbers))
    means: npt.NDArray[np.float64] = sum_G[drawn].sum(1) / num_G[drawn].sum(1)
    return means


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
