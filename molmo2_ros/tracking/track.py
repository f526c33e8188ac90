"""What is known of one target beyond the picture round it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from molmo2_ros.tracking.looks import MAX_SIGHTS, Sights, own_colour
from molmo2_ros.tracking.motion import F32, F64
from molmo2_ros.tracking.scene import SceneMotion

COAST_S = 0.5  # what goes out of sight keeps its speed for about so long
SPEED_SPAN_NS = 240_000_000  # over which that speed is measured
MIN_SPEED_SPAN_NS = 60_000_000


@dataclass(slots=True, eq=False)
class Track:
    """One target, carried or lost."""

    query_id: int
    track_id: int
    query_name: str = ""
    label: str = ""
    confidence: float = math.nan
    confirmed_ns: int = -1  # stamp of the newest frame on which the model saw it
    path: dict[int, tuple[float, float]] = field(default_factory=dict)  # camera pixels by stamp
    sights: dict[int, F32] = field(default_factory=dict)  # its looks by stamp, the last answered
    colour: F64 = field(default_factory=lambda: np.full(3, math.nan))  # RGB, of all sights
    misses: int = 0

    def show(self, looks: Sights) -> None:
        """Take in how it looked where an answer pointed at it."""
        if not looks:
            return
        self.sights.update(looks)
        for stamp_ns in sorted(self.sights)[:-MAX_SIGHTS]:
            del self.sights[stamp_ns]
        self.colour = own_colour(self.sights)

    @property
    def last_ns(self) -> int:
        """Stamp of the newest place that is known."""
        return max(self.path)

    def expected(self, is_lost: bool, scene: SceneMotion) -> Expected:
        """Where it should be, by where it was seen last, or last confirmed while it is carried."""
        if not is_lost and self.confirmed_ns in self.path:
            place = complex(*self.path[self.confirmed_ns])
            return Expected(self.confirmed_ns, place, 0j, scene)
        last_ns = self.last_ns
        place = complex(*self.path[last_ns])
        return Expected(last_ns, place, _speed(self.path, last_ns, scene), scene)

    def forget_before(self, oldest_ns: int) -> None:
        """Drop what is older from the path."""
        self.path = {ns: xy for ns, xy in self.path.items() if ns >= oldest_ns}


@dataclass(frozen=True, slots=True)
class Expected:
    """A thing out of sight: it goes along with the picture, and what it moved in it runs out."""

    seen_ns: int
    place: complex  # camera pixels, x + y j
    speed: complex  # camera pixels a second, in the picture
    scene: SceneMotion

    def away_s(self, stamp_ns: int) -> float:
        """Seconds out of sight."""
        return max(0.0, (stamp_ns - self.seen_ns) / 1e9)

    def at(self, stamp_ns: int) -> complex:
        """Camera pixels, x + y j."""
        coasted_s = COAST_S * (1 - math.exp(-self.away_s(stamp_ns) / COAST_S))
        moved = self.place + coasted_s * self.speed
        return self.scene.between(self.seen_ns, max(stamp_ns, self.seen_ns)).of(moved)


def _speed(path: Mapping[int, tuple[float, float]], last_ns: int, scene: SceneMotion) -> complex:
    """Camera pixels a second in the picture at the end of a path; 0 if it is too short to tell."""
    first_ns = min(stamp_ns for stamp_ns in path if stamp_ns >= last_ns - SPEED_SPAN_NS)
    if last_ns - first_ns < MIN_SPEED_SPAN_NS:
        return 0j
    stayed = scene.between(first_ns, last_ns).of(complex(*path[first_ns]))
    return (complex(*path[last_ns]) - stayed) / ((last_ns - first_ns) / 1e9)
