"""The demonstration's spectator: counts messages, prints answers, films the overlay."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2
from std_msgs.msg import String

from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import ImageError
from molmo2_ros.ros import qos
from molmo2_ros.ros.clouds import rows_of
from molmo2_ros.ros.images import rgb_of_compressed, stamp_ns_of

FILM_RATE_HZ = 15
_MOST_TARGETS_TOLD = 4
_MOST_TEXT = 60  # characters


class Watcher:
    """Listens to both nodes.

    Args:
        folder: where demo.mp4 and demo.png go.
    """

    def __init__(self, folder: Path) -> None:
        self._film = Film(folder / "demo.mp4", folder / "demo.png")
        self._begun = time.monotonic()
        self.started_at: float | None = None  # monotonic time of the first answer
        self.refused: set[int] = set()  # ids of queries that the model cannot answer
        self.camera_problem = ""  # why the camera has not shown anything yet
        self._camera_told = False
        self._num_frames = 0
        self._num_points = 0
        self._num_tracks = 0
        self._num_answers = 0
        self._rows: npt.NDArray[Any] | None = None  # of the newest ~/points
        self._untold: list[dict[str, Any]] = []  # answers that wait for the next ~/points

    def join(self, context: Context | None = None) -> Node:
        """A node that listens; the caller spins and destroys it."""
        node = rclpy.create_node("demo", context=context)
        reliable = qos.result_qos()
        for topic, kind, callback in (
            ("camera_info", CameraInfo, self._on_camera_info),
            ("/diagnostics", DiagnosticArray, self._on_diagnostics),
            ("grounding/points", PointCloud2, self._on_points),
            ("grounding/tracks", PointCloud2, self._on_tracks),
            ("grounding/answer", String, self._on_answer),
            ("grounding/queries", String, self._on_queries),
            ("grounding/overlay/compressed", CompressedImage, self._on_overlay),
        ):
            profile = qos.state_qos() if callback == self._on_queries else reliable
            node.create_subscription(kind, topic, callback, profile)
        return node

    @property
    def summary(self) -> str:
        """The last line of the demonstration."""
        return (
            f"demo: {self._num_frames} frames, {self._num_points} points messages, "
            f"{self._num_tracks} tracks messages, {self._num_answers} answers"
        )

    @property
    def is_complete(self) -> bool:
        """Something of each kind came, and was filmed."""
        return self.has_seen_all and len(self.files) == 2

    @property
    def has_seen_all(self) -> bool:
        """Something of each kind came."""
        return all((self._num_frames, self._num_points, self._num_tracks, self._num_answers))

    @property
    def files(self) -> list[Path]:
        """The film and the still, as far as they exist."""
        return self._film.written

    def close(self) -> None:
        """Finish the film."""
        self._film.close()

    def _on_camera_info(self, _: CameraInfo) -> None:
        self._num_frames += 1
        self._tell_camera()

    def _tell_camera(self) -> None:
        if not self._camera_told:
            self._camera_told = True
            since_s = time.monotonic() - self._begun
            print(f"{since_s:6.1f} s  the camera is up", flush=True)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for line in message.status:
            is_bad = line.level == DiagnosticStatus.ERROR
            if line.name == "camera: source" and is_bad and not self._num_frames:
                self.camera_problem = f"the camera shows nothing: {line.message}"

    def _on_points(self, message: PointCloud2) -> None:
        self._num_points += 1
        self._tell_camera()  # the node of the points may have found the camera first
        self._rows = rows_of(message)
        for answer in self._untold:
            print(self._line(answer, self._rows), flush=True)
        self._untold = []

    def _on_tracks(self, _: PointCloud2) -> None:
        self._num_tracks += 1

    def _on_answer(self, message: String) -> None:
        answer = json.loads(message.data)
        if answer["partial"] or answer["refused"]:
            return
        if self.started_at is None:
            self.started_at = time.monotonic()
        self._num_answers += 1
        self._untold.append(answer)

    def _on_queries(self, message: String) -> None:
        for query in json.loads(message.data)["queries"]:
            if query["refused"] and query["id"] not in self.refused:
                self.refused.add(query["id"])
                print(f"{self._opening(query)}refused: {query['refused']}", flush=True)

    def _opening(self, query: dict[str, Any]) -> str:
        since_s = time.monotonic() - self._begun
        return f"{since_s:6.1f} s  {query['kind']:<5}  {query['words']:<16}  "

    def _on_overlay(self, message: CompressedImage) -> None:
        self._film.add(rgb_of_compressed(message), stamp_ns_of(message), _worth(self._rows))

    def _line(self, answer: dict[str, Any], rows: npt.NDArray[Any]) -> str:
        """One answer with where its targets are now.

        12.4 s  point  the red mug   #1 (163, 96) px (0.02, -0.05, 0.71) m age 0.21 s
        """
        query = answer["query"]
        mine = rows[rows["query_id"] == query["id"]]
        told = [_target_text(row) for row in mine[:_MOST_TARGETS_TOLD]]
        if len(mine) > _MOST_TARGETS_TOLD:
            told.append(f"and {len(mine) - _MOST_TARGETS_TOLD} more")
        if query["kind"] == "count" and answer["count"] is not None:
            told.insert(0, f"{answer['count']}")
        if answer["none"] and not told:
            told.append("none")
        if not told:
            told = [_answered_text(track) for track in answer["tracks"][:_MOST_TARGETS_TOLD]]
        if not told and answer["text"]:
            told.append(_one_line(answer["text"]))
        told += [f"[{problem}]" for problem in answer["problems"]]
        return f"{self._opening(query)}{'; '.join(told)}"


def _worth(rows: npt.NDArray[Any] | None) -> tuple[int, float]:
    """How well a picture shows what was asked: questions with a target, then how sure those are."""
    if rows is None or not len(rows):
        return 0, 0.0
    sure = np.nan_to_num(rows["confidence"]) * rows["quality"]
    return len(set(rows["query_id"].tolist())), float(sure.mean())


def _answered_text(track: dict[str, Any]) -> str:
    """A track that is not carried any more: where it was last answered."""
    last = track["points"][-1]
    return f"#{track['track_id']} was at ({last['u']:.0f}, {last['v']:.0f}) px"


def _one_line(text: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= _MOST_TEXT else f"{shown[:_MOST_TEXT]}..."


def _target_text(row: Any) -> str:
    text = f"#{row['track_id']} ({row['u']:.0f}, {row['v']:.0f}) px"
    if np.isfinite(row["z"]):
        text += f" ({row['x']:.2f}, {row['y']:.2f}, {row['z']:.2f}) m"
    return f"{text} age {row['age']:.2f} s"


class Film:
    """A video at a constant rate from pictures that come when they come, and its best still.

    Args:
        film_path: .mp4, written as MPEG-4 part 2, which OpenCV's wheels can write.
        still_path: .png, the picture that was worth most.
    """

    def __init__(self, film_path: Path, still_path: Path) -> None:
        self._film_path, self._still_path = film_path, still_path
        self._writer: Any = None
        self._size = (0, 0)
        self._start_ns = 0
        self._num_written = 0
        self._best = (-1, 0.0)
        self._still: npt.NDArray[np.uint8] | None = None
        self.written: list[Path] = []

    def add(self, image: npt.NDArray[np.uint8], stamp_ns: int, worth: tuple[int, float]) -> None:
        """Show a picture until the next one.

        Args:
            image: uint8 [H, W, 3], RGB.
            stamp_ns: of the picture.
            worth: compared between pictures; the best, and of equal ones the last, is the still.

        Raises:
            ImageError: the film cannot be written.
        """
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        if self._writer is None:
            self._open(bgr, stamp_ns)
        if (bgr.shape[1], bgr.shape[0]) != self._size:
            bgr = np.asarray(cv2.resize(bgr, self._size), np.uint8)
        until = (stamp_ns - self._start_ns) * FILM_RATE_HZ / NS_PER_S
        while self._num_written <= until:
            self._writer.write(bgr)
            self._num_written += 1
        if worth >= self._best:
            self._best, self._still = worth, bgr

    def _open(self, bgr: npt.NDArray[np.uint8], stamp_ns: int) -> None:
        self._size = (bgr.shape[1], bgr.shape[0])
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._film_path), code, FILM_RATE_HZ, self._size)
        if not self._writer.isOpened():
            raise ImageError(
                f"{self._film_path} cannot be written; check that the folder exists and is "
                "writable, or choose another with --output"
            )
        self._start_ns = stamp_ns

    def close(self) -> None:
        """Write what there is."""
        if self._writer is None or self._still is None:
            return
        self._writer.release()
        cv2.imwrite(str(self._still_path), self._still)
        self.written = [p for p in (self._film_path, self._still_path) if p.is_file()]
