"""How the whole picture moves: where that is which cannot be seen, if it stands still.

Places are complex numbers here, x + y j.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from molmo2_ros.tracking.grey import GreyFrame
from molmo2_ros.tracking.lucas_kanade import U8, follow

GRID = (10, 8)  # points that tell the motion, along x and y
MIN_FOUND = 8  # of them
FIT_PX = 1.5
STEP_NS = 60_000_000  # between frames that are compared
MIN_SHARE = 0.3  # of the grid; fewer that agree do not tell of the scene
KEPT_NS = 40_000_000_000  # longer than lost targets are remembered


@dataclass(frozen=True, slots=True)
class Similarity:
    """turn * place + shift: scale and rotation, then a shift."""

    turn: complex = 1.0 + 0j
    shift: complex = 0j

    def of(self, place: complex) -> complex:
        """Where a place goes."""
        return self.turn * place + self.shift

    def after(self, first: Similarity) -> Similarity:
        """Both, `first` before this one."""
        return Similarity(self.turn * first.turn, self.of(first.shift))

    def undone(self) -> Similarity:
        """The way back."""
        return Similarity(1 / self.turn, -self.shift / self.turn)

    def blended(self, other: Similarity, share: float) -> Similarity:
        """This one, `share` of the way to another that differs little."""
        return Similarity(
            (1 - share) * self.turn + share * other.turn,
            (1 - share) * self.shift + share * other.shift,
        )

    def enlarged(self, factor: float) -> Similarity:
        """The same for a picture that is so much larger; pixels are counted from their middles."""
        corner = (factor - 1) / 2 * (1 + 1j)
        return Similarity(self.turn, factor * self.shift + corner * (1 - self.turn))


def scene_step(before: U8, after: U8) -> tuple[Similarity, float]:
    """How a picture moved to the next.

    Args:
        before: grey picture.
        after: one of the same size and exposure.

    Returns:
        the motion in pixels, and the share of a grid of points that follow it: 0 where there is
        nothing to tell.
    """
    height, width = before.shape
    x, y = np.linspace(0.06, 0.94, GRID[0]) * width, np.linspace(0.06, 0.94, GRID[1]) * height
    grid_1K2 = np.stack(np.meshgrid(x, y), axis=-1).reshape(1, -1, 2).astype(np.float32)
    moved_1K2, found_1K = follow(before, after, grid_1K2, np.ones(grid_1K2.shape[:2], np.bool_))
    if found_1K.sum() < MIN_FOUND:
        return Similarity(), 0.0
    matrix, inlier = cv2.estimateAffinePartial2D(
        grid_1K2[found_1K], moved_1K2[found_1K], method=cv2.RANSAC, ransacReprojThreshold=FIT_PX
    )
    if not np.any(inlier):
        return Similarity(), 0.0
    turn, shift = complex(matrix[0, 0], matrix[1, 0]), complex(matrix[0, 2], matrix[1, 2])
    return Similarity(turn, shift), float(np.mean(inlier))


class SceneMotion:
    """Remembers how the picture moved, so that a place of then can be told in the picture of now.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._last: GreyFrame | None = None
        self._stamps: list[int] = []
        self._since: list[Similarity] = []  # from the first frame's camera pixels to these

    def follow(self, frames: Sequence[GreyFrame], until_ns: int) -> None:
        """Go on over frames in time order; anew where they do not continue what is known."""
        with self._lock:
            if self._last not in frames:
                self._stamps, self._since, self._last = [], [], None
            for frame in frames:
                if frame.stamp_ns > until_ns:
                    break
                if self._last is None:
                    self._add(frame, Similarity())
                elif frame.stamp_ns >= self._last.stamp_ns + STEP_NS:
                    self._add(frame, _motion(self._last, frame).after(self._since[-1]))

    def _add(self, frame: GreyFrame, since: Similarity) -> None:
        self._last = frame
        first = bisect_left(self._stamps, frame.stamp_ns - KEPT_NS)
        self._stamps = [*self._stamps[first:], frame.stamp_ns]
        self._since = [*self._since[first:], since]

    def between(self, from_ns: int, to_ns: int) -> Similarity:
        """From camera pixels at one time to those at another; what is not known is no motion."""
        with self._lock:
            if not self._stamps:
                return Similarity()
            return self._at(to_ns).after(self._at(from_ns).undone())

    def _at(self, stamp_ns: int) -> Similarity:
        after = bisect_right(self._stamps, stamp_ns)
        if after in {0, len(self._stamps)}:
            return self._since[min(after, len(self._stamps) - 1)]
        begin_ns, end_ns = self._stamps[after - 1 : after + 1]
        share = (stamp_ns - begin_ns) / (end_ns - begin_ns)
        return self._since[after - 1].blended(self._since[after], share)


def _motion(before: GreyFrame, after: GreyFrame) -> Similarity:
    """In camera pixels; at half the size of the grey pictures, which move far in STEP_NS."""
    halves = []
    for grey in (before.grey, after.exposed_as(before)):
        size = (grey.shape[1] // 2, grey.shape[0] // 2)
        halves.append(np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8))
    step, share = scene_step(halves[0], halves[1])
    return step.enlarged(2.0 * before.divisor) if share >= MIN_SHARE else Similarity()
