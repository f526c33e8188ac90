"""Gives targets in another frame than the camera's, by the transform at the image's own time."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.clock import ClockType
from rclpy.context import Context
from rclpy.time import Time

from molmo2_ros.errors import TransformError
from molmo2_ros.ros.diagnostics import ProblemLog
from molmo2_ros.ros.worker import Worker
from molmo2_ros.tracking.target import Target

_PATIENCE_S = 0.5  # a moving frame's transform may come later than the image
_POLL_S = 0.005
_WAIT_S = 0.5

Publish = Callable[[Sequence[Target], int, str], None]  # targets, their stamp, their frame


class TransformSource(Protocol):
    """Who knows where frames were."""

    def at(self, target_frame: str, source_frame: str, stamp_ns: int) -> TransformStamped:
        """The transform that takes points of `source_frame` to `target_frame` at one time.

        Raises:
            TransformError: it is not known for that time, or not yet.
        """

    def close(self) -> None:
        """Learn of no more transforms."""


class TfTransforms:
    """tf2's buffer, filled by /tf and /tf_static.

    Args:
        node: subscribes to them.
        tf2_ros: the module (see compat.tf2_ros).
    """

    def __init__(self, node: Any, tf2_ros: ModuleType) -> None:
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._unknown = tf2_ros.TransformException

    def at(self, target_frame: str, source_frame: str, stamp_ns: int) -> TransformStamped:
        """As `TransformSource.at`."""
        if stamp_ns == 0:  # tf2 reads it as "the latest"
            raise TransformError(
                "the image has the stamp 0, expected its time; let the camera's driver stamp it"
            )
        stamp = Time(nanoseconds=stamp_ns, clock_type=ClockType.ROS_TIME)
        try:
            return self._buffer.lookup_transform(target_frame, source_frame, stamp)
        except self._unknown as error:
            raise TransformError(
                f"no transform from {source_frame!r} to {target_frame!r} at the image's stamp "
                f"({error}); publish it on /tf or /tf_static by the clock that stamps the images, "
                "or choose another target_frame"
            ) from error

    def close(self) -> None:
        """As `TransformSource.close`."""
        self._listener.unregister()


def moved(targets: Sequence[Target], transform: TransformStamped) -> list[Target]:
    """Targets in metres, in the frame that a transform leads to.

    Args:
        targets: with point_m in the frame `transform.child_frame_id`; others are left out.
        transform: rotation first, then translation (geometry_msgs/Transform).

    Raises:
        TransformError: the rotation is no quaternion of some length.
    """
    q = transform.transform.rotation
    axis, w = np.array([q.x, q.y, q.z]), q.w
    norm = float(axis @ axis + w * w)
    if not 0.5 < norm < 2.0:
        raise TransformError(
            f"the transform to {transform.header.frame_id!r} has a quaternion of squared length "
            f"{norm:.3g}, expected 1; look at who publishes it"
        )
    shift = transform.transform.translation
    translation = np.array([shift.x, shift.y, shift.z])
    placed = []
    for target in targets:
        if target.point_m is not None:
            point = np.array(target.point_m)
            across = 2.0 / norm * np.cross(axis, point)
            point = point + w * across + np.cross(axis, across) + translation
            placed.append(replace(target, point_m=(point[0], point[1], point[2])))
    return placed


@dataclass(frozen=True, slots=True)
class _Waiting:
    targets: Sequence[Target]
    stamp_ns: int
    frame_id: str
    until_s: float  # time.monotonic()


class TargetFrame:
    """Between the carried targets and what is published in `target_frame`.

    A thread of its own waits for late transforms, so that ~/points never do. What has none within
    half a second is not published at all: nothing is ever given in a wrong frame or by the latest
    transform.

    Args:
        target_frame: "" to give everything in the camera's frame at once.
        transforms: None where tf2 is not installed; whoever made it closes it.
        publish: gets the targets with points in the frame that it is told.
        problems: takes note of transforms that are not known.
        context: of the node.
    """

    def __init__(
        self,
        target_frame: str,
        transforms: TransformSource | None,
        *,
        publish: Publish,
        problems: ProblemLog,
        context: Context,
    ) -> None:
        self._target_frame = target_frame
        self._transforms = transforms
        self._publish = publish
        self._problems = problems
        self._waiting: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        self._worker = Worker("target_frame", self._step, problems, context)

    def start(self) -> None:
        """Begin to look transforms up, where there is anything to look up."""
        if self._target_frame:
            self._worker.start()

    def stop(self) -> None:
        """End, and let what waits go."""
        if self._target_frame:
            self._worker.stop(timeout_s=10.0)

    def put(self, targets: Sequence[Target], stamp_ns: int, frame_id: str) -> None:
        """Take the targets of one image, in its frame."""
        if self._target_frame in ("", frame_id):
            self._publish(targets, stamp_ns, frame_id)
            return
        until_s = time.monotonic() + _PATIENCE_S
        self._waiting.put(_Waiting(targets, stamp_ns, frame_id, until_s))

    def _step(self) -> None:
        try:
            waiting = self._waiting.get(timeout=_WAIT_S)
        except queue.Empty:
            return
        if self._transforms is None:
            raise TransformError(
                f"target_frame is {self._target_frame!r}, but tf2_ros is not installed: neither "
                "~/target nor ~/detections_3d (~/points go on); apt install "
                "ros-$ROS_DISTRO-tf2-ros-py, or leave target_frame empty"
            )
        if any(target.point_m is not None for target in waiting.targets):
            placed = moved(waiting.targets, self._transform_for(waiting, self._transforms))
            self._problems.clear("target_frame")
        else:
            placed = []
        self._publish(placed, waiting.stamp_ns, self._target_frame)

    def _transform_for(self, waiting: _Waiting, transforms: TransformSource) -> TransformStamped:
        while True:
            try:
                return transforms.at(self._target_frame, waiting.frame_id, waiting.stamp_ns)
            except TransformError:
                if time.monotonic() > waiting.until_s or self._worker.is_stopping:
                    raise
            time.sleep(_POLL_S)
