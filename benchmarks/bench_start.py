"""How long the grounding node takes from its start to its first answer, and from SIGINT to its end.

    python benchmarks/bench_start.py [--starts 5] [--json]

This process is a camera that runs already, and the one who listens: a VGA table at 30 Hz. Each
start is a process of its own with the nano and a query by parameter; files are in the system's
cache after the first, which is not counted. Ends are by one SIGINT, and by two 2 ms and 50 ms
apart, while the node answers.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

import benchmarks.bench_nodes  # noqa: E402, F401  isort: skip  (sets the ROS domain)

import rclpy  # noqa: E402
from rclpy.node import Node  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from benchmarks.bench_points_latency import RATE_HZ, Camera  # noqa: E402
from benchmarks.report import publish  # noqa: E402
from molmo2_ros.ros import compat, qos  # noqa: E402
from molmo2_ros.ros.demo_process import ros_arguments  # noqa: E402
from molmo2_ros.simulation.source import TableSource  # noqa: E402

SIZE = (640, 480)
NUM_FRAMES = 8
PATIENCE_S = 60.0
ANSWERING_S = 1.0  # before it is interrupted
SHARED_MEMORY = Path("/dev/shm")
ENDS = {"one": (1, 0.0), "two, 2 ms apart": (2, 0.002), "two, 50 ms apart": (2, 0.05)}
_WRONG = re.compile(r"Traceback|\[ERROR\]|\[FATAL\]|terminate called|Error:")


class Listener(Node):
    """A camera, and the time of the first answer."""

    def __init__(self) -> None:
        super().__init__("bench_start")
        source = TableSource(seed=2, width=SIZE[0], height=SIZE[1], rate_hz=RATE_HZ)
        frames = [source.read() for _ in range(NUM_FRAMES)]
        self.camera = Camera(self, frames + frames[-2:0:-1], with_depth=False)
        self.answered_s: float | None = None
        self.create_subscription(String, "grounding/answer", self._on_answer, qos.result_qos())

    def _on_answer(self, _: String) -> None:
        if self.answered_s is None:
            self.answered_s = time.monotonic()


def start_and_end(listener: Listener, num_signals: int, apart_s: float) -> dict[str, Any]:
    """One life of the node.

    Returns:
        start_s, end_s, code, errors (lines of its output that tell of one), left (files in shared
            memory that are new and that nobody uses).

    Raises:
        RuntimeError: no answer came, or the node did not end.
    """
    listener.answered_s = None
    begun_s = time.monotonic()
    before = _shared_memory()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "molmo2_ros.ros.grounding_node",
            *ros_arguments(queries=["point: the red mug"]),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ,
    )
    try:
        while listener.answered_s is None:
            rclpy.spin_once(listener, timeout_sec=0.05)
            if process.poll() is not None or time.monotonic() - begun_s > PATIENCE_S:
                raise RuntimeError(f"no answer in {PATIENCE_S:.0f} s")
        start_s = listener.answered_s - begun_s
        answering_until_s = time.monotonic() + ANSWERING_S
        while time.monotonic() < answering_until_s:
            rclpy.spin_once(listener, timeout_sec=0.05)
        signalled_s = time.monotonic()
        for number in range(num_signals):
            if number:
                time.sleep(apart_s)
            process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
        end_s = time.monotonic() - signalled_s
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the node did not end in {PATIENCE_S:.0f} s") from error
    finally:
        process.kill()
    return {
        "start_s": start_s,
        "end_s": end_s,
        "code": process.returncode,
        "errors": sum(bool(_WRONG.search(line)) for line in output.splitlines()),
        "left": len(_shared_memory() - before - _in_use()),
    }


def _shared_memory() -> set[str]:
    """Names of what lies in shared memory."""
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def _in_use() -> set[str]:
    """Of these, what a process that lives has mapped."""
    names: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it ended meanwhile
            names |= {
                line.rpartition("/")[2]
                for line in maps.read_text().splitlines()
                if str(SHARED_MEMORY) in line
            }
    # The locks of a segment and of a port lie beside them.
    return names | {f"{name}_el" for name in names} | {f"sem.{name}_mutex" for name in names}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 where a life ended otherwise than well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=5, help="of each kind of end (5)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rclpy.init(args=[])
    listener = Listener()
    listener.camera.start()
    try:
        start_and_end(listener, 1, 0.0)  # fills the system's cache of files
        lives = {
            name: [start_and_end(listener, *how) for _ in range(options.starts)]
            for name, how in ENDS.items()
        }
    finally:
        listener.camera.stop()
        listener.destroy_node()
        compat.shut_down()
    rows = [
        {
            "case": f"SIGINT: {name}",
            "start_s": round(median(life["start_s"] for life in of_kind), 3),
            "start_s_most": round(max(life["start_s"] for life in of_kind), 3),
            "end_s": round(median(life["end_s"] for life in of_kind), 3),
            "end_s_most": round(max(life["end_s"] for life in of_kind), 3),
            "starts": len(of_kind),
        }
        for name, of_kind in lives.items()
    ]
    every = [life for of_kind in lives.values() for life in of_kind]
    figures = {
        "start_to_first_answer_s": round(median(life["start_s"] for life in every), 3),
        "sigint_to_exit_s": max(row["end_s_most"] for row in rows),
        "bad_exit_codes": sum(life["code"] != 0 for life in every),
        "error_lines": sum(life["errors"] for life in every),
        "left_in_shared_memory": sum(life["left"] for life in every),
    }
    publish(
        "bench_start",
        rows,
        packages=["onnxruntime", "numpy", "opencv-python-headless"],
        settings={"starts": options.starts, "size": SIZE, "rate_hz": RATE_HZ},
        figures=figures,
        equality={},
        as_json=options.json,
    )
    return int(any(figures[name] for name in ("bad_exit_codes", "error_lines")))


if __name__ == "__main__":
    raise SystemExit(main())
