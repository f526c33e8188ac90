"""One camera frame with its targets as viewers get it: made into bytes once, however many look."""

from __future__ import annotations

import asyncio
import json
import math
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from molmo2_ros.camera.stamp import stamp_json

_HEADER = struct.Struct(">I")  # length of the JSON that stands before the picture
Jpeg = Callable[[], bytes]
InThread = Callable[[Jpeg], Awaitable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A target on one frame, as the page draws it."""

    node: str  # that says so; query ids are unique within it
    query_id: int
    track_id: int
    u: float  # pixels, 0 at the centre of the leftmost column
    v: float  # pixels, 0 at the centre of the top row
    xyz_m: tuple[float, float, float] | None  # camera's optical frame (REP 103)
    age_s: float
    quality: float
    confidence: float  # NaN where unknown
    measured: bool

    def as_json(self) -> dict[str, Any]:
        """For json.dumps; what is not known is null."""
        return {
            "node": self.node,
            "query_id": self.query_id,
            "track_id": self.track_id,
            "u": _rounded(self.u, 2),
            "v": _rounded(self.v, 2),
            "xyz": None if self.xyz_m is None else [_rounded(c, 4) for c in self.xyz_m],
            "age": _rounded(self.age_s, 3),
            "quality": _rounded(self.quality, 3),
            "confidence": _rounded(self.confidence, 3),
            "measured": self.measured,
        }


@dataclass(kw_only=True, eq=False)
class Scene:
    """What is shown at once: a picture, and the targets on just this picture.

    Args:
        camera: name of the camera.
        frame_id: of its optical frame.
        stamp_ns: of the picture and of every mark.
        width: pixels.
        height: pixels.
        marks: None where nobody told of targets on this frame.
        nodes: those that told, also those that found nothing.
        jpeg: makes the picture's bytes; called at most once, in a thread.
        arrived_s: when the picture came to this process, seconds since the epoch.
    """

    camera: str
    frame_id: str
    stamp_ns: int
    width: int
    height: int
    marks: Sequence[Mark] | None
    jpeg: Jpeg
    arrived_s: float
    nodes: Sequence[str] = ()
    number: int = 0  # counts the scenes of a server; viewers name it when it is drawn
    _picture: asyncio.Task[bytes] | None = field(default=None, repr=False)
    _head: bytes | None = field(default=None, repr=False)

    @property
    def head(self) -> bytes:
        """All but the picture, as JSON in UTF-8."""
        if self._head is None:
            told: Mapping[str, Any] = {
                "type": "scene",
                "number": self.number,
                "camera": self.camera,
                "frame_id": self.frame_id,
                "stamp": stamp_json(self.stamp_ns),
                "width": self.width,
                "height": self.height,
                "arrived_ms": round(self.arrived_s * 1e3, 3),
                "nodes": list(self.nodes),
                "points": None if self.marks is None else [mark.as_json() for mark in self.marks],
            }
            self._head = json.dumps(told, allow_nan=False, separators=(",", ":")).encode()
        return self._head

    async def picture(self, in_thread: InThread) -> bytes:
        """The JPEG; made when it is first wanted, and then shared."""
        if self._picture is None:
            self._picture = asyncio.ensure_future(_awaited(in_thread(self.jpeg)))
        # One viewer that leaves must not cancel it for the others.
        return await asyncio.shield(self._picture)

    async def message(self, in_thread: InThread) -> bytes:
        """Length of the head (four bytes, big-endian), head, picture."""
        picture = await self.picture(in_thread)
        return b"".join((_HEADER.pack(len(self.head)), self.head, picture))


async def _awaited(made: Awaitable[bytes]) -> bytes:
    return await made


def _rounded(value: float, digits: int) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None
