"""The table with the arm in real time: a camera to read, joints to command."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from molmo2_ros.camera.frame import Frame
from molmo2_ros.simulation.arm import F64
from molmo2_ros.simulation.physics import STEP_S
from molmo2_ros.simulation.reach import ReachTable, named_object
from molmo2_ros.simulation.source import TableFrame

_MOST_BEHIND_S = 0.1  # after a longer pause the table goes on from where it was


class ReachCamera:
    """A frame source whose frames show the table as it is when they are read.

    Thread-safe: one thread reads frames, which takes as long as drawing does, while another lets
    the table follow the clock, commands the joints and asks where they are.

    Args:
        table: to be shown.
        rate_hz: frames a second at most.
        now_ns: the clock of the stamps.
    """

    def __init__(self, table: ReachTable, rate_hz: float, now_ns: Callable[[], int]) -> None:
        self.rate_hz = rate_hz
        self.drawn_by = table.drawn_by
        self._table = table
        self._now_ns = now_ns
        self._lock = threading.Lock()  # guards the table's physics and what was posed
        self._reached_ns = now_ns()
        self._due_s = time.monotonic()
        self._last: TableFrame | None = None

    def read(self) -> Frame:
        """Wait until the next frame is due and draw it, stamped with the moment that it shows."""
        self._due_s = max(self._due_s + 1 / self.rate_hz, time.monotonic())
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        stamp_ns = self.follow()
        with self._lock:  # guards what was posed
            self._table.pose()
        self._last = self._table.draw(stamp_ns)
        return self._last.frame

    def follow(self) -> int:
        """Let the table catch up with the clock.

        Returns:
            the moment that it has reached, nanoseconds.
        """
        with self._lock:  # guards the physics
            now_ns = self._now_ns()
            self._reached_ns = max(self._reached_ns, now_ns - round(_MOST_BEHIND_S * 1e9))
            num_steps = max(0, int((now_ns - self._reached_ns) / (STEP_S * 1e9)))
            self._table.physics.advance(num_steps)
            self._reached_ns += round(num_steps * STEP_S * 1e9)
            return self._reached_ns

    def command(self, velocities: F64) -> None:
        """What the joints shall do from now on, [4] rad/s."""
        with self._lock:  # guards the physics
            self._table.physics.command(velocities)

    def joints(self) -> tuple[F64, F64, float]:
        """Angles [4] and velocities [4] of the joints, and the fingertip's gap in metres."""
        with self._lock:  # guards the physics
            drives = self._table.physics.drives
            return drives.angles.copy(), drives.velocities.copy(), self._table.gap_m()

    def truth(self) -> list[Mapping[str, Any]]:
        """The truth about the frame read last, ready for json.dumps."""
        return [] if self._last is None else [thing.as_json() for thing in self._last.truth]

    def close(self) -> None:
        """Let go of the renderer; may be called twice."""
        self._table.close()


def open_reach_camera(
    asked: str,
    *,
    seed: int,
    belt_speed: float,
    width: int,
    height: int,
    rate_hz: float,
    renderer: str,
    now_ns: Callable[[], int],
) -> ReachCamera:
    """A table on which the named object can be reached (see ReachTable and ReachCamera).

    Raises:
        ConfigError: there is no such object, or the renderer cannot be had.
    """
    thing = named_object(asked)
    table = ReachTable(
        seed,
        asked=thing,
        belt_speed=belt_speed,
        width=width,
        height=height,
        renderer=renderer,
    )
    return ReachCamera(table, rate_hz, now_ns)
