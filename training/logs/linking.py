"""Points of single frames joined into things, and carried by optical flow to the frames between.

Letters: T things, D points that a labeller gave on one frame.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from molmo2_ros.camera.frame import Frame
from molmo2_ros.tracking.flow import Patches, carry, no_patches, seed
from molmo2_ros.tracking.grey import GreyFrame
from molmo2_ros.training.logs.labellers import MadePoint

_REACH = 0.06  # of the picture's diagonal: a point farther off a thing's place is another thing
_CARRY_QUALITY = 0.5  # of flow, below which a carried point is no label
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingPoint:
    """One point of a thing.

    Args:
        frame: index in the clip.
        x: 0..1 of the width.
        y: 0..1 of the height.
        confidence: 0..1; of a carried point the last given one's times the flow's quality.
        carried: flow brought it here; the labeller said nothing about this frame.
    """

    frame: int
    x: float
    y: float
    confidence: float
    carried: bool


@dataclass(slots=True)
class _Thing:
    """A thing while the clip is gone through."""

    id: int | None
    points: list[ThingPoint] = field(default_factory=list)
    num_missed: int = 0  # labelled frames since it was last given


def link(
    frames: Sequence[Frame],
    points: Sequence[MadePoint],
    *,
    looked: Sequence[int],
    max_missed: int = 2,
    min_given: int = 2,
) -> tuple[tuple[ThingPoint, ...], ...]:
    """Join a labeller's points into things.

    Args:
        frames: of the clip.
        points: that the labeller gave, of the frames that it was shown, numbered among these;
            those with equal `thing` belong together, the others are joined where flow carries one
            to the next.
        looked: indices of the frames that the labeller was shown, rising: on the others a thing is
            carried, on these it has to be found again.
        max_missed: a thing that was not found on more frames in a row ends where it was last given.
        min_given: things that were found on fewer frames are dropped, in clips that have as many.

    Returns:
        the things' points, each in the order of time; things in the order in which they appear.
    """
    walk = _Walk(max_missed)
    before: GreyFrame | None = None
    for index, frame in enumerate(frames):
        now = GreyFrame.of(frame)
        if before is not None:
            walk.carry(before, now, index)
        if index in looked:
            shown = looked.index(index)
            walk.meet([point for point in points if point.frame == shown], now, index)
        before = now
    needed = min(min_given, len(looked))
    kept = [_without_tail(thing.points, looked) for thing in walk.all]
    return tuple(tuple(points) for points in kept if sum(not p.carried for p in points) >= needed)


class _Walk:
    """Goes through a clip with all things that are in sight."""

    def __init__(self, max_missed: int) -> None:
        self._max_missed = max_missed
        self._patches: Patches = no_patches()  # row by row those of `_seen`
        self._seen: list[_Thing] = []
        self.all: list[_Thing] = []

    def carry(self, before: GreyFrame, now: GreyFrame, index: int) -> None:
        """Bring the things that are in sight to the next frame."""
        self._patches = carry(self._patches, before, now)
        size = np.array([now.width, now.height])
        places_T2 = (now.to_camera(self._patches.points_N2) + 0.5) / size
        qualities_T = np.where(self._patches.lost_N, 0.0, self._patches.quality_N)
        kept = []
        for row, thing in enumerate(self._seen):
            (x, y), quality = places_T2[row], float(qualities_T[row])
            if quality >= _CARRY_QUALITY and 0 <= x <= 1 and 0 <= y <= 1:
                given = next(p for p in reversed(thing.points) if not p.carried)
                thing.points.append(
                    ThingPoint(
                        frame=index,
                        x=float(x),
                        y=float(y),
                        confidence=given.confidence * min(quality, 1.0),
                        carried=True,
                    )
                )
                kept.append(row)
        self._keep(kept)

    def meet(self, given: Sequence[MadePoint], now: GreyFrame, index: int) -> None:
        """Compare what was carried with what the labeller says about this frame."""
        pairs = self._pairs(given, now)
        for row, thing in enumerate(self._seen):
            thing.num_missed = 0 if row in pairs else thing.num_missed + 1
        taken = {pairs[row]: self._seen[row] for row in pairs}
        missed = [
            row
            for row, thing in enumerate(self._seen)
            if row not in pairs and thing.num_missed <= self._max_missed
        ]
        self._keep(missed)
        fresh = []
        for number, point in enumerate(given):
            thing = taken[number] if number in taken else self._known(point.thing)
            if thing.points and thing.points[-1].frame == index:
                thing.points.pop()  # carried here: what is given counts more
            thing.points.append(
                ThingPoint(
                    frame=index, x=point.x, y=point.y, confidence=point.confidence, carried=False
                )
            )
            fresh.append(thing)
        places = np.array([[p.x * now.width - 0.5, p.y * now.height - 0.5] for p in given])
        self._patches = Patches.joined(
            self._patches, seed(now, now.to_grey(places.reshape(-1, 2).astype(np.float64)))
        )
        self._seen += fresh

    def _known(self, thing_id: int | None) -> _Thing:
        """The thing that a labeller follows under this id, or a new one."""
        for thing in self.all:
            if thing_id is not None and thing.id == thing_id:
                return thing
        self.all.append(_Thing(thing_id))
        return self.all[-1]

    def _keep(self, rows: list[int]) -> None:
        self._patches = self._patches.take(rows)
        self._seen = [self._seen[row] for row in rows]

    def _pairs(self, given: Sequence[MadePoint], now: GreyFrame) -> dict[int, int]:
        """Which given point is which thing, by row of `_seen`."""
        if not self._seen or not given:
            return {}
        size = np.array([now.width, now.height], np.float64)
        carried_T2 = np.array([[t.points[-1].x, t.points[-1].y] for t in self._seen]) * size
        given_D2 = np.array([[p.x, p.y] for p in given]) * size
        far_TD = np.linalg.norm(carried_T2[:, None] - given_D2[None], axis=-1)
        far_TD /= np.linalg.norm(size)
        cost_TD = np.minimum(far_TD, 1.0)
        for row, thing in enumerate(self._seen):
            for column, point in enumerate(given):
                if point.thing is not None or thing.id is not None:
                    same = point.thing == thing.id
                    far_TD[row, column] = cost_TD[row, column] = 0.0 if same else 2.0
        rows, columns = linear_sum_assignment(np.where(far_TD > _REACH, 10.0, cost_TD))
        return {
            int(row): int(column)
            for row, column in zip(rows, columns, strict=True)
            if far_TD[row, column] <= _REACH
        }


def _without_tail(points: list[ThingPoint], looked: Collection[int]) -> list[ThingPoint]:
    """Up to the frame on which the thing was looked for, and never found again.

    Worked example: given on frame 0, carried to 1, 2 and 3, and looked for on 0 and 2: 0 and 1 are
    kept, for on 2 the labeller saw none.
    """
    last_given = max(point.frame for point in points if not point.carried)
    end = min((index for index in looked if index > last_given), default=None)
    return [point for point in points if end is None or point.frame < end]
