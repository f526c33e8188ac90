"""How long answers take, and whether the one that is being written takes far longer."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque

_SLOW_S = 1.0
_SLOWER = 3  # times as long as usual
_FIRST_S = 20.0  # with nothing to compare with: a model that starts compiles and warms up
_USUAL_OF = 15  # answers


class Pace:
    """Of one model; `began` and `ended` come from the thread that asks it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._began: float | None = None
        self._took: deque[float] = deque(maxlen=_USUAL_OF)

    def began(self) -> None:
        """Questions about one clip are being asked."""
        with self._lock:  # guards _began
            self._began = time.monotonic()

    def ended(self) -> None:
        """All of them are answered, or were given up."""
        with self._lock:  # guards _began and _took
            if self._began is not None:
                self._took.append(time.monotonic() - self._began)
            self._began = None

    @property
    def usual_s(self) -> float:
        """Median seconds of the last answers, 0 before the first."""
        with self._lock:  # guards _took
            return statistics.median(self._took) if self._took else 0.0

    @property
    def running_s(self) -> float:
        """Seconds since the answer that is being written began, 0 where none is."""
        with self._lock:  # guards _began
            return 0.0 if self._began is None else time.monotonic() - self._began

    @property
    def warning(self) -> str:
        """What to tell where an answer takes much longer than the ones before, else ""."""
        running_s, usual_s = self.running_s, self.usual_s
        most_s = max(_SLOW_S, _SLOWER * usual_s) if usual_s else _FIRST_S
        if running_s <= most_s:
            return ""
        compared = f"the last ones took {usual_s:.2g} s" if usual_s else "it is the first one"
        return (
            f"an answer has been written for {running_s:.1f} s, {compared}; points are carried "
            "meanwhile and grow old. Look at what else uses this device, ask for less, or set "
            "answer_deadline_s"
        )
