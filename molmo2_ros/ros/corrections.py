"""What an operator says about a picture, and how it is written down.

A geometry_msgs/PointStamped says where the thing is: x and y are pixels, z = -1 means that it is
not in the picture; the words for it are a parameter. A program says all in one JSON text.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from molmo2_ros.camera.stamp import stamp_from_json, stamp_json
from molmo2_ros.errors import DataError, QueryError
from molmo2_ros.ros.images import stamp_ns_of

NOT_THERE_Z = -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Where something is in one picture, or that it is not in it.

    Args:
        query: the words for the thing, such as "red mug".
        stamp_ns: of the picture; 0 for the newest.
        frame_id: of the camera; "" for any.
        u: pixels from the left.
        v: pixels from the top.
        visible: False: there is no such thing in the picture, and `u`, `v` are ignored.

    Raises:
        QueryError: there are no words.
        DataError: the place is no pixel.
    """

    query: str
    stamp_ns: int
    frame_id: str
    u: float
    v: float
    visible: bool

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise QueryError(
                "a correction came without words for the thing; set the recorder's parameter "
                "correction_query, or name it in ~/correction_json"
            )
        is_place = math.isfinite(self.u) and math.isfinite(self.v) and min(self.u, self.v) >= 0
        if self.visible and not is_place:
            raise DataError(
                f"correction about {self.query!r} is at {self.u:g}, {self.v:g}, expected pixels "
                "from the left and the top; z = -1 says that the thing is not there"
            )

    def as_json(self) -> str:
        """As it is recorded on ~/corrections."""
        return json.dumps(
            {
                "query": " ".join(self.query.split()),
                "stamp": stamp_json(self.stamp_ns),
                "frame_id": self.frame_id,
                "visible": self.visible,
                "u": self.u if self.visible else None,
                "v": self.v if self.visible else None,
            },
            ensure_ascii=False,
        )


def correction_from_point(message: Any, query: str) -> Correction:
    """Read a PointStamped.

    Raises:
        QueryError: `query` is empty.
        DataError: the place is no pixel, or z is neither 0 nor -1.
    """
    point = message.point
    if point.z not in (0.0, NOT_THERE_Z):
        raise DataError(
            f"correction has z = {point.z:g}, expected 0 (x and y are pixels) or -1 (not there); a "
            "point in metres is no correction"
        )
    return Correction(
        query=query,
        stamp_ns=stamp_ns_of(message),
        frame_id=message.header.frame_id,
        u=float(point.x),
        v=float(point.y),
        visible=point.z == 0.0,
    )


def correction_from_json(text: str) -> Correction:
    """Read the text of ~/correction_json: query, and u and v or "visible": false.

    Raises:
        DataError: it is no such JSON.
        QueryError: the query is empty.
    """
    try:
        found = json.loads(text)
        stamp = found.get("stamp", {"sec": 0, "nanosec": 0})
        visible = found.get("visible", True)
        if not isinstance(visible, bool) or not isinstance(found["query"], str):
            raise TypeError("query is a text, visible is true or false")
        unknown = set(found) - {"query", "stamp", "frame_id", "visible", "u", "v"}
        if unknown:
            raise KeyError(f"unknown: {', '.join(sorted(unknown))}")
        return Correction(
            query=found["query"],
            stamp_ns=stamp_from_json(stamp),
            frame_id=str(found.get("frame_id", "")),
            u=float(found["u"]) if visible else 0.0,
            v=float(found["v"]) if visible else 0.0,
            visible=visible,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"correction {text[:80]!r} cannot be read ({type(error).__name__}: {error}); expected "
            '{"query": "red mug", "u": 12.0, "v": 34.0} with, where known, "stamp" and '
            '"frame_id", or "visible": false'
        ) from error
