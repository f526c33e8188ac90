"""Old points carried to now through the buffered frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from molmo2_ros.tracking.flow import Patches, carry, no_patches, seed
from molmo2_ros.tracking.grey import GreyFrame

TOLERANCE_NS = 60_000_000  # between a point's stamp and the buffered frame that stands for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A point that the model saw on some frame."""

    stamp_ns: int
    u: float  # camera pixels
    v: float


def replay(starts: Sequence[Start], frames: Sequence[GreyFrame]) -> tuple[list[int], Patches]:
    """Carry each point from its own frame to the newest, all in one pass.

    Args:
        starts: points on any of the frames.
        frames: in time order.

    Returns:
        indices into `starts`, and their patches on the newest frame in the same order; a point
        whose frame is not among `frames` is left out.
    """
    waiting: dict[int, list[int]] = {}
    for index, start in enumerate(starts):
        nearest = min(
            range(len(frames)),
            key=lambda place: abs(frames[place].stamp_ns - start.stamp_ns),
            default=None,
        )
        if nearest is None or abs(frames[nearest].stamp_ns - start.stamp_ns) > TOLERANCE_NS:
            continue
        waiting.setdefault(nearest, []).append(index)
    order: list[int] = []
    patches = no_patches()
    for place in range(min(waiting, default=len(frames)), len(frames)):
        frame = frames[place]
        if order:
            patches = carry(patches, frames[place - 1], frame)
        if place in waiting:
            points = np.array([(starts[index].u, starts[index].v) for index in waiting[place]])
            patches = Patches.joined(patches, seed(frame, frame.to_grey(points)))
            order += waiting[place]
    return order, patches
