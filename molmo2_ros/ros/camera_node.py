"""The camera: a video file, images, a device or a simulated table as ROS image topics."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.playback import Playback, camera_from_fov
from molmo2_ros.camera.sources import FrameSource, open_source
from molmo2_ros.camera.stamp import stamp_json
from molmo2_ros.errors import ConfigError, Molmo2Error
from molmo2_ros.ros import compat, images, qos
from molmo2_ros.ros.diagnostics import ProblemLog, RateMeter, diagnostic_array, status
from molmo2_ros.ros.parameter_server import ParameterServer
from molmo2_ros.ros.parameters import CameraParameters
from molmo2_ros.ros.process import run_node
from molmo2_ros.ros.timers import steady_timer

TABLE = "table"
REACH = "reach"  # the table with the arm
_RETRY_S = 1.0  # between two attempts to open a source


class CameraNode(Node):
    """Publishes `image`, `camera_info` and, for the table, `depth` and `truth`.

    A source that cannot be opened or breaks is told of and tried again: a file may appear, a camera
    may be plugged in.

    Raises:
        ConfigError: a parameter given at start is wrong, or the table's packages are missing.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("camera", **node_arguments)
        self._server = ParameterServer(
            self,
            CameraParameters,
            check=lambda _: None,
            changed=lambda _before, _after: None,
            frozen=lambda: "it is read at start; start the node again with the new value",
        )
        wanted = self._server.snapshot
        self._closing = threading.Event()
        self._problems = ProblemLog(self.get_logger())
        self._frames = RateMeter()
        self._is_table = wanted.source in (TABLE, REACH)
        self._playback = Playback(
            self._open,
            now_ns=lambda: int(self.get_clock().now().nanoseconds),
            wait_s=lambda seconds: not self._closing.wait(seconds),
            rate_hz=wanted.rate_hz,
            is_device=wanted.source.startswith("/dev/") or wanted.source == REACH,
            can_skip=not self._is_table,
        )
        if self._is_table:
            self._playback.open()  # what it lacks does not come by waiting
        self._is_playing = False
        pictures = qos.image_qos(wanted.image_reliability)
        results = qos.result_qos()
        self._image = self.create_publisher(Image, "image", pictures)
        self._compressed = self.create_publisher(CompressedImage, "image/compressed", pictures)
        self._info = self.create_publisher(CameraInfo, "camera_info", results)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", results)
        if self._is_table:
            self._depth = self.create_publisher(Image, "depth", pictures)
            self._depth_info = self.create_publisher(CameraInfo, "depth/camera_info", results)
            self._truth = self.create_publisher(String, "truth", results)
        if wanted.source == REACH:
            # Imported on use: what plays a file needs no simulation.
            from molmo2_ros.ros.joint_port import JointPort
            from molmo2_ros.simulation.reach_camera import ReachCamera

            source = self._playback.source
            assert isinstance(source, ReachCamera)
            self._joints = JointPort(self, source, self._problems)
        steady_timer(self, wanted.diagnostics_period_s, self._publish_diagnostics)
        self._player = threading.Thread(target=self._play, name="player", daemon=True)

    def _open(self) -> FrameSource:
        wanted = self._server.snapshot
        if self._is_table:
            return _table(wanted, lambda: int(self.get_clock().now().nanoseconds))
        return open_source(wanted.source, rate_hz=wanted.rate_hz or None)

    @property
    def is_done(self) -> bool:
        """The source ended and was not to be looped."""
        return self._player.ident is not None and not self._player.is_alive()

    def start(self) -> None:
        """Begin to play."""
        self._player.start()

    def close(self) -> None:
        """Stop playing and release the source."""
        self._closing.set()
        if self._player.ident is not None:
            self._player.join(timeout=5.0)
        self._playback.close()

    def _play(self) -> None:
        while not self._closing.is_set():
            try:
                frame = self._playback.next_frame(loop=self._server.snapshot.loop)
                if frame is None:
                    return
                self._tell_playing()
                self._publish(frame)
                self._frames.tick()
            except Molmo2Error as error:
                self._problems.report("camera", error)
                self._is_playing = False
                self._playback.close()
                self._closing.wait(_RETRY_S)
            except Exception as error:
                if compat.is_shutting_down(error, self.context):
                    return
                raise

    def _tell_playing(self) -> None:
        if not self._is_playing:
            self._is_playing = True
            source, rate_hz = self._server.snapshot.source, self._playback.rate_hz
            if self._is_table:
                source += f" (drawn by {self._playback.source.drawn_by})"  # type: ignore[union-attr]
            self.get_logger().info(f"playing {source} at {rate_hz:g} Hz")

    def _publish(self, frame: Frame) -> None:
        wanted = self._server.snapshot
        stamp_ns, frame_id = frame.stamp_ns, wanted.frame_id
        size = (frame.width, frame.height)
        camera = frame.camera or camera_from_fov(*size, wanted.horizontal_fov_deg)
        info = images.camera_info_message(camera, *size, stamp_ns, frame_id)
        # camera_info and depth first: who pairs them with the image has them when it arrives.
        self._info.publish(info)
        if self._is_table and frame.depth_m is not None:
            self._depth_info.publish(info)
            self._depth.publish(images.depth_message(frame.depth_m, stamp_ns, frame_id))
        self._image.publish(images.image_message(frame.image, stamp_ns, frame_id, wanted.encoding))
        if wanted.publish_compressed:
            self._compressed.publish(
                images.jpeg_message(frame.image, stamp_ns, frame_id, wanted.jpeg_quality)
            )
        if self._is_table:
            truth = {
                "stamp": stamp_json(stamp_ns),
                "frame_id": frame_id,
                "objects": self._playback.source.truth(),  # type: ignore[union-attr]
            }
            self._truth.publish(String(data=json.dumps(truth)))

    def _publish_diagnostics(self) -> None:
        wanted = self._server.snapshot
        rate_hz = self._frames.rate_hz
        slow = rate_hz and rate_hz < 0.7 * self._playback.rate_hz
        line = status(
            f"{self.get_name()}: source",
            wanted.source,
            {
                "frames": self._frames.count,
                "rate_hz": rate_hz,
                "wanted_rate_hz": self._playback.rate_hz,
                "frames_skipped": self._playback.num_skipped,
                "passes": self._playback.num_passes,
                **{f"problems_{kind}": n for kind, n in self._problems.counts.items()},
            },
            error=self._problems.recent("camera") or self._problems.recent("joints"),
            warning="frames come slower than wanted: the machine or the source is too slow"
            if slow
            else "",
            message="playing",
        )
        now_ns = self.get_clock().now().nanoseconds
        self._diagnostics.publish(diagnostic_array([line], now_ns))


def _table(wanted: CameraParameters, now_ns: Callable[[], int]) -> FrameSource:
    try:
        if wanted.source == REACH:
            from molmo2_ros.simulation.reach_camera import open_reach_camera

            return open_reach_camera(
                wanted.reach_object,
                seed=wanted.table_seed,
                belt_speed=wanted.belt_speed,
                width=wanted.table_width,
                height=wanted.table_height,
                rate_hz=wanted.rate_hz or 10.0,
                renderer=wanted.table_renderer,
                now_ns=now_ns,
            )
        from molmo2_ros.simulation.source import TableSource

        return TableSource(
            width=wanted.table_width,
            height=wanted.table_height,
            seed=wanted.table_seed,
            rate_hz=wanted.rate_hz or 15.0,
            renderer=wanted.table_renderer,
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"source is {wanted.source}, which needs the package {error.name}, and it is not "
            "installed; pip install 'molmo2_ros[simulation]', or give source:= a video file or "
            "/dev/videoN"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"source is {wanted.source}, and its {error}; give another rate_hz"
        ) from error


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable `camera_node`."""
    return run_node(CameraNode, args, shares_memory=True)


if __name__ == "__main__":
    raise SystemExit(main())
