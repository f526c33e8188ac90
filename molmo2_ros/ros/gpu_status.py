"""The GPUs of a node's machine on /diagnostics."""

from __future__ import annotations

from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus

from molmo2_ros.errors import ConfigError
from molmo2_ros.machine.gpu_meter import GpuMeter, GpuReading
from molmo2_ros.ros.diagnostics import status

_ALMOST_FULL = 0.97


class GpuStatus:
    """A line for each GPU; none where there is no GPU.

    Args:
        root: where this system's files are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._meter: GpuMeter | None = None
        self._trouble = ""
        try:
            self._meter = GpuMeter(root)
        except ConfigError as error:
            self._trouble = str(error)

    def statuses(self, name: str) -> list[DiagnosticStatus]:
        """Lines of /diagnostics.

        Args:
            name: of the node.
        """
        if self._meter is None:
            # The model may run well on it: nothing is wrong with the node.
            return [status(f"{name}: gpu", "", {}, message=self._trouble)]
        readings = self._meter.read()
        several = len(readings) > 1
        return [
            _line(f"{name}: gpu {index}" if several else f"{name}: gpu", reading)
            for index, reading in enumerate(readings)
        ]


def _line(name: str, reading: GpuReading) -> DiagnosticStatus:
    values = {
        "load": reading.load,
        "memory_used_mb": reading.memory_used_mb,
        "memory_mb": reading.memory_mb,
        "temperature_c": reading.temperature_c,
        "clock_mhz": reading.clock_mhz,
    }
    known = {key: float(value) for key, value in values.items() if value is not None}
    warning = ""
    if reading.slowed:
        warning = f"slowed down {reading.slowed}; answers take longer. Look at cooling and supply"
    elif known.get("memory_used_mb", 0.0) > _ALMOST_FULL * known.get("memory_mb", float("inf")):
        used_mb, all_mb = known["memory_used_mb"], known["memory_mb"]
        warning = (
            f"{used_mb:.0f} of {all_mb:.0f} MB of its memory are taken; what comes next may fail. "
            "End what else uses it, or take a smaller engine"
        )
    return status(name, reading.name, known, warning=warning)
