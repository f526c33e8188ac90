"""A thread that does one thing again and again, and outlives what goes wrong in it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from rclpy.context import Context

from molmo2_ros.errors import Molmo2Error
from molmo2_ros.ros import compat
from molmo2_ros.ros.diagnostics import ProblemLog

_log = logging.getLogger(__name__)
_AFTER_A_BUG_S = 1.0


class Worker:
    """Calls `step` until it is stopped.

    Args:
        name: of the thread, and the place under which problems are reported.
        step: one turn; waits for its input, a second at most, so that stopping is quick.
        problems: takes note of bad input; the next turn follows at once.
        context: of the node; once it is shut down, a failed publish ends the thread quietly.
    """

    def __init__(
        self, name: str, step: Callable[[], None], problems: ProblemLog, context: Context
    ) -> None:
        self._name = name
        self._step = step
        self._problems = problems
        self._context = context
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """End after the turn that runs.

        Returns:
            True once it has ended, False where it still runs after `timeout_s`.
        """
        self._stopping.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_stopping(self) -> bool:
        """The turn that runs should come to an end."""
        return self._stopping.is_set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except Molmo2Error as error:
                self._problems.report(self._name, error)
            except Exception as error:
                if compat.is_shutting_down(error, self._context):
                    return
                # A bug stops this answer, not the node.
                _log.exception("%s failed; it goes on with the next frame", self._name)
                self._stopping.wait(_AFTER_A_BUG_S)
