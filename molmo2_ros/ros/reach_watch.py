"""The spectator of the arm: films what was asked, what the arm aims at, and the truth."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import rclpy
from geometry_msgs.msg import PointStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64, String

from molmo2_ros.camera.stamp import stamp_from_json
from molmo2_ros.ros import images, qos
from molmo2_ros.ros.demo_watch import Film
from molmo2_ros.simulation.arm import F64
from molmo2_ros.simulation.reach import camera_from_foot

NEAR_M, HOLD_S = 0.02, 0.5  # what counts as touched
_ZOOM = 2
_YELLOW, _CYAN, _GREEN, _WHITE = (255, 220, 0), (0, 230, 255), (60, 230, 60), (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """An image, and what was true when it came."""

    rgb: npt.NDArray[np.uint8]
    stamp_ns: int
    gap_m: float
    goal: PointStamped | None
    touched: bool


class ReachWatcher:
    """Listens to the three nodes; of the truth, which the arm never sees, too.

    Args:
        asked: what is to be touched, as in the truth: "red mug".
        query: the words of the question.
        folder: where reach.mp4 and reach.png go.
    """

    def __init__(self, asked: str, query: str, folder: Path) -> None:
        self._asked, self._query = asked, query
        self._film = Film(folder / "reach.mp4", folder / "reach.png")
        self._begun = time.monotonic()
        self.answered_at: float | None = None  # monotonic time of the first answer
        self.refusal = ""  # why the model cannot be asked
        self.touched_at: float | None = None  # monotonic time of the end of HOLD_S
        self._near_since: float | None = None
        self._gap_m = np.inf
        self._least_m = np.inf
        self._camera: CameraInfo | None = None
        self._picture: _Picture | None = None
        self._truth: dict[int, tuple[float, float]] = {}  # by stamp
        self._targets: dict[int, PointStamped] = {}
        self._goal: PointStamped | None = None

    def join(self) -> Node:
        """A node that listens; the caller spins and destroys it."""
        node = rclpy.create_node("reach")
        reliable = qos.result_qos()
        for topic, kind, callback in (
            ("camera_info", CameraInfo, self._on_camera_info),
            ("image", Image, self._on_image),
            ("truth", String, self._on_truth),
            ("fingertip_gap", Float64, self._on_gap),
            ("grounding/answer", String, self._on_answer),
            ("grounding/target", PointStamped, self._on_target),
            ("arm/goal", PointStamped, self._on_goal),
        ):
            node.create_subscription(kind, topic, callback, reliable)
        return node

    @property
    def summary(self) -> str:
        """The last line of the demonstration."""
        if self.touched_at is not None and self.answered_at is not None:
            after_s = self.touched_at - self.answered_at
            return (
                f"reach: touched the {self._asked} for {HOLD_S} s, {after_s:.1f} s after the first "
                "answer"
            )
        nearest = f"{100 * self._least_m:.1f} cm" if np.isfinite(self._least_m) else "never seen"
        return f"reach: did not touch the {self._asked}; nearest: {nearest}"

    @property
    def files(self) -> list[Path]:
        """The film and the still, as far as they exist."""
        return self._film.written

    def close(self) -> None:
        """Finish the film."""
        self._film.close()

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun:6.1f} s  {text}", flush=True)

    def _on_camera_info(self, message: CameraInfo) -> None:
        if self._camera is None:
            self._say("the camera is up")
        self._camera = message

    def _on_truth(self, message: String) -> None:
        truth = json.loads(message.data)
        stamp_ns = stamp_from_json(truth["stamp"])
        for thing in truth["objects"]:
            if thing["name"] == self._asked and thing["point_px"] is not None:
                _keep(self._truth, stamp_ns, tuple(thing["point_px"]))

    def _on_answer(self, message: String) -> None:
        answer = json.loads(message.data)
        if answer["refused"]:
            self.refusal = "; ".join(answer["problems"])
        elif not answer["partial"] and self.answered_at is None:
            self.answered_at = time.monotonic()
            self._say(f"asked: {self._query}")
            self._say(f"the model: {answer['text']}")

    def _on_target(self, message: PointStamped) -> None:
        if not self._targets:
            point = message.point
            self._say(f"first target: ({point.x:.3f}, {point.y:.3f}, {point.z:.3f}) m")
        _keep(self._targets, images.stamp_ns_of(message), message)

    def _on_goal(self, message: PointStamped) -> None:
        self._goal = message

    def _on_gap(self, message: Float64) -> None:
        now = time.monotonic()
        self._gap_m = message.data
        self._least_m = min(self._least_m, self._gap_m)
        if self._gap_m > NEAR_M or self.answered_at is None:
            self._near_since = None
            return
        if self._near_since is None:
            self._near_since = now
            self._say(f"the fingertip is {1000 * self._gap_m:.0f} mm from the {self._asked}")
        if now - self._near_since >= HOLD_S and self.touched_at is None:
            self.touched_at = now
            self._say(f"touched: within {100 * NEAR_M:.0f} cm for {HOLD_S} s")

    def _on_image(self, message: Image) -> None:
        """Film the picture before: by now its target and its truth have come."""
        before = self._picture
        if before is not None:
            worth = (int(before.touched), -before.gap_m)
            self._film.add(self._drawn(before), before.stamp_ns, worth)
        self._picture = _Picture(
            rgb=images.rgb_of(message),
            stamp_ns=images.stamp_ns_of(message),
            gap_m=self._gap_m,
            goal=self._goal,
            touched=self.touched_at is not None,
        )

    def _drawn(self, shot: _Picture) -> npt.NDArray[np.uint8]:
        height, width = shot.rgb.shape[:2]
        picture = np.array(cv2.resize(shot.rgb, (_ZOOM * width, _ZOOM * height)), np.uint8)
        stamp_ns = shot.stamp_ns
        if stamp_ns in self._truth:
            _mark(picture, self._truth[stamp_ns], _GREEN, cv2.MARKER_SQUARE)
        target = self._targets.get(stamp_ns)
        if target is not None:
            _mark(picture, self._pixel(_vector(target)), _YELLOW, cv2.MARKER_DIAMOND)
        if shot.goal is not None:
            position, rotation = camera_from_foot()
            place = rotation.T @ (_vector(shot.goal) - position)
            _mark(picture, self._pixel(place), _CYAN, cv2.MARKER_CROSS)
        gap = f"{100 * shot.gap_m:.1f} cm" if np.isfinite(shot.gap_m) else "?"
        touched = "  touched" if shot.touched else ""
        lines = (
            (f"{self._query}", _WHITE),
            ("truth", _GREEN),
            ("target", _YELLOW),
            ("arm aims at", _CYAN),
            (f"fingertip to {self._asked}: {gap}{touched}", _WHITE),
        )
        _write(picture, lines)
        return picture

    def _pixel(self, place: F64) -> tuple[float, float]:
        """Column and row of a place in the optical frame."""
        if self._camera is None or place[2] <= 0:
            return -1.0, -1.0
        fx, _, cx, _, fy, cy, *_ = self._camera.k
        return float(fx * place[0] / place[2] + cx), float(fy * place[1] / place[2] + cy)


def _keep(kept: dict[int, Any], stamp_ns: int, value: Any) -> None:
    """Remember what speaks of a picture, of the newest ones only."""
    kept[stamp_ns] = value
    while len(kept) > 16:
        kept.pop(next(iter(kept)))


def _vector(message: PointStamped) -> F64:
    return np.array([message.point.x, message.point.y, message.point.z])


def _mark(
    picture: npt.NDArray[np.uint8], pixel: tuple[float, float], colour: Any, kind: int
) -> None:
    at = tuple(round((place + 0.5) * _ZOOM - 0.5) for place in pixel)
    for thickness, ink in ((4, (0, 0, 0)), (2, colour)):
        cv2.drawMarker(picture, at, ink, kind, 16, thickness, cv2.LINE_AA)


def _write(picture: npt.NDArray[np.uint8], lines: Any) -> None:
    """Words at the top left, one line each, on a dark ground."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    for row, (text, colour) in enumerate(lines):
        at = (8, 20 + 20 * row)
        (width, height), _ = cv2.getTextSize(text, font, scale, 1)
        corner = (at[0] + width + 3, at[1] + 5)
        cv2.rectangle(picture, (at[0] - 3, at[1] - height - 3), corner, (25, 25, 25), -1)
        cv2.putText(picture, text, at, font, scale, colour, 1, cv2.LINE_AA)
