"""How old a camera's frame is when its points arrive over DDS, while the model is busy.

    python benchmarks/bench_points_latency.py [--seconds 30] [--json]

This process is the camera and the controller: it publishes VGA frames of the simulated table at
30 Hz and takes `~/points` from a grounding node in a process of its own, which answers its
questions without pause on one thread.

- Frame to points: from the image's arrival, when the call that publishes it returns and it lies in
  the node's shared memory, to the arrival of the points of the same stamp here.
- Sent to points: the same from before that call, so that the image's own way counts too.

The figures are those without depth; with depth, another 600 KB come before every image.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.bench_nodes import cpu_seconds, spin  # noqa: E402  isort: skip  (sets the ROS domain)

import rclpy  # noqa: E402
from rclpy.node import Node  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, PointCloud2  # noqa: E402

from benchmarks.report import publish, spread  # noqa: E402
from molmo2_ros.camera.frame import Frame  # noqa: E402
from molmo2_ros.ros import compat, images, qos  # noqa: E402
from molmo2_ros.ros.clouds import rows_of  # noqa: E402
from molmo2_ros.ros.demo_process import DemoProcess, ros_arguments  # noqa: E402
from molmo2_ros.simulation import TABLE_QUERIES  # noqa: E402
from molmo2_ros.simulation.source import TableSource  # noqa: E402

RATE_HZ = 30.0
WIDTH, HEIGHT = 640, 480
NUM_FRAMES = 24  # rendered beforehand, played there and back
FRAME_ID = "camera"
WARM_UP_S = 3.0


class Camera:
    """Publishes frames at their rate from a thread, and notes when each was sent and arrived."""

    def __init__(self, node: Node, frames: list[Frame], *, with_depth: bool) -> None:
        reliable = qos.image_qos("reliable")
        self._node, self._frames, self._with_depth = node, frames, with_depth
        self._info = node.create_publisher(CameraInfo, "camera_info", reliable)
        self._depth = node.create_publisher(Image, "depth", reliable)
        self._image = node.create_publisher(Image, "image", reliable)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self.sent_s: dict[int, float] = {}  # time.perf_counter() by stamp
        self.arrived_s: dict[int, float] = {}

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._ending.set()
        self._thread.join()

    def _play(self) -> None:
        due_s = time.perf_counter()
        number = 0
        while not self._ending.wait(max(0.0, due_s - time.perf_counter())):
            self._publish(self._frames[number % len(self._frames)])
            number += 1
            due_s += 1.0 / RATE_HZ

    def _publish(self, frame: Frame) -> None:
        stamp_ns = self._node.get_clock().now().nanoseconds
        at = (stamp_ns, FRAME_ID)
        message = images.image_message(frame.image, *at)
        self._info.publish(images.camera_info_message(frame.camera, frame.width, frame.height, *at))
        if self._with_depth and frame.depth_m is not None:
            self._depth.publish(images.depth_message(frame.depth_m, *at))
        self.sent_s[stamp_ns] = time.perf_counter()
        self._image.publish(message)
        self.arrived_s[stamp_ns] = time.perf_counter()


class Controller:
    """Takes the points and notes how long they were under way."""

    def __init__(self, node: Node, camera: Camera) -> None:
        self._camera = camera
        node.create_subscription(PointCloud2, "grounding/points", self._on_points, qos.result_qos())
        node.create_subscription(PointCloud2, "grounding/tracks", self._on_tracks, qos.result_qos())
        self.clear()

    def clear(self) -> None:
        """Begin to measure."""
        self.from_arrival_ms: list[float] = []
        self.from_sending_ms: list[float] = []
        self.num_targets: list[int] = []
        self.num_in_metres = 0
        self.num_answers = 0

    def _on_points(self, message: PointCloud2) -> None:
        now_s = time.perf_counter()
        rows, stamp_ns = rows_of(message), images.stamp_ns_of(message)
        # Points may be here before the call that published their image has returned.
        arrived_s = self._camera.arrived_s.get(stamp_ns, now_s)
        self.from_arrival_ms.append(1e3 * (now_s - arrived_s))
        self.from_sending_ms.append(1e3 * (now_s - self._camera.sent_s[stamp_ns]))
        self.num_targets.append(len(rows))
        self.num_in_metres += int(np.isfinite(rows["z"]).sum())

    def _on_tracks(self, message: PointCloud2) -> None:
        self.num_answers += 1


def measure(frames: list[Frame], seconds: float, *, with_depth: bool) -> list[dict[str, Any]]:
    """Rows of one run."""
    node = Node("bench")
    camera = Camera(node, frames, with_depth=with_depth)
    controller = Controller(node, camera)
    with tempfile.TemporaryDirectory() as folder:
        grounding = DemoProcess(
            "grounding_node",
            ros_arguments(queries=list(TABLE_QUERIES), threads=1, use_depth=with_depth),
            Path(folder),
        )
        try:
            camera.start()
            spin(node, WARM_UP_S, lambda: controller.num_answers > 3)
            controller.clear()
            num_sent, cpu_s = len(camera.sent_s), cpu_seconds(grounding.pid)
            spin(node, seconds, lambda: True)
            cpu_s = cpu_seconds(grounding.pid) - cpu_s
            num_sent = len(camera.sent_s) - num_sent
        finally:
            camera.stop()
            grounding.end()
            node.destroy_node()
    name = "with depth" if with_depth else "without depth"
    num_targets = controller.num_targets
    in_metres = controller.num_in_metres / max(1, sum(num_targets))
    return [
        spread(f"{name}: frame to points", controller.from_arrival_ms, "ms"),
        spread(f"{name}: sent to points", controller.from_sending_ms, "ms"),
        spread(f"{name}: targets a frame", num_targets, "targets"),
        spread(f"{name}: frames with points", [len(num_targets) / num_sent], "share"),
        spread(f"{name}: targets with metres", [in_metres], "share"),
        spread(f"{name}: answers meanwhile", [controller.num_answers / seconds], "Hz"),
        spread(f"{name}: CPU of the grounding node", [100 * cpu_s / seconds], "% of a core"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of measuring, each case")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    source = TableSource(seed=2, width=WIDTH, height=HEIGHT, rate_hz=RATE_HZ)
    frames = [source.read() for _ in range(NUM_FRAMES)]
    frames += frames[-2:0:-1]
    compat.offer_shared_memory()
    rclpy.init(args=[])
    rows = measure(frames, options.seconds, with_depth=False)
    rows += measure(frames, options.seconds, with_depth=True)
    rclpy.shutdown()
    by_case = {row["case"]: row for row in rows}
    plain, deep = (by_case[f"{n} depth: frame to points"] for n in ("without", "with"))
    publish(
        "points_latency",
        rows,
        packages=("numpy", "opencv-python-headless", "onnxruntime", "ros-rclpy"),
        settings={
            "seconds": options.seconds,
            "queries": TABLE_QUERIES,
            "camera": f"{WIDTH}x{HEIGHT} rgb8, {RATE_HZ:g} Hz",
        },
        figures={
            "frame_to_points_ms_median": plain["median"],
            "frame_to_points_ms_p99": plain["p99"],
            "frame_to_points_with_depth_ms_median": deep["median"],
            "frame_to_points_with_depth_ms_p99": deep["p99"],
        },
        equality={},
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
