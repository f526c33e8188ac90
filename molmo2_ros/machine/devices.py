"""The devices that a plan can be made for: memory, its bandwidth, and dense arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from molmo2_ros.errors import ConfigError

# Kept for the system, ROS and CUDA's own libraries. An assumption, not measured.
_RESERVE_SHARED_GB, _RESERVE_OWN_GB = 1.2, 0.6


def usable_gb(memory_gb: float, *, shared: bool) -> float:
    """Memory that is left for a model.

    Args:
        memory_gb: all of it.
        shared: whether the system lives in the same memory.
    """
    return memory_gb - (_RESERVE_SHARED_GB if shared else _RESERVE_OWN_GB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU, with its data sheet's figures."""

    name: str
    title: str
    sm: int  # compute capability times ten
    memory_gb: float  # 10^9 bytes
    shared: bool  # whether the system lives in the same memory
    bandwidth_gbs: float  # 10^9 bytes a second
    tflops: float  # float16, dense, with float32 sums; 10^12 operations a second
    # Share that others reach: of arithmetic for "vision" and "prefill", of bandwidth for "token".
    # Nothing is known of a stage that is absent.
    reached: Mapping[str, float] = field(default_factory=dict)

    @property
    def usable_gb(self) -> float:
        """Memory that is left for a model."""
        return usable_gb(self.memory_gb, shared=self.shared)


# NVIDIA's own runtime for language models of this size, as published for JetPack 7.2: decoding
# reaches 72-85 % of the bandwidth, prefill and vision 40-45 % of Orin's arithmetic.
_ORIN = {"vision": 0.42, "prefill": 0.42, "token": 0.75}
_THOR = {"vision": 0.275, "token": 0.75}

DEVICES = {
    device.name: device
    for device in (
        # Orin: streaming multiprocessors x clock x 2048 float16 operations; the boards' headlines
        # count sparsity and a second accelerator.
        Device(
            name="orin-nano",
            title="Jetson Orin Nano 8GB",
            sm=87,
            memory_gb=8,
            shared=True,
            bandwidth_gbs=102.4,
            tflops=17.0,
            reached=_ORIN,
        ),
        Device(
            name="orin-nx",
            title="Jetson Orin NX 16GB",
            sm=87,
            memory_gb=16,
            shared=True,
            bandwidth_gbs=102.4,
            tflops=19.2,
            reached=_ORIN,
        ),
        Device(
            name="agx-orin",
            title="Jetson AGX Orin 64GB",
            sm=87,
            memory_gb=64,
            shared=True,
            bandwidth_gbs=204.8,
            tflops=42.5,
            reached=_ORIN,
        ),
        Device(
            name="agx-thor",
            title="Jetson AGX Thor (T5000)",
            sm=110,
            memory_gb=128,
            shared=True,
            bandwidth_gbs=273,
            tflops=258,
            reached=_THOR,
        ),
        Device(
            name="rtx-4090",
            title="GeForce RTX 4090",
            sm=89,
            memory_gb=25.7,
            shared=False,
            bandwidth_gbs=1008,
            tflops=165,
        ),
        Device(
            name="h100",
            title="H100 SXM",
            sm=90,
            memory_gb=85.5,
            shared=False,
            bandwidth_gbs=3350,
            tflops=989,
        ),
        Device(
            name="h200",
            title="H200",
            sm=90,
            memory_gb=150.7,
            shared=False,
            bandwidth_gbs=4800,
            tflops=989,
        ),
    )
}


def find_device(name: str) -> Device:
    """A device by its name.

    Raises:
        ConfigError: an unknown one; the message lists the known.
    """
    try:
        return DEVICES[name.casefold()]
    except KeyError:
        raise ConfigError(
            f"{name!r} is no known device, expected one of {', '.join(DEVICES)}"
        ) from None
