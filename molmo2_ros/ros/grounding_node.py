"""The grounding node: images in, questions in; points, tracks and answers out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from molmo2_ros.answer_loop import AnswerLoop, AnswerTerms
from molmo2_ros.asking import ModelFacts
from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import ConfigError, EngineError, Molmo2Error, ServerError
from molmo2_ros.opening import Model, facts_of, grounder_of, open_model
from molmo2_ros.remote.address import is_url
from molmo2_ros.remote.grounder import refuse_constrained
from molmo2_ros.remote.server import RemoteServer, RemoteSettings
from molmo2_ros.ros import compat, heap, qos
from molmo2_ros.ros.diagnostics import ProblemLog, diagnostic_array
from molmo2_ros.ros.gpu_status import GpuStatus
from molmo2_ros.ros.grounded_camera import GroundedCamera, camera_names, of_camera
from molmo2_ros.ros.grounding_status import grounding_statuses
from molmo2_ros.ros.parameter_server import ParameterServer
from molmo2_ros.ros.parameters import GroundedCameraParameters, GroundingParameters
from molmo2_ros.ros.process import run_node
from molmo2_ros.ros.process_meter import ProcessMeter
from molmo2_ros.ros.target_frame import TfTransforms
from molmo2_ros.ros.timers import steady_timer
from molmo2_ros.ros.worker import Worker
from molmo2_ros.runtime.engine import Engine, load_engine
from molmo2_ros.runtime.self_test import SelfTest, prove
from molmo2_ros.tracking.identity import load_solver

if TYPE_CHECKING:
    from molmo2_ros.ros.web_beside import WebBeside

_QUERIES_PERIOD_S = 1.0
_STOP_PATIENCE_S = 30.0


class GroundingNode(LifecycleNode):
    """Callbacks stamp, check and store; a worker follows each camera, one owns the engine.

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
        self._gpus = GpuStatus()
        self._engine: Model | None = None
        self._self_test: SelfTest | None = None
        self._cameras: dict[str, GroundedCamera] = {}
        self._loop: AnswerLoop | None = None
        self._answering: Worker | None = None
        self._transforms: TfTransforms | None = None
        self._web: WebBeside | None = None
        self._server = ParameterServer(
            self,
            GroundingParameters,
            check=self._check_parameters,
            changed=self._on_parameters,
            frozen=self._why_frozen,
        )
        self._of_camera: dict[str, ParameterServer[GroundedCameraParameters]] = {}
        for name in camera_names(self._server.snapshot.cameras):
            if name:
                self._of_camera[name] = ParameterServer(
                    self,
                    GroundedCameraParameters,
                    check=partial(self._check_camera_parameters, name),
                    changed=partial(self._on_camera_parameters, name),
                    frozen=self._why_frozen,
                    prefix=f"{name}.",
                )
        self._cameras = {
            name: GroundedCamera(
                self,
                name,
                parameters=partial(self._parameters_of, name),
                problems=ProblemLog(self.get_logger(), name),
                model=self._model,
            )
            for name in (self._of_camera or ("",))
        }
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.result_qos())
        self._diagnostics_timer = steady_timer(
            self, self._server.snapshot.diagnostics_period_s, self._publish_diagnostics
        )
        steady_timer(self, _QUERIES_PERIOD_S, self._publish_queries)
        steady_timer(self, heap.PERIOD_S, heap.trim_heap)

    is_done = False

    def start(self) -> None:
        """Serve the page if wanted; configure and activate, unless that is a client's to do."""
        if self._server.snapshot.web:
            self._serve_page()
        if self._server.snapshot.autostart and compat.transition(self, "configure"):
            compat.transition(self, "activate")
        threading.Thread(target=load_solver, name="load solver", daemon=True).start()

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
        """Subscribe to the cameras and begin to answer."""
        assert self._engine is not None
        result = super().on_activate(state)
        tf2_ros = compat.tf2_ros() if self._server.snapshot.target_frame else None
        self._transforms = None if tf2_ros is None else TfTransforms(self, tf2_ros)
        loop = AnswerLoop(
            grounder=grounder_of(self._engine, num_cameras=len(self._cameras)),
            cameras=[camera.make_ready(self._transforms) for camera in self._cameras.values()],
            terms=self._answer_terms,
            problems=self._problems,
        )
        self._loop = loop
        self._answering = Worker("answer", loop.step, self._problems, self.context)
        for camera in self._cameras.values():
            camera.start(loop)
        self._answering.start()
        self._publish_queries()
        now_s = time.monotonic()
        num_queries = sum(len(camera.queries.all(now_s)) for camera in self._cameras.values())
        self.get_logger().info(f"active: {num_queries} standing queries")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, let the queues go, and stop answering."""
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
        loop, self._loop = self._loop, None
        answering, self._answering = self._answering, None
        transforms, self._transforms = self._transforms, None
        if loop is not None:
            loop.stop()  # so that it comes to its end while the cameras do
        for camera in self._cameras.values():
            camera.stop()
        if transforms is not None:
            transforms.close()
        if answering is not None and not answering.stop(_STOP_PATIENCE_S):
            self._problems.report(
                "engine",
                EngineError(
                    "the engine did not end its answer in time; it will with its next token, until "
                    "then the machine is busier than it looks"
                ),
            )

    # ---- parameters

    def _parameters_of(
        self, camera: str, node: GroundingParameters | None = None
    ) -> GroundingParameters:
        """A camera's parameters as they are, or as they would be with other ones of the node."""
        own = self._of_camera.get(camera)
        return of_camera(node or self._server.snapshot, None if own is None else own.snapshot)

    def _answer_terms(self) -> AnswerTerms:
        parameters = self._server.snapshot
        return AnswerTerms(
            deadline_s=parameters.answer_deadline_s, constrained=parameters.constrained
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
        before = self._server.snapshot
        if after.cameras != before.cameras:
            raise ConfigError(
                "parameter cameras cannot change while the node runs, as its topics are made of "
                "it; start the node again with the new names"
            )
        if after.asked != before.asked or after.max_queries < before.max_queries:
            for name, camera in self._cameras.items():
                camera.check_queries(self._parameters_of(name, after))

    def _check_camera_parameters(self, name: str, after: GroundedCameraParameters) -> None:
        """Refuse a list of queries that could not stand beside the node's."""
        if after.queries != self._of_camera[name].snapshot.queries:
            self._cameras[name].check_queries(of_camera(self._server.snapshot, after))

    def _on_parameters(self, before: GroundingParameters, after: GroundingParameters) -> None:
        if before.diagnostics_period_s != after.diagnostics_period_s:
            self._diagnostics_timer.timer_period_ns = round(after.diagnostics_period_s * NS_PER_S)
            self._diagnostics_timer.reset()  # else the old period runs out first
        for camera in self._cameras.values():
            camera.queries.max_queries = after.max_queries
            if before.asked != after.asked:
                camera.take_queries()
                camera.publish_queries()

    def _on_camera_parameters(
        self, name: str, before: GroundedCameraParameters, after: GroundedCameraParameters
    ) -> None:
        if before.queries != after.queries:
            self._cameras[name].take_queries()
            self._cameras[name].publish_queries()

    # ---- what is told each second

    def _model(self) -> ModelFacts | None:
        return None if self._engine is None else facts_of(self._engine)

    def _publish_queries(self) -> None:
        for camera in self._cameras.values():
            camera.publish_queries()

    def _publish_diagnostics(self) -> None:
        statuses = grounding_statuses(
            self.get_name(),
            parameters=self._server.snapshot,
            engine=self._engine,
            self_test=self._self_test,
            cameras=tuple(self._cameras.values()),
            loop=self._loop,
            problems=self._problems,
            process=self._process,
            gpus=self._gpus,
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
