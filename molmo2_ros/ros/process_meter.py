"""What a node's process takes of the machine, as Linux tells."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus

from molmo2_ros.ros.diagnostics import status

_MB = 1e6


class ProcessMeter:
    """Memory, threads, open files and cores of this process.

    Args:
        proc: what Linux tells of a process.
    """

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._proc = proc
        self._cpu_s, self._at_s = time.process_time(), time.monotonic()

    def values(self) -> dict[str, object]:
        """Numbers by name: MB of memory now and at most, and cores used since the last look.

        What this system does not tell is left out.
        """
        cpu_s, at_s = time.process_time(), time.monotonic()
        cores = (cpu_s - self._cpu_s) / max(at_s - self._at_s, 1e-6)
        self._cpu_s, self._at_s = cpu_s, at_s
        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        values: dict[str, object] = {
            "pid": os.getpid(),
            "cores": cores,
            "memory_peak_mb": peak_kb * 1024 / _MB,
        }
        try:
            pages = int((self._proc / "statm").read_text(encoding="ascii").split()[1])
            values["memory_mb"] = pages * os.sysconf("SC_PAGE_SIZE") / _MB
            values["threads"] = len(os.listdir(self._proc / "task"))
            values["open_files"] = len(os.listdir(self._proc / "fd"))
        except (OSError, ValueError, IndexError):
            pass  # another system than Linux
        return values

    def status(self, name: str) -> DiagnosticStatus:
        """A line of /diagnostics.

        Args:
            name: of the node.
        """
        return status(f"{name}: process", "", self.values())
