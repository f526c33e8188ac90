"""How fast the nodes are: from a camera's frame to ~/points and ~/answer, and images on their way.

    python benchmarks/bench_nodes.py [--seconds 20] [--json]

Starts camera_node and grounding_node as processes on a ROS domain of their own, on the simulated
table and on a VGA film at 15 Hz, asked what the demonstration asks. Ages are from the stamp of the
frame to the moment at which the message arrives here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:1] + os.environ.get("PYTHONPATH", "").split())
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

import rclpy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, PointCloud2  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from benchmarks.report import publish, spread  # noqa: E402
from molmo2_ros.ros import qos  # noqa: E402
from molmo2_ros.ros.demo_process import DemoProcess, ros_arguments  # noqa: E402
from molmo2_ros.ros.images import stamp_ns_of  # noqa: E402
from molmo2_ros.simulation import TABLE_QUERIES  # noqa: E402
from molmo2_ros.simulation.source import TableSource  # noqa: E402

TOPICS = ("points", "tracks")  # ~/tracks comes once for each answer
QUIET_S = 120.0  # for the first message of a node that starts


def main() -> None:
    """Measure and print the table, or the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    wanted = parser.parse_args()
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    rclpy.init(args=[])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = _film_of_the_table(folder / "table.avi", 640, 480, 15, num_frames=75)
        for case, source in (("table", "table"), ("vga", str(film))):
            ages_ms = _ages(folder, source, wanted.seconds)
            rows += [
                spread(f"{case}, frame to ~/{topic}", ages_ms[topic], "ms") for topic in TOPICS
            ]
            for topic in TOPICS:
                rate_hz = len(ages_ms[topic]) / wanted.seconds
                figures[f"{topic}_per_second_{case}"] = round(rate_hz, 1)
        figures.update(_transport(folder, wanted.seconds))
    rclpy.shutdown()
    publish(
        "nodes",
        rows,
        packages=("numpy", "opencv-python-headless", "onnxruntime", "ros-rclpy"),
        settings={
            "seconds": wanted.seconds,
            "queries": TABLE_QUERIES,
            "table": "320x240, 15 Hz, depth",
            "vga": "640x480, 15 Hz",
        },
        figures=figures,
        equality={},
        as_json=wanted.json,
    )


def _ages(folder: Path, source: str, seconds: float) -> dict[str, list[float]]:
    """Milliseconds from a frame's stamp to each message about it that came in some seconds."""
    node = Node("bench")
    ages_ms: dict[str, list[float]] = {topic: [] for topic in TOPICS}

    def listen(topic: str) -> None:
        def on_message(message: PointCloud2) -> None:
            ages_ms[topic].append((time.time_ns() - stamp_ns_of(message)) / 1e6)

        node.create_subscription(PointCloud2, f"grounding/{topic}", on_message, qos.result_qos())

    for topic in TOPICS:
        listen(topic)
    # What the demonstration listens to besides: it costs the node its time.
    for topic, kind in (("answer", String), ("overlay/compressed", CompressedImage)):
        node.create_subscription(kind, f"grounding/{topic}", lambda _: None, qos.result_qos())
    processes = [
        DemoProcess("camera_node", ros_arguments(source=source), folder),
        DemoProcess("grounding_node", ros_arguments(queries=list(TABLE_QUERIES)), folder),
    ]
    try:
        spin(node, 0.0, lambda: len(ages_ms["tracks"]) > 3)
        for ages in ages_ms.values():
            ages.clear()
        spin(node, seconds, lambda: True)
    finally:
        for process in processes:
            process.end()
        node.destroy_node()
    return ages_ms


def frame_to_answer(
    query: str, rate_hz: float, seconds: float, threads: int
) -> tuple[list[float], float, float]:
    """One query, asked at a rate about a film of the simulated table at 30 Hz.

    Args:
        query: as on ~/query.
        rate_hz: answers a second that are wished.
        seconds: of measuring.
        threads: of the engine.

    Returns:
        milliseconds from the stamp of a frame to the arrival of the whole answer about a clip that
        ends with it; seconds of CPU that the grounding node used in one second; its resident memory
        in MB.
    """
    ages_ms: list[float] = []

    def on_answer(message: String) -> None:
        answer = json.loads(message.data)
        if not answer["partial"]:
            stamp = answer["stamp"]
            stamp_ns = stamp["sec"] * 1_000_000_000 + stamp["nanosec"]
            ages_ms.append((time.time_ns() - stamp_ns) / 1e6)

    rclpy.init(args=[])
    node = Node("bench")
    node.create_subscription(String, "grounding/answer", on_answer, qos.result_qos())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = _film_of_the_table(folder / "table.avi", 320, 240, 30, num_frames=300)
        grounding = DemoProcess(
            "grounding_node",
            ros_arguments(queries=[query], answer_rate_hz=rate_hz, threads=threads),
            folder,
        )
        camera = DemoProcess("camera_node", ros_arguments(source=str(film), rate_hz=30.0), folder)
        try:
            spin(node, 3.0, lambda: len(ages_ms) > 3)
            ages_ms.clear()
            cpu_s = cpu_seconds(grounding.pid)
            spin(node, seconds, lambda: True)
            cpu_share = (cpu_seconds(grounding.pid) - cpu_s) / seconds
            resident_mb = _resident_mb(grounding.pid)
        finally:
            camera.end()
            grounding.end()
            node.destroy_node()
            rclpy.shutdown()
    return ages_ms, cpu_share, resident_mb


def _film_of_the_table(
    path: Path, width: int, height: int, rate_hz: int, *, num_frames: int
) -> Path:
    """Drawn beforehand, so that drawing takes no time from the nodes."""
    source = TableSource(seed=2, width=width, height=height, rate_hz=rate_hz)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate_hz, (width, height))
    for _ in range(num_frames):
        writer.write(cv2.cvtColor(source.read().image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU that a process has used, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system time


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _transport(folder: Path, seconds: float) -> dict[str, float]:
    """Share of 1280x720 rgb8 at 20 Hz that arrives, with and without the shared-memory profile."""
    film = folder / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 20, (1280, 720))
    for level in range(20):
        writer.write(np.full((720, 1280, 3), 10 * level, np.uint8))
    writer.release()
    arrived = {}
    for shared, name in (("1", "with_profile"), ("0", "without_profile")):
        os.environ["MOLMO2_ROS_SHARED_MEMORY"] = shared
        stamps: list[int] = []
        node = Node("bench")
        node.create_subscription(
            Image,
            "image",
            lambda message, stamps=stamps: stamps.append(stamp_ns_of(message)),
            qos.image_qos("best_effort"),
        )
        camera = DemoProcess(
            "camera_node", ros_arguments(source=str(film), image_reliability="best_effort"), folder
        )
        try:
            spin(node, seconds / 2, lambda stamps=stamps: len(stamps) > 0)
        finally:
            camera.end()
            node.destroy_node()
        sent = round((stamps[-1] - stamps[0]) / 1e9 * 20) + 1 if stamps else 0
        arrived[f"images_arrived_{name}"] = round(len(stamps) / sent, 3) if sent else 0.0
    del os.environ["MOLMO2_ROS_SHARED_MEMORY"]
    return arrived


def spin(node: Node, seconds: float, begun: Callable[[], bool]) -> None:
    """Spin until `begun`, and then for some seconds."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    end = time.monotonic() + QUIET_S
    while not begun():
        executor.spin_once(timeout_sec=0.1)
        if time.monotonic() > end:
            raise SystemExit(f"nothing came in {QUIET_S:.0f} s; look at the nodes by hand")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)


if __name__ == "__main__":
    main()
