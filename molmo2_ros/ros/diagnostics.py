"""What goes wrong, how often and how fast things go: counted, logged sparingly, on /diagnostics."""

from __future__ import annotations

import logging
import math
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from molmo2_ros.errors import Molmo2Error
from molmo2_ros.ros.images import time_message

LOG_PERIOD_S = 5.0
_RECENT_S = 10.0
_STALE_S = 1.0
_MISSING = 4  # usual times between two events
_USUAL_OF = 15  # times between events


class ProblemLog:
    """Counts problems by class and place and logs each kind at most every few seconds.

    Args:
        logger: of the node.
        about: what stands before each line: the camera, where there are several.
    """

    def __init__(self, logger: Any, about: str = "") -> None:
        self._logger = logger
        self._about = f"{about} " if about else ""
        self._lock = threading.Lock()  # guards the four below
        self._counts: Counter[str] = Counter()
        self._logged_at: dict[tuple[str, str], float] = {}
        self._unlogged: Counter[tuple[str, str]] = Counter()
        self._last: dict[str, tuple[float, str]] = {}

    def report(self, place: str, error: Molmo2Error) -> None:
        """Take note of a problem.

        Args:
            place: the part that met it: camera, depth, query, engine, answer.
            error: says the cause and the cure.
        """
        kind, text, now = type(error).__name__, _one_line(str(error)), time.monotonic()
        with self._lock:  # guards the counts and times
            self._counts[kind] += 1
            self._last[place] = (now, text)
            key = (place, text[:60])
            since = now - self._logged_at.get(key, -LOG_PERIOD_S)
            if since < LOG_PERIOD_S:
                self._unlogged[key] += 1
                return
            more = self._unlogged.pop(key, 0)
            if len(self._logged_at) > 200:
                self._logged_at.clear()
            self._logged_at[key] = now
        again = f" ({more} more like this)" if more else ""
        self._logger.error(f"{self._about}{place}: {text}{again}")

    def count(self, kind: type[Molmo2Error]) -> None:
        """Count a problem that is told elsewhere, without a log line."""
        with self._lock:  # guards the counts and times
            self._counts[kind.__name__] += 1

    def clear(self, place: str) -> None:
        """The part works again."""
        with self._lock:  # guards the counts and times
            self._last.pop(place, None)

    def recent(self, place: str) -> str:
        """The part's last problem, "" if it is older than some seconds."""
        with self._lock:  # guards the counts and times
            at, text = self._last.get(place, (-_RECENT_S, ""))
            return text if time.monotonic() - at < _RECENT_S else ""

    def standing(self, place: str) -> str:
        """The part's last problem until `clear`, however old."""
        with self._lock:  # guards the counts and times
            return self._last.get(place, (0.0, ""))[1]

    @property
    def counts(self) -> dict[str, int]:
        """Problems since the start by class of error."""
        with self._lock:  # guards the counts and times
            return dict(self._counts)


class RateMeter:
    """Events a second over the last seconds, and whether they have stopped."""

    def __init__(self, window_s: float = 3.0) -> None:
        self._window_s = window_s
        self._lock = threading.Lock()  # guards the four below
        self._times: deque[float] = deque(maxlen=1024)
        self._intervals: deque[float] = deque(maxlen=_USUAL_OF)
        self._last: float | None = None
        self.count = 0

    def tick(self) -> None:
        """One event now."""
        now = time.monotonic()
        with self._lock:  # guards what a look at the meter reads
            self.count += 1
            self._times.append(now)
            if self._last is not None:
                self._intervals.append(now - self._last)
            self._last = now

    @property
    def age_s(self) -> float:
        """Seconds since the last event; infinite before the first."""
        with self._lock:  # guards _last
            return math.inf if self._last is None else time.monotonic() - self._last

    @property
    def is_stale(self) -> bool:
        """Events came and have stopped: the last one is a second old, and more than is usual.

        Usual is the median time between the last events, of which three may be missing.
        """
        with self._lock:  # guards _last and _intervals
            if self._last is None:
                return False
            usual_s = statistics.median(self._intervals) if self._intervals else 0.0
            return time.monotonic() - self._last > max(_STALE_S, _MISSING * usual_s)

    @property
    def rate_hz(self) -> float:
        """Events a second, 0 once they stopped."""
        oldest_allowed = time.monotonic() - self._window_s
        with self._lock:  # guards _times
            while self._times and self._times[0] < oldest_allowed:
                self._times.popleft()
            if len(self._times) < 2:
                return 0.0
            return (len(self._times) - 1) / (time.monotonic() - self._times[0])


def status(
    name: str,
    hardware_id: str,
    values: Mapping[str, object],
    *,
    error: str = "",
    warning: str = "",
    message: str = "ok",
) -> DiagnosticStatus:
    """One line of /diagnostics; an error outranks a warning, a warning the message."""
    level = DiagnosticStatus.ERROR if error else DiagnosticStatus.WARN
    if not error and not warning:
        level = DiagnosticStatus.OK
    return DiagnosticStatus(
        name=name,
        hardware_id=hardware_id,
        level=level,
        message=error or warning or message,
        values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
    )


def diagnostic_array(statuses: list[DiagnosticStatus], stamp_ns: int) -> DiagnosticArray:
    """All statuses of a node at one time."""
    message = DiagnosticArray(status=statuses)
    message.header.stamp = time_message(stamp_ns)
    return message


class RosLogHandler(logging.Handler):
    """Hands the rooms' log records (logging.getLogger("molmo2_ros...")) to a node's logger."""

    def __init__(self, logger: Any) -> None:
        super().__init__(level=logging.INFO)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on at the same level; rclpy has no exception text, so it is appended."""
        text = self.format(record)
        # One call site a level: rclpy remembers a severity for each caller's line.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


def _one_line(text: str, limit: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)
