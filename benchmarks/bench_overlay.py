"""What the overlay costs the grounding node: its CPU with somebody looking, and with nobody.

    python benchmarks/bench_overlay.py [--seconds 15] [--rounds 3] [--json]

This process is the camera, a simulated table at 30 Hz, and the one who looks. The grounding node
runs in a process of its own with four targets; its engine is asked twice a second, so that it does
not take up the cores. Looking and not looking take turns in one run; the share is the difference,
as the kernel counts the process's CPU time, its part of DDS included.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.bench_nodes import cpu_seconds, spin  # noqa: E402  isort: skip  (sets the ROS domain)

import rclpy  # noqa: E402
from rclpy.node import Node  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402

from benchmarks.bench_points_latency import (  # noqa: E402
    RATE_HZ,
    Camera,
    Controller,
)
from benchmarks.report import publish  # noqa: E402
from molmo2_ros.ros import compat, qos  # noqa: E402
from molmo2_ros.ros.demo_process import DemoProcess, ros_arguments  # noqa: E402
from molmo2_ros.simulation import TABLE_QUERIES  # noqa: E402
from molmo2_ros.simulation.source import TableSource  # noqa: E402

SIZES = {"720p": (1280, 720), "vga": (640, 480)}
NUM_FRAMES = 16
WARM_UP_S = 4.0
SETTLE_S = 1.0


def measure(size: str, seconds: float, rounds: int) -> dict[str, Any]:
    """A row: cores that the node uses with and without somebody looking."""
    width, height = SIZES[size]
    source = TableSource(seed=2, width=width, height=height, rate_hz=RATE_HZ)
    frames = [source.read() for _ in range(NUM_FRAMES)]
    node = Node("bench")
    camera = Camera(node, frames + frames[-2:0:-1], with_depth=False)
    controller = Controller(node, camera)
    num_seen = 0

    def see(_: CompressedImage) -> None:
        nonlocal num_seen
        num_seen += 1

    cores: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        arguments = ros_arguments(
            queries=list(TABLE_QUERIES), threads=1, use_depth=False, answer_rate_hz=0.5
        )
        grounding = DemoProcess("grounding_node", arguments, Path(folder))
        try:
            camera.start()
            spin(node, WARM_UP_S, lambda: controller.num_answers > 3)
            for _ in range(rounds):
                for is_watched in (False, True):
                    looking = is_watched and node.create_subscription(
                        CompressedImage, "grounding/overlay/compressed", see, qos.result_qos()
                    )
                    spin(node, SETTLE_S, lambda: True)
                    before_s = cpu_seconds(grounding.pid)
                    spin(node, seconds, lambda: True)
                    cores[is_watched].append((cpu_seconds(grounding.pid) - before_s) / seconds)
                    if looking:
                        node.destroy_subscription(looking)
        finally:
            camera.stop()
            grounding.end()
            node.destroy_node()
    share = median(on - off for off, on in zip(cores[False], cores[True], strict=True))
    return {
        "camera": f"{width}x{height}, {RATE_HZ:g} Hz",
        "cores_unwatched": round(median(cores[False]), 4),
        "cores_watched": round(median(cores[True]), 4),
        "share": round(share, 4),
        "pictures_a_second": round(num_seen / (rounds * (seconds + SETTLE_S)), 1),
        "targets": round(median(controller.num_targets or [0])),
        "size": size,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="of looking, and of not")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    compat.offer_shared_memory()
    rclpy.init(args=[])
    rows = [measure(size, options.seconds, options.rounds) for size in SIZES]
    rclpy.shutdown()
    publish(
        "overlay",
        rows,
        packages=("numpy", "opencv-python-headless", "ros-rclpy"),
        settings={"seconds": options.seconds, "rounds": options.rounds},
        figures={f"overlay_core_share_{row['size']}": row["share"] for row in rows},
        equality={},
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
