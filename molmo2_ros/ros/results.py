"""Every topic that the grounding node publishes about a camera, and what goes on it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from geometry_msgs.msg import PointStamped
from sensor_msgs.msg import CompressedImage, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import ImageMarker, MarkerArray

from molmo2_ros.answer_json import QueryState, answer_payload, payload_json, queries_payload
from molmo2_ros.answers.answer import Answer
from molmo2_ros.asking import ModelFacts
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import QueryKind
from molmo2_ros.ros import clouds, compat, markers
from molmo2_ros.ros.diagnostics import RateMeter
from molmo2_ros.ros.overlay_topic import OverlayTopic
from molmo2_ros.ros.parameters import GroundingParameters
from molmo2_ros.ros.topics import Topics
from molmo2_ros.standing import StandingQuery
from molmo2_ros.tracking.target import Target

_MOST_CAPTION = 40  # characters


class Results:
    """The publishers of one camera; silent while the node is not active.

    Args:
        topics: makes them.
    """

    def __init__(self, topics: Topics) -> None:
        topic = topics.result
        self._points = topic("points", PointCloud2)
        self._tracks = topic("tracks", PointCloud2)
        self._target = topic("target", PointStamped)
        self._markers = topic("markers", ImageMarker)
        self._markers_3d = topic("markers_3d", MarkerArray)
        self._answer = topic("answer", String)
        self._overlay = OverlayTopic(topics.now_ns, topic("overlay/compressed", CompressedImage))
        self._queries = topics.state("queries", String)
        self._vision_msgs = compat.vision_msgs()
        if self._vision_msgs is not None:
            self._detections = topic("detections", self._vision_msgs.Detection2DArray)
            self._detections_3d = topic("detections_3d", self._vision_msgs.Detection3DArray)
        self._lock = threading.Lock()  # guards _captions
        self._captions: dict[int, str] = {}  # by query id, what cannot be shown as a point
        self.points_rate = RateMeter()
        self.tracks_rate = RateMeter()
        self.answer_rate = RateMeter()

    @property
    def detections_text(self) -> str:
        """Whether ~/detections is published, and if not, why."""
        if self._vision_msgs is None:
            return "off: vision_msgs is not installed (apt install ros-$ROS_DISTRO-vision-msgs)"
        return "on"

    def publish_targets(
        self, frame: Frame, targets: Sequence[Target], parameters: GroundingParameters
    ) -> None:
        """Say where everything is on one camera frame."""
        at = (frame.stamp_ns, frame.frame_id)
        self._points.publish(clouds.points_cloud(targets, *at))
        self.points_rate.tick()
        if self._markers.get_subscription_count():
            self._markers.publish(markers.image_marker(targets, *at))
        if self._markers_3d.get_subscription_count() and frame.depth_m is not None:
            self._markers_3d.publish(markers.marker_array(targets, *at))
        if self._vision_msgs is not None and self._detections.get_subscription_count():
            self._detections.publish(markers.detections(targets, *at, self._vision_msgs))
        if parameters.overlay and self._overlay.is_wanted:
            with self._lock:  # guards _captions
                captions = [text for _, text in sorted(self._captions.items()) if text]
            self._overlay.publish(frame, targets, captions, parameters)

    def publish_places(self, targets: Sequence[Target], stamp_ns: int, frame_id: str) -> None:
        """Say where everything is in space, in metres of a frame.

        Args:
            targets: their point_m in `frame_id`.
            stamp_ns: of the image.
            frame_id: the camera's, or `target_frame`.
        """
        best = markers.best_target(targets)
        if best is not None:
            self._target.publish(markers.target_message(best, stamp_ns, frame_id))
        if self._vision_msgs is not None and self._detections_3d.get_subscription_count():
            self._detections_3d.publish(
                markers.detections_3d(targets, stamp_ns, frame_id, self._vision_msgs)
            )

    def publish_answer(
        self,
        answer: Answer,
        rows: Sequence[Target],
        query_id: int,
        frame: Frame,
        *,
        refused: bool = False,
    ) -> None:
        """See AnswerSink."""
        payload = answer_payload(answer, rows, query_id, frame, refused=refused)
        self._answer.publish(String(data=payload_json(payload)))
        if answer.partial or refused:
            return
        self.answer_rate.tick()
        if query_id:
            with self._lock:  # guards _captions
                self._captions[query_id] = _caption(answer)
            self._tracks.publish(clouds.tracks_cloud(rows, answer.stamps_ns[-1], frame.frame_id))
            self.tracks_rate.tick()

    def forget(self, query_id: int) -> None:
        """No caption any more for a query that stands no more."""
        with self._lock:  # guards _captions
            self._captions.pop(query_id, None)

    def publish_queries(
        self,
        standing: Sequence[StandingQuery],
        states: Mapping[int, QueryState],
        now_s: float,
        *,
        default_rate_hz: float,
        is_active: bool,
        model: ModelFacts | None,
    ) -> None:
        """Tell what is being asked, also to those who come later; see `queries_payload`."""
        payload = queries_payload(
            standing,
            states,
            now_s,
            default_rate_hz=default_rate_hz,
            is_active=is_active,
            engine=model.name if model is not None else "",
            skills=model.skills if model is not None else (),
        )
        self._queries.publish(String(data=payload_json(payload)))


def _caption(answer: Answer) -> str:
    """What a picture cannot show as points: a count, an absence, words."""
    if answer.count is not None and answer.query.kind is QueryKind.COUNT:
        return f"{answer.query.words}: {answer.count}"
    if answer.none:
        return f"{answer.query.words}: none"
    return answer.text[:_MOST_CAPTION] if answer.query.kind.is_in_words else ""
