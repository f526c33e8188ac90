"""An operator's correction as a message: a point in pixels.

A geometry_msgs/PointStamped says where the thing is: x and y are pixels, z = -1 means that it is
not in the picture; the words for it are a parameter. A program says all in one JSON text
(molmo2_ros/corrections.py).
"""

from __future__ import annotations

from typing import Any

from molmo2_ros.corrections import Correction
from molmo2_ros.errors import DataError
from molmo2_ros.ros.images import stamp_ns_of

NOT_THERE_Z = -1.0


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
