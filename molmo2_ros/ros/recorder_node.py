"""The recorder: what the cameras saw, what was asked and answered, and what people corrected."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.corrections import (
    Correction,
    PictureName,
    correction_from_json,
    review_from_json,
)
from molmo2_ros.errors import DataError, ImageError, Molmo2Error
from molmo2_ros.ros import images, qos
from molmo2_ros.ros.bag_store import MB, BagStore, StoreSettings
from molmo2_ros.ros.correction_messages import correction_from_point
from molmo2_ros.ros.diagnostics import ProblemLog, RateMeter, diagnostic_array, status
from molmo2_ros.ros.parameter_server import ParameterServer
from molmo2_ros.ros.parameters import RecorderParameters
from molmo2_ros.ros.process import run_node
from molmo2_ros.ros.timers import steady_timer
from molmo2_ros.ros.worker import Worker

_IMAGE_KIND = "sensor_msgs/msg/CompressedImage"
_TEXT_KIND = "std_msgs/msg/String"
_MAX_WAITING = 64  # messages between the callbacks and the disk
_EARLY_SHARE = 0.1  # of the period: a picture that is so much early is taken for its place
_STOP_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """One message on its way to the disk."""

    topic: str
    kind: str
    log_ns: int
    message: Any
    is_raw_image: bool = False


@dataclass(slots=True)
class _Camera:
    """One camera: when its next picture is wanted, and the last seconds of it."""

    topic: str  # as it is recorded
    frame_id: str = ""
    newest_ns: int = 0
    due_s: float = 0.0
    recent: deque[tuple[int, _Waiting]] = field(default_factory=deque)  # not recorded, with stamps


class RecorderNode(Node):
    """Samples cameras, records texts, takes corrections; one worker owns the disk.

    A picture of which an operator speaks is recorded even if it had not been sampled, while it is
    among the last `history_s` seconds. A disk that is full is told on /diagnostics, and recording
    goes on once there is room.

    Raises:
        ConfigError: a parameter given at start is wrong, or the package rosbags is missing.
    """

    is_done = False

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("recorder", **node_arguments)
        self._problems = ProblemLog(self.get_logger())
        self._server = ParameterServer(
            self,
            RecorderParameters,
            check=_check,
            changed=lambda _before, _after: None,
            frozen=lambda: "it is read at start; start the node again with the new value",
        )
        wanted = self._server.snapshot
        self._store = BagStore(_store_settings(wanted))
        self._pictures, self._texts = RateMeter(), RateMeter()
        self._arrived = threading.Condition()  # guards _waiting, _num_lost and the cameras
        self._waiting: deque[_Waiting] = deque()
        self._num_lost = 0
        self._num_corrections = 0
        self._flushed_s = time.monotonic()
        self._cameras = [self._subscribe_camera(name, wanted) for name in wanted.image_topics]
        for name in filter(None, wanted.text_topics):
            self._subscribe_text(name)
        results = qos.result_qos()
        self.create_subscription(PointStamped, "~/correction", self._on_point, results)
        self.create_subscription(String, "~/correction_json", self._on_json, results)
        for name in filter(None, wanted.review_topics):
            self.create_subscription(String, name, self._on_review, results)
        self._corrections = self.create_publisher(String, "~/corrections", results)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", results)
        steady_timer(self, wanted.diagnostics_period_s, self._publish_diagnostics)
        self._worker = Worker("storage", self._step, self._problems, self.context)

    def start(self) -> None:
        """Begin to write."""
        self._worker.start()
        self.get_logger().info(f"records into {self._store.settings.folder}")

    def close(self) -> None:
        """Write what waits, and end the bag."""
        self._worker.stop(_STOP_PATIENCE_S)
        try:
            while self._waiting:
                self._write(self._waiting.popleft())
        except Molmo2Error as error:
            self._problems.report("storage", error)
        self._store.close()

    def _subscribe_camera(self, name: str, wanted: RecorderParameters) -> _Camera:
        is_raw = wanted.image_transport == "raw"
        topic = name if is_raw else f"{name}/compressed"
        camera = _Camera(f"{self.resolve_topic_name(name)}/compressed")
        self.create_subscription(
            Image if is_raw else CompressedImage,
            topic,
            lambda message: self._on_image(camera, message, is_raw),
            qos.image_qos(wanted.image_reliability),
        )
        return camera

    def _subscribe_text(self, name: str) -> None:
        topic = self.resolve_topic_name(name)

        def keep(message: String) -> None:
            self._texts.tick()
            self._put(self._now(topic, _TEXT_KIND, message))

        self.create_subscription(String, name, keep, qos.result_qos())

    def _now(self, topic: str, kind: str, message: Any, is_raw_image: bool = False) -> _Waiting:
        return _Waiting(
            topic=topic,
            kind=kind,
            log_ns=int(self.get_clock().now().nanoseconds),
            message=message,
            is_raw_image=is_raw_image,
        )

    def _on_image(self, camera: _Camera, message: Any, is_raw: bool) -> None:
        """Record a picture that is due; remember the others for a while."""
        wanted, now_s = self._server.snapshot, time.monotonic()
        stamp_ns = images.stamp_ns_of(message)
        item = self._now(camera.topic, _IMAGE_KIND, message, is_raw)
        period_s = 1.0 / wanted.rate_hz
        with self._arrived:  # guards the cameras
            camera.newest_ns, camera.frame_id = stamp_ns, message.header.frame_id
            oldest_ns = stamp_ns - round(wanted.history_s * NS_PER_S)
            while camera.recent and not oldest_ns <= camera.recent[0][0] <= stamp_ns:
                camera.recent.popleft()
            is_due = now_s >= camera.due_s - _EARLY_SHARE * period_s
            if is_due:
                is_late = now_s > camera.due_s + period_s
                camera.due_s = (now_s if is_late else camera.due_s) + period_s
            elif wanted.history_s > 0:
                camera.recent.append((stamp_ns, item))
        if is_due:
            self._put(item)

    def _on_point(self, message: PointStamped) -> None:
        query = self._server.snapshot.correction_query
        self._take_correction(lambda: correction_from_point(message, query))

    def _on_json(self, message: String) -> None:
        self._take_correction(lambda: correction_from_json(message.data))

    def _on_review(self, message: String) -> None:
        try:
            review = review_from_json(message.data)
            if isinstance(review, PictureName):
                self._keep(review)
                return
            for correction in review.corrections():
                self._record_correction(correction)
        except Molmo2Error as error:
            self._problems.report("correction", error)

    def _keep(self, picture: PictureName) -> None:
        """Record a picture that somebody looks at, before it is forgotten."""
        for item in self._take_recent(self._camera_of(picture.frame_id), picture.stamp_ns):
            self._put(item)

    def _take_correction(self, read: Callable[[], Correction]) -> None:
        """Write a correction down with the picture that it speaks of."""
        try:
            self._record_correction(read())
        except Molmo2Error as error:
            self._problems.report("correction", error)

    def _record_correction(self, correction: Correction) -> None:
        correction = self._placed(correction)
        message = String(data=correction.as_json())
        self._num_corrections += 1
        self._put(self._now(self.resolve_topic_name("~/corrections"), _TEXT_KIND, message))
        self._corrections.publish(message)

    def _placed(self, correction: Correction) -> Correction:
        """Find the camera and the picture, and record it if that was not done."""
        camera = self._camera_of(correction.frame_id)
        stamp_ns = correction.stamp_ns or camera.newest_ns
        for item in self._take_recent(camera, stamp_ns):
            self._put(item)
        return replace(correction, stamp_ns=stamp_ns, frame_id=camera.frame_id)

    def _camera_of(self, frame_id: str) -> _Camera:
        """The recorded camera of a frame_id, the first for ""."""
        with self._arrived:  # guards the cameras
            seen = [camera for camera in self._cameras if camera.newest_ns]
        fitting = [camera for camera in seen if frame_id in ("", camera.frame_id)]
        if not fitting:
            there = ", ".join(repr(camera.frame_id) for camera in seen) or "none yet"
            raise DataError(
                f"a correction speaks of frame_id {frame_id!r}, expected that of a recorded "
                f"camera: {there}"
            )
        return fitting[0]

    def _take_recent(self, camera: _Camera, stamp_ns: int) -> list[_Waiting]:
        """A picture that was not recorded, no longer among those that may be forgotten."""
        with self._arrived:  # guards the cameras
            meant = [entry for entry in camera.recent if entry[0] == stamp_ns]
            for entry in meant:
                camera.recent.remove(entry)
        return [item for _, item in meant]

    def _put(self, item: _Waiting) -> None:
        """Leave a message for the worker; with too many waiting the oldest picture is lost."""
        with self._arrived:  # guards _waiting and _num_lost
            if len(self._waiting) >= _MAX_WAITING:
                pictures = [w for w in self._waiting if w.kind == _IMAGE_KIND]
                self._waiting.remove(pictures[0] if pictures else self._waiting[0])
                self._num_lost += 1
            self._waiting.append(item)
            self._arrived.notify()

    def _step(self) -> None:
        """One turn of the worker: write what has come, and hand it to the system now and then."""
        flush_s = self._server.snapshot.flush_period_s
        with self._arrived:  # guards _waiting
            self._arrived.wait_for(lambda: bool(self._waiting), min(flush_s, 0.5))
            item = self._waiting.popleft() if self._waiting else None
        if item is not None:
            self._write(item)
        if time.monotonic() - self._flushed_s >= flush_s:
            self._flushed_s = time.monotonic()
            self._store.flush()

    def _write(self, item: _Waiting) -> None:
        """Bring one message to disk; what was wrong with it is told, what fails there is raised."""
        try:
            message = self._jpeg(item.message) if item.is_raw_image else item.message
        except ImageError as error:
            self._problems.report("camera", error)
            return
        try:
            self._store.write(item.topic, item.kind, item.log_ns, bytes(serialize_message(message)))
        except DataError:
            with self._arrived:  # guards _num_lost
                self._num_lost += 1
            raise
        self._problems.clear("storage")
        if item.kind == _IMAGE_KIND:
            self._pictures.tick()

    def _jpeg(self, message: Image) -> CompressedImage:
        return images.jpeg_message(
            images.rgb_of(message),
            images.stamp_ns_of(message),
            message.header.frame_id,
            self._server.snapshot.jpeg_quality,
        )

    def _publish_diagnostics(self) -> None:
        store, wanted = self._store, self._server.snapshot
        silent = [camera.topic for camera in self._cameras if not camera.newest_ns]
        line = status(
            f"{self.get_name()}: recording",
            str(store.settings.folder),
            {
                "bag": store.path.name if store.path else "",
                "used_mb": store.used_bytes / MB,
                "max_disk_mb": wanted.max_disk_mb,
                "messages": store.num_written,
                "pictures": self._pictures.count,
                "pictures_hz": self._pictures.rate_hz,
                "texts": self._texts.count,
                "corrections": self._num_corrections,
                "messages_lost": self._num_lost,
                "bags_dropped": store.num_bags_dropped,
                **{f"problems_{kind}": n for kind, n in self._problems.counts.items()},
            },
            error=self._problems.standing("storage"),
            warning=self._problems.recent("correction")
            or self._problems.recent("camera")
            or (f"nothing has come on {', '.join(silent)}" if silent else "")
            or self._without_answers(wanted.text_topics),
            message="recording",
        )
        now_ns = self.get_clock().now().nanoseconds
        self._diagnostics.publish(diagnostic_array([line], now_ns))

    def _without_answers(self, topics: tuple[str, ...]) -> str:
        """Why no answer is recorded, "" where one may be, or none is wanted."""
        # What is asked comes from anybody; what is answered, from the grounding node.
        named = [name for name in topics if name.endswith(("/answer", "/queries"))]
        if not named or any(self.count_publishers(self.resolve_topic_name(n)) for n in named):
            return ""
        return (
            f"pictures alone are recorded: nobody publishes {named[0]} or another of text_topics. "
            "Start the grounding node, or name its topics: with several cameras these are such as "
            "grounding/front/answer"
        )


def _check(after: RecorderParameters) -> None:
    """Refuse what no store can be made of."""
    _store_settings(after)


def _store_settings(wanted: RecorderParameters) -> StoreSettings:
    return StoreSettings(
        folder=Path(wanted.folder).expanduser(),
        split_mb=wanted.split_mb,
        split_s=wanted.split_s,
        max_disk_mb=wanted.max_disk_mb,
        when_full=wanted.when_full,
        min_free_mb=wanted.min_free_mb,
    )


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable `recorder_node`."""
    return run_node(RecorderNode, args, shares_memory=False)


if __name__ == "__main__":
    raise SystemExit(main())
