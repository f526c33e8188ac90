"""Which answered object is which known target: ids that outlive the answers' own numbering.

Every pair gets the odds, in nats, that the object is the target and not a new thing: by where it is
and by its looks. Densities have heavy tails (Student's t), so that no single measure, which may be
wrong, decides alone.

Letters: C known targets, A answered objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.tracking.motion import F64

NEAR_NS = 300_000_000
REMEMBER_S = 30.0  # a lost target may get its id back within this time
WANDER_SHARE = 0.03  # of the image's diagonal: how far a model wanders on a thing
SPEED_SHARE = 0.25  # of the diagonal a second: how fast a thing out of sight may go elsewhere
RIGHTLY_CARRIED = 0.9  # of the carried targets: the others went along with what passed before them
FORGET_RATE = 0.1  # nats a second out of sight: of two that fit, the one lost last is it
COLOUR_SPREAD = 6.0  # grey levels: samples of one thing differ by this (95 % by less than 8)
COLOUR_RANGE = 150.0  # of a channel: colours of other things are anywhere in it
OTHER_LOOKS = 0.05  # of the answers show another colour: a part of another colour, half covered
UNSEEN_OTHERS = 5.0  # things of any colour that are reckoned with beside the known ones

Path = Mapping[int, tuple[float, float]]  # stamp in ns -> pixels


def distances(carried: Sequence[Path], answered: Sequence[Path]) -> F64:
    """Median distance in pixels between paths, over the answered stamps, [C, A].

    An answered stamp is held against the carried target at that stamp or, where it was not carried
    yet, at the nearest one within NEAR_NS; inf where there is none. A median, since a carried
    point that jumped on to a neighbour was on its own thing until then.
    """
    stamps_M = np.array([stamp for said in answered for stamp in said], np.int64)
    places_M2 = np.array([xy for said in answered for xy in said.values()]).reshape(-1, 2)
    starts = np.cumsum([0, *(len(said) for said in answered)])
    distance_CA = np.full((len(carried), len(answered)), np.inf)
    for row, was in enumerate(carried):
        if not was or not len(stamps_M):
            continue
        apart_M = _apart(was, stamps_M, places_M2)
        for column, (first, last) in enumerate(zip(starts, starts[1:], strict=False)):
            known = apart_M[first:last][np.isfinite(apart_M[first:last])]
            if len(known):
                distance_CA[row, column] = known[0] if len(known) == 1 else np.median(known)
    return distance_CA


def _apart(was: Path, stamps_M: npt.NDArray[np.int64], places_M2: F64) -> F64:
    """Pixels from each answered place to a path, inf where that has nothing near in time."""
    stamps = np.fromiter(was, np.int64, len(was))
    order = np.argsort(stamps)
    stamps, places = stamps[order], np.array(list(was.values()), np.float64)[order]
    after_M = np.searchsorted(stamps, stamps_M)
    before_M = np.maximum(after_M - 1, 0)
    after_M = np.minimum(after_M, len(stamps) - 1)
    is_before = np.abs(stamps[before_M] - stamps_M) <= np.abs(stamps[after_M] - stamps_M)
    near_M = np.where(is_before, before_M, after_M)
    apart_M = np.hypot(*(places[near_M] - places_M2).T)
    return np.where(np.abs(stamps[near_M] - stamps_M) <= NEAR_NS, apart_M, np.inf)


def place_odds(carried_CA: F64, sought_CA: F64, away_CA: F64, *, width: int, height: int) -> F64:
    """Odds that an object is where it is because it is the target, and not just anywhere.

    Args:
        carried_CA: pixels between the object and the target as carried, inf where it was not.
        sought_CA: pixels between the object and where the target is expected since it was seen
            last.
        away_CA: seconds since then.
        width: of the camera's image, pixels.
        height: of the camera's image, pixels.

    Returns:
        nats, [C, A]; -inf for what was lost more than REMEMBER_S ago and is not carried.
    """
    diagonal_px, area = math.hypot(width, height), width * height
    wander_px = WANDER_SHARE * diagonal_px
    anywhere_px = math.sqrt(area / math.pi)
    spread_CA = np.minimum(wander_px + SPEED_SHARE * diagonal_px * away_CA, anywhere_px)
    sought_odds_CA = _near(sought_CA, spread_CA, area) - FORGET_RATE * away_CA
    sought_odds_CA[away_CA > REMEMBER_S] = -np.inf
    is_carried_CA = np.isfinite(carried_CA)
    carried_odds_CA = _near(carried_CA, np.full_like(carried_CA, wander_px), area)
    wrongly_CA = np.where(is_carried_CA, math.log(1 - RIGHTLY_CARRIED), 0.0)
    return np.asarray(
        np.logaddexp(math.log(RIGHTLY_CARRIED) + carried_odds_CA, wrongly_CA + sought_odds_CA)
    )


def _near(distance_CA: F64, spread_CA: F64, area: float) -> F64:
    """Student's t in the plane with two degrees of freedom, against anywhere in the picture."""
    return np.asarray(
        np.log(area / (math.pi * spread_CA**2)) - 2 * np.log1p((distance_CA / spread_CA) ** 2)
    )


def looks_odds(unlike_CA: F64) -> F64:
    """Odds that an object looks as it does because it is the target, and not another thing.

    Others are of any colour, or of the colours of the other targets: where all look alike, the
    looks say nothing.

    Args:
        unlike_CA: grey levels between the colours of target and object, NaN where unknown.

    Returns:
        nats, [C, A]; 0 where a colour is unknown.
    """
    # Student's t in space with three degrees of freedom.
    own_CA = (4 / (math.pi**2 * COLOUR_SPREAD**3)) / (1 + (unlike_CA / COLOUR_SPREAD) ** 2) ** 3
    known_CA = np.nan_to_num(own_CA)
    any_colour = COLOUR_RANGE**-3
    others_CA = known_CA.sum(axis=0) - known_CA + UNSEEN_OTHERS * any_colour
    others_CA = np.maximum(others_CA / (UNSEEN_OTHERS + len(unlike_CA) - 1), any_colour)
    odds_CA = np.log((1 - OTHER_LOOKS) * own_CA / others_CA + OTHER_LOOKS)
    return np.asarray(np.nan_to_num(odds_CA))


def load_solver() -> None:
    """Import what `assign` needs for several targets.

    It takes half a second, which neither a node's start nor an answer should wait for: call it from
    a thread.
    """
    _solver()


def _solver() -> Any:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment


def assign(odds_CA: F64) -> list[tuple[int, int]]:
    """Pair targets and objects one to one so that the sum of odds is greatest.

    Args:
        odds_CA: nats; a pair at 0 or below is a worse guess than a new thing.

    Returns:
        pairs of rows and columns; bad ones are left out and do not pull good ones apart.
    """
    gain_CA = np.maximum(odds_CA, 0.0)
    if not gain_CA.size:
        return []
    if 1 in gain_CA.shape:
        best = np.unravel_index(np.argmax(gain_CA), gain_CA.shape)
        rows, columns = np.array([best[0]]), np.array([best[1]])
    else:
        rows, columns = _solver()(gain_CA, maximize=True)
    return [
        (int(row), int(column))
        for row, column in zip(rows, columns, strict=True)
        if gain_CA[row, column] > 0.0
    ]
