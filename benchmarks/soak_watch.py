"""Who listens in soak.py: notes what a grounding node publishes, and holds it against the truth.

A row of ~/points is right where it lies on a thing that its query asks for, or within BESIDE_PX of
one, in the very frame whose stamp it has. The frame that confirmed it, by its age, must have been
sent.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import String

from benchmarks.soak_camera import RATE_HZ, SENT
from molmo2_ros.ros import images, qos
from molmo2_ros.ros.clouds import rows_of
from molmo2_ros.simulation.source import TableSource

WIDTH, HEIGHT = 640, 480
BESIDE_PX = 3
NUM_KEPT = 3000  # messages of a camera: 100 s
NUM_IN_A_ROW = 3  # messages that must be right, so that one is no accident
SENT_LATE_S = 0.3  # after its points, what was sent has surely been read
NS_PER_MS = 1_000_000


def draw_frames(path: Path, seed: int, num_frames: int) -> None:
    """Draw the simulated table once, for a camera that plays it and for who knows the truth."""
    source = TableSource(seed=seed, width=WIDTH, height=HEIGHT, rate_hz=RATE_HZ)
    frames = [source.read_table() for _ in range(num_frames)]
    np.savez(
        path,
        images=np.stack([frame.frame.image for frame in frames]),
        instances=np.stack([frame.instances for frame in frames]),
        names=np.array([thing.name for thing in frames[0].truth]),
        k=np.array(source.camera.k),
    )


class Truth:
    """What is where in the frames that `draw_frames` made."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as drawn:
            self._instances = drawn["instances"]
            self._names = [str(name) for name in drawn["names"]]

    def things(self, words: str) -> list[int]:
        """Ids of the things that a query's words name: "the red mug", "mugs"."""
        wanted = words.removeprefix("the ").removesuffix("s")
        return [j + 1 for j, name in enumerate(self._names) if name.endswith(wanted)]

    def is_seen(self, number: int, words: str) -> bool:
        """Whether a frame shows any of them."""
        return bool(np.isin(self._instances[number], self.things(words)).any())

    def is_on(self, number: int, words: str, u: float, v: float) -> bool:
        """Whether one of them is at a pixel of a frame, or close to it."""
        row, column = round(v), round(u)
        part = self._instances[number][
            max(0, row - BESIDE_PX) : row + BESIDE_PX + 1,
            max(0, column - BESIDE_PX) : column + BESIDE_PX + 1,
        ]
        return bool(np.isin(part, self.things(words)).any())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a camera said of an image."""

    stamp_ns: int
    number: int
    scale: float
    is_corrupt: bool
    sent_s: float


@dataclass(frozen=True, slots=True)
class Points:
    """One message of ~/points."""

    arrived_s: float
    stamp_ns: int
    rows: npt.NDArray[Any]


@dataclass(slots=True)
class Heard:
    """What came of one camera; guarded by the watcher's lock."""

    truth: Truth
    sent: dict[int, Sent] = field(default_factory=dict)  # by the stamp in milliseconds
    points: deque[Points] = field(default_factory=lambda: deque(maxlen=NUM_KEPT))
    words: dict[int, str] = field(default_factory=dict)  # of all queries so far, by id
    standing: set[int] = field(default_factory=set)
    arrived_s: list[float] = field(default_factory=list)  # of all messages of ~/points
    num_sent: int = 0
    num_answers: int = 0


@dataclass(slots=True)
class Honesty:
    """What was published in a while, by what would make a robot act wrongly."""

    messages: int = 0
    rows: int = 0
    wrong: int = 0  # rows that are not on their thing
    unsent: int = 0  # messages with a stamp that no readable image had
    repeated: int = 0  # messages about a frame that had been told of before
    unconfirmed: int = 0  # rows whose age leads to no readable image
    impossible: int = 0  # rows confirmed on an image while the model could not answer
    oldest_s: float = 0.0  # the greatest age

    @property
    def is_honest(self) -> bool:
        """Nothing is frozen with a fresh stamp or age, and rows are on their things."""
        lies = self.unsent + self.repeated + self.unconfirmed + self.impossible
        # The model itself errs now and then, and a thing that is hidden just now is lost a little
        # later.
        return not lies and self.wrong <= max(2, 0.05 * self.rows)


class Watcher:
    """A node that listens in a thread.

    Args:
        cameras: names, "" for the only one.
        truths: of each.
    """

    def __init__(self, cameras: Sequence[str], truths: Sequence[Truth]) -> None:
        self.node = Node("soak")
        self._lock = threading.Lock()  # guards what was heard
        self._heard = {name: Heard(truth) for name, truth in zip(cameras, truths, strict=True)}
        self._statuses: dict[str, tuple[float, DiagnosticStatus]] = {}
        self._query: dict[str, Any] = {}
        self._logs: list[tuple[Heard, TextIO]] = []  # of the cameras
        for name in cameras:
            self._listen(name)
        self.node.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.result_qos()
        )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hear no more."""
        self._ending.set()
        self._thread.join()
        self.node.destroy_node()
        for _, log in self._logs:
            log.close()

    def follow(self, camera: str, log: Path) -> None:
        """Read what a camera's process says that it sends."""
        file = log.open(encoding="utf-8")
        with self._lock:  # guards _logs
            self._logs.append((self._heard[camera], file))

    def _spin(self) -> None:
        while not self._ending.is_set() and rclpy.ok():
            self._executor.spin_once(timeout_sec=0.05)
            with self._lock:  # guards _logs and what was heard
                for heard, log in self._logs:
                    _read_sent(heard, log)

    def _listen(self, name: str) -> None:
        heard = self._heard[name]
        told = f"grounding/{name}" if name else "grounding"

        def on_points(message: PointCloud2) -> None:
            now_s = time.monotonic()
            points = Points(now_s, images.stamp_ns_of(message), rows_of(message).copy())
            with self._lock:  # guards heard
                heard.arrived_s.append(now_s)
                heard.points.append(points)

        def on_answer(message: String) -> None:
            if not json.loads(message.data)["partial"]:
                with self._lock:  # guards heard
                    heard.num_answers += 1

        def on_queries(message: String) -> None:
            queries = json.loads(message.data)["queries"]
            with self._lock:  # guards heard
                heard.standing = {query["id"] for query in queries}
                heard.words.update({query["id"]: query["words"] for query in queries})

        subscribe, results = self.node.create_subscription, qos.result_qos()
        subscribe(PointCloud2, f"{told}/points", on_points, results)
        subscribe(String, f"{told}/answer", on_answer, results)
        subscribe(String, f"{told}/queries", on_queries, qos.state_qos())
        self._query[name] = self.node.create_publisher(String, f"{told}/query", results)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self._lock:  # guards _statuses
            for line in message.status:
                self._statuses[line.name] = (time.monotonic(), line)

    def query(self, camera: str, text: str) -> None:
        """Write to ~/query of a camera."""
        self._query[camera].publish(String(data=text))

    @property
    def cameras(self) -> list[str]:
        """Their names."""
        return list(self._heard)

    def status(self, name: str, since_s: float) -> tuple[int, str, dict[str, str]] | None:
        """Level, message and values of a line of /diagnostics that came since a time."""
        with self._lock:  # guards _statuses
            came_s, line = self._statuses.get(name, (0.0, None))
        if line is None or came_s < since_s:
            return None
        return int(line.level[0]), line.message, {v.key: v.value for v in line.values}

    def arrivals_s(self, camera: str) -> list[float]:
        """When messages of ~/points came."""
        with self._lock:  # guards heard
            return list(self._heard[camera].arrived_s)

    def counts(self) -> tuple[int, int, int]:
        """Images sent, messages of ~/points and whole answers, of all cameras."""
        with self._lock:  # guards heard
            heard = self._heard.values()
            return (
                sum(one.num_sent for one in heard),
                sum(len(one.arrived_s) for one in heard),
                sum(one.num_answers for one in heard),
            )

    def wait_for_points(self, since_s: float, patience_s: float) -> float | None:
        """Wait until fresh, right points come of every camera.

        Fresh: the model confirmed each query's points on an image that was sent after `since_s`.

        Returns:
            when the first of some such messages in a row came, of the slowest camera; None where
            none did in time.
        """
        end_s = time.monotonic() + patience_s
        while time.monotonic() < end_s:
            recovered = [self._recovered_s(camera, since_s) for camera in self._heard]
            if all(at_s is not None for at_s in recovered):
                return max(at_s for at_s in recovered if at_s is not None)
            time.sleep(0.05)
        return None

    def _recovered_s(self, camera: str, since_s: float) -> float | None:
        heard, points = self._snapshot(camera, since_s)
        row: list[float] = []
        for one in points:
            row = [*row, one.arrived_s] if self._is_right(heard, one, since_s) else []
            if len(row) == NUM_IN_A_ROW:
                return row[0]
        return None

    def _snapshot(self, camera: str, since_s: float) -> tuple[Heard, list[Points]]:
        """What is told so far, and the messages since a time whose image is surely known."""
        heard = self._heard[camera]
        with self._lock:  # guards heard
            copy = Heard(heard.truth, dict(heard.sent), words=dict(heard.words))
            copy.standing = set(heard.standing)
            points = [one for one in heard.points if one.arrived_s >= since_s]
        return copy, points

    def _is_right(self, heard: Heard, points: Points, since_s: float) -> bool:
        sent = _image_of(heard, points.stamp_ns)
        if sent is None or sent.is_corrupt or sent.sent_s < since_s:
            return False
        found = set()
        for row in points.rows:
            confirmed = _confirmed(heard, points, row)
            if not _is_on(heard, sent, row) or confirmed is None:
                return False
            if confirmed.sent_s >= since_s:
                found.add(int(row["query_id"]))
        wanted = {i for i in heard.standing if heard.truth.is_seen(sent.number, heard.words[i])}
        return bool(wanted) and wanted <= found

    def honesty(
        self, begin_s: float, end_s: float, outage_s: tuple[float, float] | None = None
    ) -> Honesty:
        """Judge all that came in a while.

        Args:
            begin_s: of the while.
            end_s: likewise.
            outage_s: from when to when no answer can have come; None: it could all the time.
        """
        time.sleep(SENT_LATE_S)
        total = Honesty()
        for camera in self._heard:
            heard, points = self._snapshot(camera, 0.0)
            seen: set[int] = set()
            for one in points:
                if begin_s <= one.arrived_s <= end_s:
                    judge(heard, one, seen, outage_s, total)
                seen.add(one.stamp_ns)
        return total


def _read_sent(heard: Heard, log: TextIO) -> None:
    """Take in the whole lines that a camera has written since the last look."""
    while True:
        at = log.tell()
        line = log.readline()
        if not line.endswith("\n"):
            log.seek(at)
            return
        if line.startswith(SENT):
            sent = Sent(**json.loads(line.removeprefix(SENT)))
            heard.num_sent += 1
            heard.sent[sent.stamp_ns // NS_PER_MS] = sent
            if len(heard.sent) > NUM_KEPT:
                del heard.sent[next(iter(heard.sent))]


def judge(
    heard: Heard,
    points: Points,
    seen: set[int],
    outage_s: tuple[float, float] | None,
    total: Honesty,
) -> None:
    """Add one message to what was published.

    Args:
        heard: of its camera.
        points: the message.
        seen: stamps of the messages before it.
        outage_s: as in Watcher.honesty.
        total: is added to.
    """
    total.messages += 1
    total.repeated += points.stamp_ns in seen
    sent = _image_of(heard, points.stamp_ns)
    if sent is None or sent.is_corrupt:
        total.unsent += 1
        return
    for row in points.rows:
        total.rows += 1
        total.wrong += not _is_on(heard, sent, row)
        total.oldest_s = max(total.oldest_s, float(row["age"]))
        confirmed = _confirmed(heard, points, row)
        if confirmed is None:
            total.unconfirmed += 1
        elif outage_s is not None:
            # An image of meanwhile may be answered afterwards.
            is_told_meanwhile = points.arrived_s < outage_s[1]
            total.impossible += is_told_meanwhile and confirmed.sent_s > outage_s[0]


def _image_of(heard: Heard, stamp_ns: int) -> Sent | None:
    """The image of a stamp, which float32 ages give to a few microseconds."""
    at = stamp_ns // NS_PER_MS
    return next((heard.sent[ms] for ms in (at, at - 1, at + 1) if ms in heard.sent), None)


def _confirmed(heard: Heard, points: Points, row: Any) -> Sent | None:
    """The readable image on which the model confirmed a row."""
    sent = _image_of(heard, points.stamp_ns - round(1e9 * float(row["age"])))
    return None if sent is None or sent.is_corrupt else sent


def _is_on(heard: Heard, sent: Sent, row: Any) -> bool:
    words = heard.words.get(int(row["query_id"]), "")
    # A pixel of half a picture covers two by two of the whole one.
    u, v = ((float(row[name]) + 0.5) / sent.scale - 0.5 for name in ("u", "v"))
    return bool(words) and heard.truth.is_on(sent.number, words, u, v)
