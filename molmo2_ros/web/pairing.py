"""Puts pictures and the targets on them together by stamp, though they come on different ways."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from molmo2_ros.web.scene import Mark

Picture = TypeVar("Picture")

MAX_WAITING = 8  # pictures of one camera that wait for their targets
PATIENCE_S = 1.0  # a node that told nothing for so long is not waited for


@dataclass(slots=True)
class _Waiting(Generic[Picture]):
    stamp_ns: int
    picture: Picture
    arrived_s: float
    marks: dict[str, Sequence[Mark]] = field(default_factory=dict)  # by node


@dataclass(slots=True)
class _Camera(Generic[Picture]):
    waiting: deque[_Waiting[Picture]] = field(default_factory=lambda: deque(maxlen=MAX_WAITING))
    told_s: dict[str, float] = field(default_factory=dict)  # when each node last told of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired(Generic[Picture]):
    """A picture with all that was told about it; marks are None where nobody tells anything.

    `nodes` are those that told of it, also those that found nothing.
    """

    camera: str
    frame_id: str
    stamp_ns: int
    picture: Picture
    marks: Sequence[Mark] | None
    nodes: tuple[str, ...]
    arrived_s: float


class Pairing(Generic[Picture]):
    """Hands a picture on as soon as every node that speaks of its camera has told its targets.

    A picture of which a node tells nothing (it skips frames when it is busy) is left out once a
    newer one is complete. A camera of which no node speaks is shown at once, without targets. Use
    from one thread.

    Args:
        on_pair: gets what belongs together, in the order of the stamps.
        clock: seconds that only run forward.
    """

    def __init__(
        self,
        on_pair: Callable[[Paired[Picture]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_pair = on_pair
        self._clock = clock
        self._cameras: dict[tuple[str, str], _Camera[Picture]] = {}  # by name and frame_id

    def picture(
        self, camera: str, frame_id: str, stamp_ns: int, picture: Picture, arrived_s: float
    ) -> None:
        """A picture came.

        Args:
            camera: its name.
            frame_id: of its optical frame.
            stamp_ns: when it was taken.
            picture: whatever it is made of.
            arrived_s: when it came, seconds since the epoch.
        """
        held = self._cameras.setdefault((camera, frame_id), _Camera())
        if held.waiting and stamp_ns <= held.waiting[-1].stamp_ns:
            held.waiting.clear()  # the camera began anew
        held.waiting.append(_Waiting(stamp_ns, picture, arrived_s))
        if not self._speakers(held):
            self._show(camera, frame_id, held, len(held.waiting) - 1)

    def points(self, node: str, frame_id: str, stamp_ns: int, marks: Sequence[Mark]) -> None:
        """A node told its targets on the picture of a stamp."""
        for (camera, its_frame_id), held in self._cameras.items():
            if its_frame_id != frame_id:
                continue
            held.told_s[node] = self._clock()
            for index, waiting in enumerate(held.waiting):
                if waiting.stamp_ns == stamp_ns:
                    waiting.marks[node] = marks
                    if self._speakers(held) <= set(waiting.marks):
                        self._show(camera, frame_id, held, index)
                    break

    def _speakers(self, held: _Camera[Picture]) -> set[str]:
        now_s = self._clock()
        return {node for node, told_s in held.told_s.items() if now_s - told_s < PATIENCE_S}

    def _show(self, camera: str, frame_id: str, held: _Camera[Picture], index: int) -> None:
        for _ in range(index):
            held.waiting.popleft()
        shown = held.waiting.popleft()
        marks = [mark for node in sorted(shown.marks) for mark in shown.marks[node]]
        self._on_pair(
            Paired(
                camera=camera,
                frame_id=frame_id,
                stamp_ns=shown.stamp_ns,
                picture=shown.picture,
                marks=marks if shown.marks else None,
                nodes=tuple(sorted(shown.marks)),
                arrived_s=shown.arrived_s,
            )
        )
