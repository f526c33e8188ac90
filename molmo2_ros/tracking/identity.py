"""Which answered point is which carried target: ids that outlive the answers' own numbering.

Letters: C carried targets, A answered objects.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

NEAR_NS = 300_000_000
OTHER_COLOUR = 60.0  # grey levels: colours of one thing differ less
Path = Mapping[int, tuple[float, float]]  # stamp in ns -> pixels


def distances(carried: Sequence[Path], answered: Sequence[Path]) -> npt.NDArray[np.float64]:
    """Mean distance in pixels between paths, over the answered stamps, [C, A].

    An answered stamp is held against the carried target at that stamp or, where it was not carried
    yet, at the nearest one within NEAR_NS; inf where there is none.
    """
    distance_CA = np.full((len(carried), len(answered)), np.inf)
    for row, was in enumerate(carried):
        stamps = sorted(was)
        for column, said in enumerate(answered):
            apart = [
                np.subtract(was[near], xy)
                for stamp, xy in said.items()
                if (near := _nearest(stamps, stamp)) is not None
            ]
            if apart:
                distance_CA[row, column] = np.linalg.norm(apart, axis=1).mean()
    return distance_CA


def _nearest(stamps: Sequence[int], stamp: int) -> int | None:
    place = bisect_left(stamps, stamp)
    around = stamps[max(0, place - 1) : place + 1]
    near = min(around, key=lambda other: abs(other - stamp), default=None)
    return near if near is not None and abs(near - stamp) <= NEAR_NS else None


def unlikeness(
    carried_C3: npt.NDArray[np.float64], answered_A3: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """How far colours differ, [C, A]: 0 alike or unknown, from 1 on hardly one thing.

    Args:
        carried_C3: RGB at one exposure; NaN where unknown.
        answered_A3: the same.
    """
    apart_CA = np.abs(carried_C3[:, None] - answered_A3[None]).max(axis=2, initial=0.0)
    return np.asarray(np.nan_to_num(apart_CA) / OTHER_COLOUR)


def assign(cost_CA: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pair targets and answers one to one so that the sum of costs is least.

    Args:
        cost_CA: from 1 on a pair is out of the question.

    Returns:
        pairs of rows and columns; costly pairs are left out and do not pull good ones apart.
    """
    bounded_CA = np.minimum(cost_CA, 1.0)
    rows, columns = linear_sum_assignment(bounded_CA)
    return [
        (int(row), int(column))
        for row, column in zip(rows, columns, strict=True)
        if bounded_CA[row, column] < 1.0
    ]
