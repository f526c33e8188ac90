"""The GPUs of a node's machine on /diagnostics."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus

from molmo2_ros.errors import ConfigError
from molmo2_ros.machine.gpu_meter import GpuMeter, GpuReading
from molmo2_ros.ros.diagnostics import status

_ALMOST_FULL = 0.97
_SILENT_S = 5.0


class GpuStatus:
    """A line for each GPU; none where there is no GPU.

    They are read in a thread of their own: a driver may take seconds, or never come back where a
    GPU hangs, and the node's callbacks must not wait for it.

    Args:
        root: where this system's files are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._lock = threading.Lock()  # guards the three below
        self._readings: tuple[GpuReading, ...] = ()
        self._read_s = time.monotonic()
        self._trouble = ""
        self._wanted = threading.Event()
        threading.Thread(target=self._run, name="gpu", daemon=True).start()

    def _run(self) -> None:
        try:
            meter = GpuMeter(self._root)
        except ConfigError as error:
            with self._lock:  # guards _trouble
                self._trouble = str(error)
            return
        while readings := meter.read():
            with self._lock:  # guards the readings
                self._readings, self._read_s = readings, time.monotonic()
            self._wanted.wait()
            self._wanted.clear()

    def statuses(self, name: str, *, in_use: bool) -> list[DiagnosticStatus]:
        """Lines of /diagnostics, as the GPUs were at the last call.

        Args:
            name: of the node.
            in_use: whether its model runs on one; otherwise none of them is worth a warning.
        """
        with self._lock:  # guards what the thread writes
            readings, trouble = self._readings, self._trouble
            silent_s = time.monotonic() - self._read_s
        self._wanted.set()
        if trouble:
            # The model may run well on it: nothing is wrong with the node.
            return [status(f"{name}: gpu", "", {}, message=trouble)]
        several = len(readings) > 1
        return [
            _line(
                f"{name}: gpu {index}" if several else f"{name}: gpu",
                reading,
                _warning(reading, silent_s) if in_use else "",
            )
            for index, reading in enumerate(readings)
        ]


def _line(name: str, reading: GpuReading, warning: str) -> DiagnosticStatus:
    values = {
        "load": reading.load,
        "memory_used_mb": reading.memory_used_mb,
        "memory_mb": reading.memory_mb,
        "temperature_c": reading.temperature_c,
        "clock_mhz": reading.clock_mhz,
    }
    known = {key: float(value) for key, value in values.items() if value is not None}
    return status(name, reading.name, known, warning=warning)


def _warning(reading: GpuReading, silent_s: float) -> str:
    """What somebody should act upon, "" where all is well."""
    if reading.is_silent or silent_s > _SILENT_S:
        return (
            "its driver does not answer about it any more; look for NVIDIA's Xid in `sudo dmesg`, "
            "and start the machine anew where the GPU is lost"
        )
    if reading.slowed:
        return f"slowed down {reading.slowed}; answers take longer. Look at cooling and supply"
    used_mb, all_mb = reading.memory_used_mb, reading.memory_mb
    if used_mb is not None and all_mb is not None and used_mb > _ALMOST_FULL * all_mb:
        return (
            f"{used_mb:.0f} of {all_mb:.0f} MB of its memory are taken; what comes next may fail. "
            "End what else uses it, or take a smaller engine"
        )
    return ""
