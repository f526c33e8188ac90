"""The grounding node: images in, questions in; points, tracks and answers out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from molmo2_ros.answer_json import queries_json
from molmo2_ros.camera.clip import ClipBuffer
from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import ConfigError, EngineError, Molmo2Error, QueryError, ServerError
from molmo2_ros.opening import Model, facts_of, grounder_of, open_model
from molmo2_ros.prompt.query import Query, parse_query
from molmo2_ros.query_commands import apply_text
from molmo2_ros.remote.address import is_url
from molmo2_ros.remote.grounder import refuse_constrained
from molmo2_ros.remote.server import RemoteServer, RemoteSettings
from molmo2_ros.ros import compat, qos
from molmo2_ros.ros.answering import Answering
from molmo2_ros.ros.carrying import Carrying
from molmo2_ros.ros.diagnostics import ProblemLog, diagnostic_array
from molmo2_ros.ros.frames import FrameAssembler
from molmo2_ros.ros.grounding_status import grounding_statuses
from molmo2_ros.ros.parameter_server import ParameterServer
from molmo2_ros.ros.parameters import GroundingParameters
from molmo2_ros.ros.process import run_node
from molmo2_ros.ros.process_meter import ProcessMeter
from molmo2_ros.ros.results import Results
from molmo2_ros.ros.target_frame import TargetFrame, TfTransforms
from molmo2_ros.runtime.engine import Engine, load_engine
from molmo2_ros.runtime.self_test import SelfTest, prove
from molmo2_ros.standing import StandingQueries, StandingQuery, parse_standing
from molmo2_ros.tracking.tracker import Tracker

if TYPE_CHECKING:
    from molmo2_ros.ros.web_beside import WebBeside

_QUERIES_PERIOD_S = 1.0
_CLIP_FPS = 8.0  # the densest that tracking reads; what lies between is not kept
_ANSWER_PATIENCE_S = 5.0  # an answer may take so long and still be carried to now


class GroundingNode(LifecycleNode):
    """Callbacks stamp, check and store; one worker follows the camera, one owns the engine.

    Configure loads the engine, activate subscribes, deactivate frees the queues, cleanup lets the
    engine go. Diagnostics are published in every state.

    Args:
        load: loads an engine from a folder, None for the shipped one.

    Raises:
        ConfigError: a parameter given at start has another type or is out of range.
    """

    def __init__(self, *, load: Callable[..., Engine] = load_engine, **node_arguments: Any) -> None:
        super().__init__("grounding", **node_arguments)
        compat.refuse_invalid_transitions(self)
        self._load = load
        self._problems = ProblemLog(self.get_logger())
        self._process = ProcessMeter()
        self._server = ParameterServer(
            self,
            GroundingParameters,
            check=self._check_parameters,
            changed=self._on_parameters,
            frozen=self._why_frozen,
        )
        parameters = self._server.snapshot
        self._queries = StandingQueries(parameters.max_queries)
        self._results = Results(self)
        self._engine: Model | None = None
        self._self_test: SelfTest | None = None
        self._carrying: Carrying | None = None
        self._answering: Answering | None = None
        self._target_frame: TargetFrame | None = None
        self._web: WebBeside | None = None
        self._subscriptions_of_active: list[Any] = []
        # As fast as life, also where use_sim_time slows the node's own clock.
        self._expiry_timer = self.create_timer(
            _QUERIES_PERIOD_S, self._expire_queries, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._take_queries(parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.result_qos())
        self._diagnostics_timer = self.create_timer(
            parameters.diagnostics_period_s, self._publish_diagnostics
        )
        self.create_timer(_QUERIES_PERIOD_S, self._publish_queries)
        self.create_subscription(String, "~/query", self._on_query, qos.result_qos())
        self.create_subscription(String, "~/ask", self._on_ask, qos.result_qos())

    is_done = False

    def start(self) -> None:
        """Serve the page if wanted; configure and activate, unless that is a client's to do."""
        if self._server.snapshot.web:
            self._serve_page()
        if self._server.snapshot.autostart and compat.transition(self, "configure"):
            compat.transition(self, "activate")

    def close(self) -> None:
        """End the page and the workers."""
        if self._web is not None:
            self._web.close()
        self._stop_workers()

    def _serve_page(self) -> None:
        from molmo2_ros.ros.web_beside import WebBeside  # needs an extra, so only on use

        try:
            self._web = WebBeside(self, self._server.snapshot)
            self._web.start()
        except ConfigError as error:
            self._problems.report("web", error)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and prove the engine; one that fails leaves the node unconfigured, and running.

        A server that cannot be reached does not fail: it is asked again once the node is active.
        """
        parameters = self._server.snapshot
        begun = time.monotonic()
        try:
            engine = open_model(
                parameters.engine,
                threads=parameters.threads or None,
                device=parameters.device,
                rebuild=parameters.rebuild_plans,
                self_test="off",
                remote=remote_settings(parameters),
                constrained=parameters.constrained,
                load=self._load,
            )
            # A runtime with a faulty kernel loads, and then points at nothing.
            self._self_test = (
                None if isinstance(engine, RemoteServer) else prove(engine, parameters.self_test)
            )
        except Molmo2Error as error:
            self._problems.report("engine", error)
            return TransitionCallbackReturn.FAILURE
        self._engine = engine
        self._problems.clear("engine")
        if isinstance(engine, RemoteServer):
            self._reach(engine)
        model = facts_of(engine)
        self.get_logger().info(
            f"engine {model.name} loaded in {time.monotonic() - begun:.1f} s, runs on "
            f"{engine.device}; it can: {', '.join(model.skills)}"
        )
        return TransitionCallbackReturn.SUCCESS

    def _reach(self, server: RemoteServer) -> None:
        try:
            server.connect()
        except ServerError as error:
            self._problems.report("answer", error)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and begin to answer."""
        assert self._engine is not None
        parameters = self._server.snapshot
        result = super().on_activate(state)
        frames = FrameAssembler(self._problems)
        clip = ClipBuffer(
            parameters.clip_duration_s, parameters.clip_max_frames, keep_fps=_CLIP_FPS
        )
        shared: dict[str, Any] = {
            "clip": clip,
            "tracker": Tracker(buffer_s=parameters.clip_duration_s + _ANSWER_PATIENCE_S),
            "results": self._results,
            "parameters": lambda: self._server.snapshot,
            "problems": self._problems,
            "context": self.context,
        }
        target_frame = self._make_target_frame(parameters.target_frame)
        answering = Answering(grounder=grounder_of(self._engine), queries=self._queries, **shared)
        carrying = Carrying(
            frames=frames, on_frame=answering.on_frame, place=target_frame.put, **shared
        )
        self._answering, self._carrying = answering, carrying
        self._target_frame = target_frame
        self._subscribe(frames, carrying, parameters)
        target_frame.start()
        carrying.start()
        answering.start()
        self._publish_queries()
        self.get_logger().info(
            f"active: {len(self._queries.all(time.monotonic()))} standing queries"
        )
        return result

    def _make_target_frame(self, frame_id: str) -> TargetFrame:
        tf2_ros = compat.tf2_ros() if frame_id else None
        return TargetFrame(
            frame_id,
            None if tf2_ros is None else TfTransforms(self, tf2_ros),
            publish=self._results.publish_places,
            problems=self._problems,
            context=self.context,
        )

    def _subscribe(
        self, frames: FrameAssembler, carrying: Carrying, parameters: GroundingParameters
    ) -> None:
        is_raw = parameters.image_transport == "raw"
        wanted: list[tuple[Any, str, Callable[[Any], None]]] = [
            (Image, "image", carrying.mailbox.put)
            if is_raw
            else (CompressedImage, "image/compressed", carrying.mailbox.put),
            (CameraInfo, "camera_info", frames.on_camera_info),
        ]
        if parameters.use_depth:
            wanted.append((Image, "depth", frames.on_depth))
            wanted.append((CameraInfo, "depth/camera_info", frames.on_depth_info))
        pictures = qos.image_qos(parameters.image_reliability)
        self._subscriptions_of_active = [
            compat.subscribe(
                self, kind, topic, callback, pictures, carrying.on_lost if index == 0 else None
            )
            for index, (kind, topic, callback) in enumerate(wanted)
        ]

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, let the queues go, and stop answering."""
        for subscription in self._subscriptions_of_active:
            self.destroy_subscription(subscription)
        self._subscriptions_of_active = []
        self._stop_workers()
        self._publish_queries()
        self.get_logger().info("inactive")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the engine go."""
        self._engine = None
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End everything, from whatever state."""
        self._stop_workers()
        self._engine = None
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a bug in a transition: end everything, so that configuring begins anew."""
        self._stop_workers()
        self._engine = None
        return TransitionCallbackReturn.SUCCESS

    def _stop_workers(self) -> None:
        carrying, self._carrying = self._carrying, None
        answering, self._answering = self._answering, None
        target_frame, self._target_frame = self._target_frame, None
        if carrying is not None:
            carrying.stop()
        if target_frame is not None:
            target_frame.stop()
        if answering is not None and not answering.stop():
            self._problems.report(
                "engine",
                EngineError(
                    "the engine did not end its answer in time; it will with its next token, until "
                    "then the machine is busier than it looks"
                ),
            )

    def _why_frozen(self) -> str:
        if self._engine is None:
            return ""
        return (
            "it is read when the node is configured; deactivate and clean up first (ros2 lifecycle "
            f"set {self.get_fully_qualified_name()} deactivate, then cleanup)"
        )

    def _check_parameters(self, after: GroundingParameters) -> None:
        """Refuse a list of queries that could not stand, and what a server cannot do."""
        refuse_constrained(after.constrained and is_url(after.engine))
        if after.queries == self._server.snapshot.queries:
            return
        queries = parse_standing(after.queries)
        if len(queries) > after.max_queries:
            raise QueryError(
                f"{len(queries)} queries, expected at most max_queries = {after.max_queries}; "
                "raise it or ask less"
            )
        for query in queries:
            self._check_query(query)

    def _on_parameters(self, before: GroundingParameters, after: GroundingParameters) -> None:
        self._queries.max_queries = after.max_queries
        if before.diagnostics_period_s != after.diagnostics_period_s:
            self._diagnostics_timer.timer_period_ns = round(after.diagnostics_period_s * NS_PER_S)
            self._diagnostics_timer.reset()  # else the old period runs out first
        if before.queries != after.queries:
            self._take_queries(after)
            self._publish_queries()

    def _take_queries(self, parameters: GroundingParameters) -> None:
        """Let the queries of the parameter stand; a bad list given at start is reported instead."""
        try:
            queries = parse_standing(parameters.queries)
            gone = self._queries.replace_parameter(queries, time.monotonic())
        except Molmo2Error as error:
            self._problems.report("query", error)
        else:
            self._queries_changed(gone)

    def _on_query(self, message: String) -> None:
        try:
            gone = apply_text(self._queries, message.data, time.monotonic(), self._check_query)
        except Molmo2Error as error:
            self._problems.report("query", error)
        else:
            self._queries_changed(gone)
            self._publish_queries()

    def _check_query(self, query: Query) -> None:
        if self._answering is not None:
            self._answering.check(query)

    def _on_ask(self, message: String) -> None:
        try:
            query = parse_query(message.data, default_name="ask")
            if self._answering is None:
                raise QueryError(
                    f"question {message.data[:60]!r} came while the node is not active, expected "
                    "an active node; activate it (ros2 lifecycle set ... activate) and ask again"
                )
            self._answering.ask(query)
        except Molmo2Error as error:
            self._problems.report("query", error)

    def _queries_changed(self, gone: list[StandingQuery]) -> None:
        """Let go what stands no more, and wake up when the next one's time is over."""
        if self._answering is not None:
            self._answering.queries_changed(gone)
        expiry_s = self._queries.next_expiry_s
        self._expiry_timer.cancel()
        if expiry_s is not None:
            left_s = max(expiry_s - time.monotonic(), 0.001)
            self._expiry_timer.timer_period_ns = round(left_s * NS_PER_S)
            self._expiry_timer.reset()

    def _expire_queries(self) -> None:
        gone = self._queries.expire(time.monotonic())
        self._queries_changed(gone)
        if gone:
            self._publish_queries()

    def _publish_queries(self) -> None:
        model = facts_of(self._engine) if self._engine is not None else None
        answering = self._answering
        now_s = time.monotonic()
        self._results.publish_queries(
            queries_json(
                self._queries.all(now_s),
                answering.states if answering is not None else {},
                now_s,
                default_rate_hz=self._server.snapshot.answer_rate_hz,
                is_active=answering is not None,
                engine=model.name if model is not None else "",
                skills=model.skills if model is not None else (),
            )
        )

    def _publish_diagnostics(self) -> None:
        statuses = grounding_statuses(
            self.get_name(),
            parameters=self._server.snapshot,
            engine=self._engine,
            self_test=self._self_test,
            carrying=self._carrying,
            answering=self._answering,
            queries=self._queries.all(time.monotonic()),
            results=self._results,
            problems=self._problems,
            process=self._process,
        )
        now_ns = self.get_clock().now().nanoseconds
        self._diagnostics.publish(diagnostic_array(statuses, now_ns))


def remote_settings(parameters: GroundingParameters) -> RemoteSettings:
    """How a server is asked where the engine is one."""
    return RemoteSettings(
        model=parameters.remote_model,
        jpeg_quality=parameters.remote_jpeg_quality,
        frame_size=parameters.remote_frame_size,
        first_token_timeout_s=parameters.remote_timeout_s,
        token_timeout_s=parameters.remote_stall_s,
        max_requests=parameters.remote_max_requests,
    )


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable `grounding_node`."""
    # Small pictures: OpenCV's threads would wait for cores that the engine has, and burn the rest.
    cv2.setNumThreads(1)
    return run_node(GroundingNode, args, shares_memory=False)


if __name__ == "__main__":
    raise SystemExit(main())
