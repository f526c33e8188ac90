"""One camera of the grounding node: its topics, what stands about it, what carries its points."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from molmo2_ros.answer_loop import ANSWER_PATIENCE_S, AnswerLoop, AnswerSink, AskedCamera
from molmo2_ros.asking import ModelFacts
from molmo2_ros.camera.clip import ClipBuffer
from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import ConfigError, Molmo2Error, QueryError
from molmo2_ros.prompt.query import Query, parse_query
from molmo2_ros.query_commands import apply_text
from molmo2_ros.ros import compat, qos
from molmo2_ros.ros.carrying import Carrying
from molmo2_ros.ros.diagnostics import ProblemLog
from molmo2_ros.ros.frames import FrameAssembler
from molmo2_ros.ros.parameters import GroundedCameraParameters, GroundingParameters
from molmo2_ros.ros.results import Results
from molmo2_ros.ros.target_frame import TargetFrame, TransformSource
from molmo2_ros.ros.timers import steady_timer
from molmo2_ros.ros.topics import NodeTopics
from molmo2_ros.standing import StandingQueries, StandingQuery, parse_standing
from molmo2_ros.tracking.tracker import Tracker

MAX_CAMERAS = 16
_CLIP_FPS = 8.0  # the densest that tracking reads; what lies between is not kept
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_FAR_S = 86400.0


def camera_names(names: Sequence[str]) -> tuple[str, ...]:
    """Read the parameter `cameras`; one empty string stands for a camera without a name.

    Raises:
        ConfigError: a name is no word, two are alike, or there are too many or none.
    """
    if list(names) == [""]:
        return ("",)
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"parameter cameras names {name!r}, expected words of letters, digits and "
                "underscores that begin with a letter: each is a part of topic names"
            )
    if not 1 <= len(names) <= MAX_CAMERAS or len(set(names)) < len(names):
        raise ConfigError(
            f"parameter cameras is {list(names)}, expected 1 to {MAX_CAMERAS} names, each once; "
            "leave it at one empty string for a single camera"
        )
    return tuple(names)


def of_camera(
    node: GroundingParameters, camera: GroundedCameraParameters | None
) -> GroundingParameters:
    """The node's parameters as they are for one camera.

    Args:
        node: those of the node.
        camera: what is said of the camera alone, None for the only one, which has no name.
    """
    if camera is None:
        return node
    queries = tuple(text for text in (*node.queries, *camera.queries) if text) or ("",)
    return replace(
        node,
        queries=queries,
        answer_rate_hz=camera.answer_rate_hz or node.answer_rate_hz,
        image_rotation=camera.image_rotation,
    )


def asked_camera(
    name: str,
    parameters: Callable[[], GroundingParameters],
    *,
    queries: StandingQueries,
    sink: AnswerSink,
    problems: ProblemLog,
) -> AskedCamera:
    """A camera as the loop asks about it, with an empty clip and no targets.

    Args:
        name: its own.
        parameters: of this camera, the newest snapshot.
        queries: that stand about it.
        sink: gets the answers.
        problems: takes note of what cannot be asked.
    """
    wanted = parameters()
    return AskedCamera(
        name=name,
        clip=ClipBuffer(
            wanted.clip_duration_s,
            wanted.clip_max_frames,
            keep_fps=_CLIP_FPS,
            max_bytes=round(wanted.clip_max_mb * 1e6),
        ),
        tracker=Tracker(buffer_s=wanted.clip_duration_s + ANSWER_PATIENCE_S),
        queries=queries,
        sink=sink,
        problems=problems,
        default_rate_hz=lambda: parameters().answer_rate_hz,
    )


class GroundedCamera:
    """Topics and standing queries live as long as the node; what follows the camera, while active.

    Args:
        node: where topics are.
        name: first part of the topics' names; "" for a node's only camera.
        parameters: of this camera, the newest snapshot.
        problems: takes note of what goes wrong with this camera.
        model: what the engine can be asked, None where none is loaded.
    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        *,
        parameters: Callable[[], GroundingParameters],
        problems: ProblemLog,
        model: Callable[[], ModelFacts | None],
    ) -> None:
        self.name = name
        self.problems = problems
        self._node = node
        self._parameters = parameters
        self._model = model
        topics = NodeTopics(node, name)
        self.results = Results(topics)
        self.queries = StandingQueries(parameters().max_queries)
        self.carrying: Carrying | None = None
        self.asked: AskedCamera | None = None
        self._loop: AnswerLoop | None = None
        self._target_frame: TargetFrame | None = None
        self._frames: FrameAssembler | None = None
        self._subscriptions: list[Any] = []
        self._expiry_timer = steady_timer(node, _FAR_S, self._expire_queries)
        self.take_queries()
        topics.listen("query", String, self._on_query, qos.result_qos())
        topics.listen("ask", String, self._on_ask, qos.result_qos())

    def topic(self, name: str) -> str:
        """A topic of the camera, before remapping: image, camera_info."""
        return f"{self.name}/{name}" if self.name else name

    @property
    def image_topic(self) -> str:
        """Where its pictures come from, before remapping."""
        is_raw = self._parameters().image_transport == "raw"
        return self.topic("image" if is_raw else "image/compressed")

    # ---- while the node is active

    def make_ready(self, transforms: TransformSource | None) -> AskedCamera:
        """Make what follows the camera.

        Args:
            transforms: None where target_frame is empty or tf2 is not installed.
        """
        parameters = self._parameters()
        self._frames = FrameAssembler(self.problems)
        self.asked = asked_camera(
            self.name,
            self._parameters,
            queries=self.queries,
            sink=self.results,
            problems=self.problems,
        )
        self._target_frame = TargetFrame(
            parameters.target_frame,
            transforms,
            publish=self.results.publish_places,
            problems=self.problems,
            context=self._node.context,
        )
        return self.asked

    def start(self, loop: AnswerLoop) -> None:
        """Subscribe to the camera, and follow it.

        Args:
            loop: answers about it.
        """
        assert self.asked is not None
        assert self._frames is not None
        assert self._target_frame is not None
        self._loop = loop
        self.carrying = Carrying(
            frames=self._frames,
            clip=self.asked.clip,
            tracker=self.asked.tracker,
            results=self.results,
            place=self._target_frame.put,
            parameters=self._parameters,
            problems=self.problems,
            on_frame=lambda frame: loop.on_frame(self.name, frame),
            context=self._node.context,
        )
        self._subscribe(self._frames, self.carrying)
        self._target_frame.start()
        self.carrying.start()

    def _subscribe(self, frames: FrameAssembler, carrying: Carrying) -> None:
        parameters = self._parameters()
        is_raw = parameters.image_transport == "raw"
        kind = Image if is_raw else CompressedImage
        wanted: list[tuple[Any, str, Callable[[Any], None]]] = [
            (kind, self.image_topic, carrying.mailbox.put),
            (CameraInfo, self.topic("camera_info"), frames.on_camera_info),
        ]
        if parameters.use_depth:
            wanted.append((Image, self.topic("depth"), frames.on_depth))
            wanted.append((CameraInfo, self.topic("depth/camera_info"), frames.on_depth_info))
        pictures = qos.image_qos(parameters.image_reliability)
        self._subscriptions = [
            compat.subscribe(
                self._node, kind, topic, callback, pictures, carrying.on_lost if not index else None
            )
            for index, (kind, topic, callback) in enumerate(wanted)
        ]

    def stop(self) -> None:
        """Unsubscribe, follow the camera no more, and let its frames go."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        carrying, self.carrying = self.carrying, None
        target_frame, self._target_frame = self._target_frame, None
        if carrying is not None:
            carrying.stop()
        if target_frame is not None:
            target_frame.stop()
        self._loop = self.asked = self._frames = None

    # ---- what is asked

    def take_queries(self) -> None:
        """Let the queries of the parameter stand; a bad list given at start is reported instead."""
        try:
            queries = parse_standing(self._parameters().asked)
            gone = self.queries.replace_parameter(queries, time.monotonic())
        except Molmo2Error as error:
            self.problems.report("query", error)
        else:
            self._queries_changed(gone)

    def check_queries(self, parameters: GroundingParameters) -> None:
        """Refuse a list of queries that could not stand.

        Raises:
            QueryError: one is malformed or cannot be answered, or there are too many; it names the
                camera where it has a name.
        """
        try:
            self._check_queries(parameters)
        except QueryError as error:
            if not self.name:
                raise
            raise QueryError(f"of camera {self.name}: {error}") from error

    def _check_queries(self, parameters: GroundingParameters) -> None:
        queries = parse_standing(parameters.asked)
        if len(queries) > parameters.max_queries:
            raise QueryError(
                f"{len(queries)} queries, expected at most max_queries = "
                f"{parameters.max_queries}; raise it or ask less"
            )
        for query in queries:
            self.check(query)

    def check(self, query: Query) -> None:
        """Refuse what the model cannot answer.

        Raises:
            QueryError: says what it can.
        """
        if self._loop is not None:
            self._loop.check(query)

    def _on_query(self, message: String) -> None:
        try:
            gone = apply_text(self.queries, message.data, time.monotonic(), self.check)
        except Molmo2Error as error:
            self.problems.report("query", error)
        else:
            self._queries_changed(gone)
            self.publish_queries()

    def _on_ask(self, message: String) -> None:
        try:
            query = parse_query(message.data, default_name="ask")
            if self._loop is None:
                raise QueryError(
                    f"question {message.data[:60]!r} came while the node is not active, expected "
                    "an active node; activate it (ros2 lifecycle set ... activate) and ask again"
                )
            self._loop.ask(self.name, query)
        except Molmo2Error as error:
            self.problems.report("query", error)

    def _queries_changed(self, gone: list[StandingQuery]) -> None:
        """Let go what stands no more, and wake up when the next one's time is over."""
        if self._loop is not None:
            self._loop.queries_changed(self.name, gone)
        expiry_s = self.queries.next_expiry_s
        self._expiry_timer.cancel()
        if expiry_s is not None:
            left_s = max(expiry_s - time.monotonic(), 0.001)
            self._expiry_timer.timer_period_ns = round(left_s * NS_PER_S)
            self._expiry_timer.reset()

    def _expire_queries(self) -> None:
        gone = self.queries.expire(time.monotonic())
        self._queries_changed(gone)
        if gone:
            self.publish_queries()

    def publish_queries(self) -> None:
        """Tell what is being asked."""
        loop, now_s = self._loop, time.monotonic()
        self.results.publish_queries(
            self.queries.all(now_s),
            {} if loop is None else loop.states(self.name),
            now_s,
            default_rate_hz=self._parameters().answer_rate_hz,
            is_active=loop is not None,
            model=self._model(),
        )
