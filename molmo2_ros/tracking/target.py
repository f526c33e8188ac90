"""One thing that was asked for, where it is now."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A point on the newest camera frame, with how far it may be trusted."""

    query_id: int  # 1-based number of the query that asked for it
    query_name: str
    label: str  # what it is, in the words of the answer or of the query
    track_id: int  # stable over answers; unique within a query
    stamp_ns: int  # time of the frame that u and v speak of
    u: float  # pixels, 0 at the centre of the leftmost column
    v: float  # pixels, 0 at the centre of the top row
    point_m: tuple[float, float, float] | None  # metres in the camera's optical frame (REP 103)
    age_s: float  # seconds since the frame on which the model last confirmed it
    quality: float  # 0..1, how well optical flow held on to it
    confidence: float  # 0..1, that the model's point is right; NaN where it is unknown
    measured: bool  # the model answered on this very frame; otherwise carried here by flow
    z_std_m: float = math.nan  # standard deviation of z, metres; NaN without point_m


def shown(targets: Iterable[Target], max_age_s: float, min_quality: float) -> list[Target]:
    """Those that may still be believed in.

    Args:
        targets: of one frame.
        max_age_s: the model confirmed them no longer ago.
        min_quality: optical flow held on to them at least so well.
    """
    return [t for t in targets if t.age_s <= max_age_s and t.quality >= min_quality]
