"""What the nodes do with messages that nobody should send: crashes, hangs, refusals, memory.

    python benchmarks/fuzz.py [--messages 100000] [--seed 0] [--json]

Another process draws the messages (benchmarks/fuzz_messages.py) and writes them as CDR. Here the
real nodes, with the embedded engine, get them by their own callbacks, one at a time, so that each
can be judged: taken, or refused and then counted. A share of each kind goes to nodes in processes
of their own over DDS, a tenth of that as CDR with bytes altered; these must still work afterwards.
A crash is an exception that leaves a callback or ends a worker's turn as a bug; a hang is a message
that takes more than five seconds, or a node that does not end. Memory is this process's: of three
rounds of a node's messages, after the third against after the second.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import logging
import random
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.bench_nodes import spin  # noqa: E402  isort: skip  (sets the ROS domain)

import numpy as np  # noqa: E402
import rclpy  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from benchmarks.fuzz_messages import FRAME_ID, HEIGHT, STRATEGIES, WIDTH  # noqa: E402
from benchmarks.report import publish  # noqa: E402
from molmo2_ros.ros import images, qos  # noqa: E402
from molmo2_ros.ros.carrying import Carrying  # noqa: E402
from molmo2_ros.ros.demo_process import DemoProcess, ros_arguments  # noqa: E402
from molmo2_ros.ros.diagnostics import ProblemLog  # noqa: E402
from molmo2_ros.ros.grounded_camera import GroundedCamera  # noqa: E402
from molmo2_ros.ros.grounding_node import GroundingNode  # noqa: E402
from molmo2_ros.ros.recorder_node import RecorderNode  # noqa: E402
from molmo2_ros.ros.web_node import WebNode  # noqa: E402
from molmo2_ros.simulation.source import TableSource  # noqa: E402

HANG_S = 5.0
DDS_SHARE = 0.05
SHARES = {  # of all messages
    "image": 0.2,
    "compressed": 0.15,
    "depth": 0.1,
    "camera_info": 0.1,
    "query": 0.12,
    "ask": 0.08,
    "correction_json": 0.06,
    "correction": 0.05,
    "review": 0.05,
    "answer": 0.06,
    "points": 0.03,
}


class Bugs(logging.Handler):
    """What is logged with an exception: a turn of a worker, or of the page's loop, that broke."""

    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.found: list[str] = []
        for name in ("molmo2_ros", "asyncio"):
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the end of the traceback."""
        if record.exc_info:
            self.found.append("".join(traceback.format_exception(*record.exc_info)[-3:]))


class Fuzzed:
    """A node in this process, whose callbacks are called and whose refusals are counted.

    Args:
        node_class: of the node, which is made and started.
        wanted: its parameters.
        executor: gives its timers their turn.
        bugs: what its workers met.
        context: of the node.
    """

    def __init__(
        self,
        node_class: Any,
        wanted: dict[str, Any],
        executor: SingleThreadedExecutor,
        bugs: Bugs,
        context: Context | None,
    ) -> None:
        overrides = [Parameter(name, value=value) for name, value in wanted.items()]
        node = node_class(parameter_overrides=overrides, context=context)
        self.node = node
        self.bugs = bugs
        self._executor = executor
        executor.add_node(node)
        node.start()

    @property
    def num_counted(self) -> int:
        """Refusals that the node has counted so far."""
        return sum(count for log in self._logs() for count in log.counts.values())

    def _logs(self) -> list[ProblemLog]:
        return [self.node._problems]

    def turn(self) -> None:
        """Let timers and publishers have their turn."""
        self._executor.spin_once(timeout_sec=0.0)

    def close(self) -> None:
        """End the node."""
        self.node.close()
        self._executor.remove_node(self.node)
        self.node.destroy_node()


class FuzzedGrounding(Fuzzed):
    """The grounding node, which sees a true table between what is wrong."""

    kinds = ("image", "compressed", "depth", "camera_info", "query", "ask")

    def __init__(
        self,
        executor: SingleThreadedExecutor,
        bugs: Bugs,
        folder: Path,
        context: Context | None = None,
    ) -> None:
        wanted = {"queries": ["point: the red mug"], "answer_rate_hz": 1.0, "threads": 1}
        super().__init__(GroundingNode, wanted, executor, bugs, context)
        frame = TableSource(seed=0, width=WIDTH, height=HEIGHT, rate_hz=5.0).read()
        self._picture = images.image_message(frame.image, 1, FRAME_ID)
        self._optics = images.camera_info_message(frame.camera, WIDTH, HEIGHT, 1, FRAME_ID)
        self._depth = images.depth_message(frame.depth_m, 1, FRAME_ID)
        self._num_true = 0
        end = time.monotonic() + 30.0
        while not self._carrying.num_targets and time.monotonic() < end:
            self._see_the_table(self._depth)
            time.sleep(0.05)

    @property
    def _camera(self) -> GroundedCamera:
        return self.node._cameras[""]

    @property
    def _carrying(self) -> Carrying:
        return self._camera.carrying

    def _logs(self) -> list[ProblemLog]:
        return [self.node._problems, self._camera.problems]

    def hand(self, kind: str, message: Any) -> tuple[bool, bool]:
        """Give a message to the callback of its kind; whether it was taken, and told of if not."""
        before = self.num_counted
        if kind in ("image", "compressed"):
            is_taken = self._see(message)
        elif kind in ("depth", "camera_info"):
            return self._measure(kind, message)
        else:
            {"query": self._camera._on_query, "ask": self._camera._on_ask}[kind](message)
            is_taken = self.num_counted == before
        return is_taken, self.num_counted > before

    def _see(self, message: Any, *, is_true: bool = False) -> bool:
        """Put an image where the callback does; True once the worker has made a frame of it.

        What is wrong with the depth of a true one is counted before its frame, which is awaited.
        """
        carrying = self._carrying
        kept = carrying._clip._frames
        if kept and images.stamp_ns_of(message) == kept[-1].stamp_ns:
            message.header.stamp.nanosec ^= 1  # a repeated stamp is left out, and told nowhere

        def progress() -> int:
            num_refused = 0 if is_true else self.num_counted
            return int(carrying.frame_rate.count + num_refused + len(self.bugs.found))

        num_frames, before = carrying.frame_rate.count, progress()
        carrying.mailbox.put(message)
        end = time.monotonic() + 2 * HANG_S
        while progress() == before and time.monotonic() < end:
            time.sleep(0.0001)
        return bool(carrying.frame_rate.count > num_frames)

    def _see_the_table(self, depth: Image) -> bool:
        self._carrying._frames.on_depth(depth)
        self._picture.header.stamp = depth.header.stamp
        return self._see(self._picture, is_true=True)

    def _measure(self, kind: str, message: Any) -> tuple[bool, bool]:
        """Depth and optics are judged with the next image; what they lack is tallied with it."""
        frames, carrying = self._carrying._frames, self._carrying
        self._num_true += 1
        self._depth.header.stamp = images.time_message(self._num_true * 33_000_000)
        frames.on_camera_info(message if kind == "camera_info" else self._optics)
        before = self.num_counted
        if not self._see_the_table(message if kind == "depth" else self._depth):
            return False, self.num_counted > before
        causes = {obstacle.cause for obstacle in frames.obstacles}
        missing, end = set(causes), time.monotonic() + 1.0
        while missing and time.monotonic() < end:  # the tally is made just behind the frame
            missing -= set(carrying.metres.take().obstacles)
        return not causes, not missing


class FuzzedRecorder(Fuzzed):
    """The recorder, which has seen one picture of one camera."""

    kinds = ("correction_json", "correction", "review")

    def __init__(
        self,
        executor: SingleThreadedExecutor,
        bugs: Bugs,
        folder: Path,
        context: Context | None = None,
    ) -> None:
        wanted = {"folder": str(folder), "correction_query": "mug", "split_mb": 16.0}
        super().__init__(RecorderNode, wanted, executor, bugs, context)
        picture = images.image_message(np.zeros((24, 32, 3), np.uint8), 10**9, FRAME_ID)
        self.node._on_image(self.node._cameras[0], picture, True)

    def hand(self, kind: str, message: Any) -> tuple[bool, bool]:
        """Give a message to the callback of its kind; whether it was taken, and told of if not."""
        node, num_taken, before = self.node, self.node._num_corrections, self.num_counted
        callbacks = {
            "correction_json": node._on_json,
            "correction": node._on_point,
            "review": node._on_review,
        }
        callbacks[kind](message)
        is_counted = self.num_counted > before
        # A review may name a picture to keep, or no place at all: nothing is written then.
        is_taken = not is_counted if kind == "review" else node._num_corrections > num_taken
        return is_taken, is_counted


class FuzzedPage(Fuzzed):
    """The live page's node, which hears what grounding nodes tell."""

    kinds = ("answer", "points")

    def __init__(
        self,
        executor: SingleThreadedExecutor,
        bugs: Bugs,
        folder: Path,
        context: Context | None = None,
    ) -> None:
        super().__init__(WebNode, {"port": 0}, executor, bugs, context)
        self._heard = itertools.cycle(
            [self.node._on_answer, self.node._on_queries, lambda _, m: self.node._on_recorded(m)]
        )

    def hand(self, kind: str, message: Any) -> tuple[bool, bool]:
        """Give a message to a callback of its kind; whether it was taken, and told of if not."""
        before = self.num_counted
        name = self.node.nodes[0]
        (self.node._on_points if kind == "points" else next(self._heard))(name, message)
        is_counted = self.num_counted > before
        return not is_counted, is_counted


def drawn(kind: str, count: int, seed: int) -> Iterator[bytes]:
    """Messages of a kind as CDR, drawn by another process."""
    command = [sys.executable, str(Path(__file__).with_name("fuzz_messages.py")), kind]
    with subprocess.Popen([*command, str(count), str(seed)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while head := process.stdout.read(4):
            yield process.stdout.read(struct.unpack("<I", head)[0])
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")


def memory_mb(which: str) -> float:
    """Memory of this process: VmRSS for now, VmHWM for the most that it ever had."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{which}:")[1].split()[0]) * 1024 / 1e6


def fuzz_callbacks(
    kind: str, messages: Iterator[bytes], fuzzed: Any, told: Callable[[str], None]
) -> dict[str, Any]:
    """Hand messages to a node's callback; one row: what became of them."""
    message_type, _ = STRATEGIES[kind]
    row: Counter[str] = Counter()
    slowest_s = 0.0
    for number, data in enumerate(messages):
        message = deserialize_message(data, message_type)
        num_bugs = len(fuzzed.bugs.found)
        begun = time.monotonic()
        try:
            is_taken, is_counted = fuzzed.hand(kind, message)
            if number % 50 == 0:
                fuzzed.turn()
        except Exception:
            told(f"{kind}: {traceback.format_exc(limit=-3)}")
            row["crashes"] += 1
            continue
        took_s = time.monotonic() - begun
        slowest_s = max(slowest_s, took_s)
        row["hangs"] += took_s > HANG_S
        row["crashes"] += len(fuzzed.bugs.found) - num_bugs
        for text in fuzzed.bugs.found[num_bugs:]:
            told(f"{kind}, in a worker: {text}")
        row["messages"] += 1
        row["refused"] += not is_taken
        row["refused_counted"] += not is_taken and is_counted
    row["messages"] += row["crashes"]
    names = ("messages", "crashes", "hangs", "refused", "refused_counted")
    return {
        "case": kind,
        **{name: int(row[name]) for name in names},
        "slowest_ms": round(1e3 * slowest_s, 1),
    }


TOPICS = {
    "image": "image",
    "compressed": "compressed_camera/image/compressed",
    "depth": "depth",
    "camera_info": "camera_info",
    "query": "grounding/query",
    "ask": "grounding/ask",
    "correction_json": "recorder/correction_json",
    "correction": "recorder/correction",
    "review": "web/correction",
    "answer": "grounding/answer",
    "points": "grounding/points",
}


def altered(data: bytes, random_numbers: random.Random) -> bytes:
    """CDR with some bytes of its body changed, or its end cut off; the four of its head stay."""
    body = bytearray(data)
    for _ in range(random_numbers.randint(1, 8)):
        if len(body) > 4:
            body[random_numbers.randrange(4, len(body))] = random_numbers.randrange(256)
    cut = random_numbers.randrange(4, len(body) + 1) if random_numbers.random() < 0.3 else len(body)
    return bytes(body[:cut])


def fuzz_over_dds(
    counts: dict[str, int], seed: int, folder: Path, told: Callable[[str], None]
) -> dict[str, Any]:
    """Publish messages to nodes in processes of their own; one row: whether they still work."""
    node = Node("fuzz")
    heard: Counter[str] = Counter()

    def hear(message: DiagnosticArray) -> None:
        heard.update(line.name for line in message.status)

    node.create_subscription(DiagnosticArray, "/diagnostics", hear, qos.result_qos())
    publishers = {
        kind: node.create_publisher(STRATEGIES[kind][0], topic, qos.result_qos())
        for kind, topic in TOPICS.items()
    }
    processes = {
        name: DemoProcess(name, ros_arguments(**arguments), folder)
        for name, arguments in {
            "grounding_node": {"queries": ["point: the red mug"], "threads": 1},
            "recorder_node": {
                "folder": str(folder / "logs"),
                "image_topics": ["image"],
                "correction_query": "mug",
            },
            "web_node": {"port": 0},
        }.items()
    }
    row = {"case": "over DDS", "messages": 0, "crashes": 0, "hangs": 0, "refused": 0}
    numbers = random.Random(seed)
    try:
        spin(node, 60.0, lambda: heard["grounding: camera"] and heard["recorder: recording"])
        for kind, count in counts.items():
            for data in drawn(kind, count, seed + 1):
                is_altered = numbers.random() < 0.1
                publishers[kind].publish(altered(data, numbers) if is_altered else data)
                row["messages"] += 1
                spin(node, 0.0, lambda: True)
                time.sleep(0.001)
        heard.clear()
        spin(node, 20.0, lambda: heard["grounding: camera"] and heard["recorder: recording"])
        row["hangs"] = sum(not heard[n] for n in ("grounding: camera", "recorder: recording"))
        for name, process in processes.items():
            if problem := process.problem():
                told(f"{name} over DDS: {problem}")
                row["crashes"] += 1
    finally:
        for process in processes.values():
            process.end()
        node.destroy_node()
    return {**row, "refused_counted": 0, "slowest_ms": 0.0}


def main() -> int:
    """Draw, hand over, judge, print the table or the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    wanted = parser.parse_args()
    faulthandler.enable()
    counts = {kind: max(1, round(wanted.messages * share)) for kind, share in SHARES.items()}
    over_dds = {kind: max(1, round(DDS_SHARE * count)) for kind, count in counts.items()}
    problems: Counter[str] = Counter()

    def told(text: str) -> None:
        problems[text] += 1
        if problems[text] == 1:
            print(text, file=sys.stderr)

    bugs = Bugs()
    rows, growths = [], []
    # Their log would be as long as what is sent to them.
    rclpy.init(args=["--ros-args", "--log-level", "fatal"])
    executor = SingleThreadedExecutor()
    with tempfile.TemporaryDirectory() as name:
        rows.append(fuzz_over_dds(over_dds, wanted.seed, Path(name), told))
        for node_class in (FuzzedGrounding, FuzzedRecorder, FuzzedPage):
            fuzzed = node_class(executor, bugs, Path(name) / "bags")
            counted_here = [(kind, counts[kind] - over_dds[kind] + 2) for kind in node_class.kinds]
            sizes_mb = []
            # Three rounds of all kinds: what is filled once and bounded has its size by the second.
            for number in range(3):
                for kind, count in counted_here:
                    messages = drawn(kind, count // 3, wanted.seed + 2 + number)
                    rows.append(fuzz_callbacks(kind, messages, fuzzed, told))
                sizes_mb.append(memory_mb("VmRSS"))
            growths.append(sizes_mb[2] / sizes_mb[1] - 1.0)
            faulthandler.dump_traceback_later(8.0)
            fuzzed.close()
            faulthandler.cancel_dump_traceback_later()
    rclpy.try_shutdown()
    names = ("messages", "crashes", "hangs", "refused", "refused_counted")
    figures = {name: sum(row[name] for row in rows) for name in names}
    figures["memory_growth"] = round(max(growths), 4)
    figures["memory_mb"] = round(memory_mb("VmRSS"))
    figures["peak_memory_mb"] = round(memory_mb("VmHWM"))
    publish(
        "fuzz",
        rows,
        packages=("hypothesis", "numpy", "opencv-python-headless", "ros-rclpy"),
        settings={"messages": wanted.messages, "seed": wanted.seed},
        figures=figures,
        equality={"every refusal counted": figures["refused"] == figures["refused_counted"]},
        as_json=wanted.json,
    )
    is_sound = not figures["crashes"] and not figures["hangs"]
    return int(not is_sound or figures["refused"] != figures["refused_counted"])


if __name__ == "__main__":
    sys.exit(main())
