"""Targets as markers for RViz and Foxglove, as a tf-ready point, and as vision_msgs detections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, PointStamped, Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import ImageMarker, Marker, MarkerArray

from molmo2_ros.overlay import track_colour
from molmo2_ros.ros.images import header
from molmo2_ros.tracking.target import Target

_LIFETIME = Duration(sec=1)  # markers go when the node does
_SPHERE_M = 0.03
_TEXT_M = 0.03
_DOT_PX = 8.0


def image_marker(targets: Sequence[Target], stamp_ns: int, frame_id: str) -> ImageMarker:
    """All targets as one marker of coloured points in pixels; removed when there are none."""
    return ImageMarker(
        header=header(stamp_ns, frame_id),
        ns="molmo2_ros",
        id=0,
        type=ImageMarker.POINTS,
        action=ImageMarker.ADD if targets else ImageMarker.REMOVE,
        scale=_DOT_PX,
        outline_color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0),
        lifetime=_LIFETIME,
        points=[Point(x=float(t.u), y=float(t.v), z=0.0) for t in targets],
        outline_colors=[_colour(t) for t in targets],
    )


def marker_array(targets: Sequence[Target], stamp_ns: int, frame_id: str) -> MarkerArray:
    """A ball and a name at every target whose place in metres is known."""
    markers = [Marker(header=header(stamp_ns, frame_id), action=Marker.DELETEALL)]
    for target in targets:
        if target.point_m is None:
            continue
        x, y, z = target.point_m
        for kind, size_m, up_m, text in (
            (Marker.SPHERE, _SPHERE_M, 0.0, ""),
            (Marker.TEXT_VIEW_FACING, _TEXT_M, 1.5 * _TEXT_M, f"{target.label} {target.track_id}"),
        ):
            markers.append(
                Marker(
                    header=header(stamp_ns, frame_id),
                    ns=f"{target.query_name}/{'name' if text else 'point'}",
                    id=target.track_id,
                    type=kind,
                    action=Marker.ADD,
                    # y points down in an optical frame: above is smaller.
                    pose=Pose(position=Point(x=x, y=y - up_m, z=z), orientation=Quaternion(w=1.0)),
                    scale=Vector3(x=size_m, y=size_m, z=size_m),
                    color=_colour(target),
                    lifetime=_LIFETIME,
                    text=text,
                )
            )
    return MarkerArray(markers=markers)


def best_target(targets: Sequence[Target]) -> Target | None:
    """The surest target in metres of the query with the smallest id among those that have one."""
    placed = [target for target in targets if target.point_m is not None]
    if not placed:
        return None
    return min(placed, key=lambda t: (t.query_id, -_sureness(t), t.track_id))


def _sureness(target: Target) -> float:
    return 0.0 if math.isnan(target.confidence) else target.confidence * target.quality


def target_message(target: Target, stamp_ns: int, frame_id: str) -> PointStamped:
    """The place of a target, in metres of `frame_id`."""
    assert target.point_m is not None
    x, y, z = target.point_m
    return PointStamped(header=header(stamp_ns, frame_id), point=Point(x=x, y=y, z=z))


def detections(
    targets: Sequence[Target], stamp_ns: int, frame_id: str, vision_msgs: ModuleType
) -> Any:
    """A Detection2DArray: a box of no size at each target, its track id as the detection's id.

    Args:
        targets: on the frame of `stamp_ns`.
        stamp_ns: of the image.
        frame_id: of the image.
        vision_msgs: the module vision_msgs.msg (see compat.vision_msgs).
    """
    array_message = vision_msgs.Detection2DArray(header=header(stamp_ns, frame_id))
    for target in targets:
        detection = vision_msgs.Detection2D(header=header(stamp_ns, frame_id))
        detection.id = str(target.track_id)
        detection.bbox.center.position.x = float(target.u)
        detection.bbox.center.position.y = float(target.v)
        detection.results.append(_hypothesis(target, vision_msgs))
        array_message.detections.append(detection)
    return array_message


def detections_3d(
    targets: Sequence[Target], stamp_ns: int, frame_id: str, vision_msgs: ModuleType
) -> Any:
    """A Detection3DArray of the targets whose place is known, in `frame_id`; see `detections`."""
    array_message = vision_msgs.Detection3DArray(header=header(stamp_ns, frame_id))
    for target in targets:
        if target.point_m is None:
            continue
        x, y, z = target.point_m
        detection = vision_msgs.Detection3D(header=header(stamp_ns, frame_id))
        detection.id = str(target.track_id)
        detection.bbox.center.position = Point(x=x, y=y, z=z)
        hypothesis = _hypothesis(target, vision_msgs)
        hypothesis.pose.pose.position = Point(x=x, y=y, z=z)
        detection.results.append(hypothesis)
        array_message.detections.append(detection)
    return array_message


def _hypothesis(target: Target, vision_msgs: ModuleType) -> Any:
    result = vision_msgs.ObjectHypothesisWithPose()
    result.hypothesis.class_id = target.label
    result.hypothesis.score = float(target.confidence)
    return result


def _colour(target: Target) -> ColorRGBA:
    red, green, blue = track_colour(target.track_id)
    return ColorRGBA(r=red / 255.0, g=green / 255.0, b=blue / 255.0, a=1.0)
