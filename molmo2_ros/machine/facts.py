"""What was found on a machine, as plain facts that rules are asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from molmo2_ros.machine.elf import GpuLibrary

GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU that its driver names."""

    name: str
    sm: int | None  # compute capability times ten; None where nobody tells
    memory_gb: float | None  # of its own, 10^9 bytes; None where it shares the system's
    driver: str  # version, "" where unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Jetson:
    """The board, and the system that NVIDIA ships for it."""

    board: str  # as the device tree names it
    l4t: str  # release of Jetson Linux, such as "36.4.3"
    jetpack: str  # such as "6.2"; "" where unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A Python package that has to load libraries of its own."""

    version: str  # "" where it is not installed
    error: str = ""  # why it cannot be imported

    @property
    def works(self) -> bool:
        """Whether it was imported."""
        return bool(self.version) and not self.error


ABSENT = Package(version="")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntime:
    """onnxruntime as it presents itself, and the libraries of its providers."""

    package: Package = ABSENT
    distributions: tuple[str, ...] = ()  # pip's names of those that are installed
    providers: tuple[str, ...] = ()
    libraries: Mapping[str, GpuLibrary] = field(default_factory=dict)  # by provider
    plugin: Package = ABSENT  # the TensorRT-RTX provider; its error is that of registering it
    plugin_gpus: int = 0  # that it takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ros:
    """The ROS 2 of this shell."""

    distro: str = ""  # "" where none is sourced
    rclpy: Package = ABSENT
    rmw: str = ""  # the middleware in use
    cv_bridge: bool = False  # whether it is there, which ties the version of NumPy
    apt: bool = False  # installed below /opt/ros rather than as Python wheels


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The kernel's limits that decide whether large images arrive, None where it does not tell."""

    rmem_max: int | None = None  # bytes a socket may buffer
    ipfrag_high_thresh: int | None = None  # bytes of fragments that may wait for the rest
    ipfrag_time: int | None = None  # seconds that they may wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything that `molmo2 doctor` judges."""

    arch: str  # as `uname -m` says
    system: str  # distribution of Linux
    python: tuple[int, int]
    cores: int
    memory_gb: float  # 10^9 bytes
    disk_free_gb: float  # where engines and caches are kept
    shm_gb: float | None = None  # size of /dev/shm
    stale_segments: int = 0  # shared memory that dead nodes of Fast DDS left behind
    packages: Mapping[str, str] = field(default_factory=dict)  # versions by pip's name
    gpus: tuple[Gpu, ...] = ()
    gpu_on_bus: bool = False  # an NVIDIA GPU is plugged in, whether or not a driver knows it
    jetson: Jetson | None = None
    onnxruntime: OnnxRuntime = field(default_factory=OnnxRuntime)
    tensorrt: Package = ABSENT
    tensorrt_rtx: Package = ABSENT
    loadable: frozenset[str] = frozenset()  # shared libraries that a program finds, by file name
    ros: Ros = field(default_factory=Ros)
    network: Network = field(default_factory=Network)
    environment: Mapping[str, str] = field(default_factory=dict)  # variables that matter, if set

    @property
    def gpu(self) -> Gpu | None:
        """The GPU that engines run on: the first."""
        return self.gpus[0] if self.gpus else None

    @property
    def model_memory_gb(self) -> float:
        """Memory in which a model has to fit, with all that lives beside it."""
        gpu = self.gpu
        return self.memory_gb if gpu is None or gpu.memory_gb is None else gpu.memory_gb
