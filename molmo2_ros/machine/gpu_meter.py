"""How busy, full and warm NVIDIA GPUs are now: by NVML, on a Jetson by what its kernel tells."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmo2_ros.errors import ConfigError

_MB = 1e6
_SLOWED = {  # bits of nvmlDeviceGetCurrentClocksEventReasons that somebody should act upon
    0x20: "by heat (software)",
    0x40: "by heat (hardware)",
    0x80: "by its power supply",
}
# Names of a Jetson's GPU in its device tree: Xavier, TX2, Orin, and later ones.
_JETSON_GPUS = frozenset({"gv11b", "gp10b", "ga10b", "gb10b", "gpu"})
_JETSON_THERMAL = frozenset({"gpu-thermal", "gpu-therm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One GPU at one time; None for what it does not tell."""

    name: str
    load: float | None = None  # 0..1, of the last moments
    memory_used_mb: float | None = None  # a Jetson's GPU has none of its own
    memory_mb: float | None = None
    temperature_c: float | None = None
    clock_mhz: float | None = None
    slowed: str = ""  # why it runs slower than it could, "" if it does not or does not tell

    @property
    def is_silent(self) -> bool:
        """Whether nothing can be told of it: its driver has lost it."""
        told = (self.load, self.memory_used_mb, self.temperature_c, self.clock_mhz)
        return all(value is None for value in told)


class GpuMeter:
    """Reads the GPUs of this machine; a machine without one costs nothing.

    Args:
        root: where this system's files are.

    Raises:
        ConfigError: there is a GPU with a driver, and no package that reads it.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._read: Callable[[], tuple[GpuReading, ...]] = tuple
        jetson = _jetson_folder(root)
        if jetson is not None:
            self._read = lambda: (_jetson_reading(root, jetson),)
            return
        if not (root / "proc/driver/nvidia").is_dir():
            return
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError as error:
            raise ConfigError(
                "this GPU's load cannot be read without nvidia-ml-py; `pip install nvidia-ml-py`"
            ) from error
        try:
            nvml.nvmlInit()
            gpus = []
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                name = nvml.nvmlDeviceGetName(handle)
                gpus.append((handle, name.decode() if isinstance(name, bytes) else name))
        except nvml.NVMLError as error:
            raise ConfigError(
                f"the GPU's driver does not answer ({error}); `molmo2 doctor` tells what is wrong"
            ) from error
        self._read = lambda: tuple(_nvml_reading(nvml, handle, name) for handle, name in gpus)

    def read(self) -> tuple[GpuReading, ...]:
        """Each GPU as it is now, in the driver's order; () where there is none."""
        return self._read()


def _nvml_reading(nvml: Any, handle: Any, name: str) -> GpuReading:
    def told(ask: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, ask)(handle, *arguments)
        except AttributeError:  # an older package of the same name
            return None
        except nvml.NVMLError:  # not every GPU has everything, and a driver may go
            return None

    use, memory = told("nvmlDeviceGetUtilizationRates"), told("nvmlDeviceGetMemoryInfo")
    reasons = told("nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:  # its name in drivers and packages before 2023
        reasons = told("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
    return GpuReading(
        name=name,
        load=None if use is None else use.gpu / 100,
        memory_used_mb=None if memory is None else memory.used / _MB,
        memory_mb=None if memory is None else memory.total / _MB,
        temperature_c=told("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        clock_mhz=told("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        slowed=" and ".join(why for bit, why in _SLOWED.items() if reasons & bit),
    )


def _jetson_folder(root: Path) -> Path | None:
    """Where the kernel of a Jetson tells of its GPU: a folder of /sys/class/devfreq."""
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        name = _text(folder / "device/of_node/name").rstrip("\0").strip()
        if name in _JETSON_GPUS and (folder / "device/load").exists():
            return folder
    return None


def _jetson_reading(root: Path, folder: Path) -> GpuReading:
    zones = (root / "sys/class/thermal").glob("thermal_zone*")
    warm = [_number(z / "temp") for z in zones if _text(z / "type").lower() in _JETSON_THERMAL]
    load = _number(folder / "device/load")  # thousandths
    hertz = _number(folder / "cur_freq")
    celsius = next((value for value in warm if value is not None), None)  # thousandths
    board = _text(root / "proc/device-tree/model").rstrip("\0").strip()
    return GpuReading(
        name=board or "Jetson",
        load=None if load is None else load / 1e3,
        temperature_c=None if celsius is None else celsius / 1e3,
        clock_mhz=None if hertz is None else hertz / 1e6,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # a sensor that sleeps may answer with one
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
