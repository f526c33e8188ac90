"""Looks at a machine: its GPUs, packages, ROS 2, network and memory.

A library that breaks when it is loaded breaks its probe, never the doctor.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from molmo2_ros.errors import DataError
from molmo2_ros.machine import readings
from molmo2_ros.machine.elf import GpuLibrary, read_library
from molmo2_ros.machine.facts import (
    ABSENT,
    GB,
    Gpu,
    Jetson,
    Machine,
    Network,
    OnnxRuntime,
    Package,
    Ros,
)
from molmo2_ros.machine.outside import Outside

_VARIABLES = (
    "FASTDDS_BUILTIN_TRANSPORTS",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
    "MOLMO2_ROS_SHARED_MEMORY",
    "RMW_IMPLEMENTATION",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_DISTRO",
    "ROS_DOMAIN_ID",
    "ROS_LOCALHOST_ONLY",
)
_PACKAGES = ("molmo2_ros", "numpy", "opencv-python-headless", "opencv-python", "tokenizers")
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_LIBRARIES = {
    "CUDAExecutionProvider": "libonnxruntime_providers_cuda.so",
    "TensorrtExecutionProvider": "libonnxruntime_providers_tensorrt.so",
}
NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=name,compute_cap,memory.total,driver_version",
    "--format=csv,noheader,nounits",
)
LDCONFIG = ("/sbin/ldconfig", "-p")
JETPACK = ("dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack")
# What is run in a process of its own; each prints one JSON object.
ONNXRUNTIME = """
import json, onnxruntime as o
print(json.dumps({"version": o.__version__, "providers": o.get_available_providers(),
                  "folder": o.__path__[0] + "/capi"}))
"""
PLUGIN = """
import json, onnxruntime as o, onnxruntime_ep_nv_tensorrt_rtx as p
found = {"version": p.__version__, "gpus": 0}
try:
    o.register_execution_provider_library(p.get_ep_name(), p.get_library_path())
    found["gpus"] = sum(d.ep_name == p.get_ep_name() for d in o.get_ep_devices())
except Exception as error:
    found["error"] = str(error)
print(json.dumps(found))
"""
RCLPY = """
import importlib.util, json, rclpy.utilities
print(json.dumps({"version": "imported", "rmw": rclpy.utilities.get_rmw_implementation_identifier(),
                  "cv_bridge": importlib.util.find_spec("cv_bridge") is not None}))
"""
TENSORRT = 'import json, tensorrt as t; print(json.dumps({"version": t.__version__}))'
TENSORRT_RTX = """
import json, tensorrt_rtx_libs, tensorrt_rtx_bindings as t
print(json.dumps({"version": t.__version__}))
"""


def probe(outside: Outside | None = None) -> Machine:
    """Everything about this machine that decides what it can run."""
    outside = outside or Outside()
    jetson = readings.read_jetson(
        outside.text("proc/device-tree/model"),
        outside.text("etc/nv_tegra_release"),
        outside.output(JETPACK),
    )
    shm = outside.root / "dev/shm"
    return Machine(
        arch=outside.uname,
        system=readings.read_os_release(outside.text("etc/os-release")),
        python=outside.python,
        cores=outside.text("proc/cpuinfo").count("processor\t:"),
        memory_gb=readings.read_meminfo(outside.text("proc/meminfo")),
        disk_free_gb=_space_gb(Path(outside.environ.get("HOME", "/")), free=True) or 0.0,
        shm_gb=_space_gb(shm, free=False),
        stale_segments=sum(1 for name in ("fastdds_*", "fastrtps_*") for _ in shm.glob(name)),
        packages={name: outside.packages[name] for name in _PACKAGES if name in outside.packages},
        gpus=_gpus(outside, jetson),
        gpu_on_bus=_gpu_on_bus(outside.root),
        jetson=jetson,
        onnxruntime=_onnxruntime(outside),
        tensorrt=_package(outside, "tensorrt", TENSORRT),
        tensorrt_rtx=_package(outside, "tensorrt_rtx_libs", TENSORRT_RTX),
        loadable=_loadable(outside),
        ros=_ros(outside),
        network=Network(
            rmem_max=outside.number("proc/sys/net/core/rmem_max"),
            ipfrag_high_thresh=outside.number("proc/sys/net/ipv4/ipfrag_high_thresh"),
            ipfrag_time=outside.number("proc/sys/net/ipv4/ipfrag_time"),
        ),
        environment={n: outside.environ[n] for n in _VARIABLES if outside.environ.get(n)},
    )


def _gpus(outside: Outside, jetson: Jetson | None) -> tuple[Gpu, ...]:
    """GPUs by nvidia-smi, else by the driver's files; a Jetson's gaps are filled by its board."""
    gpus = readings.read_nvidia_smi(outside.output(NVIDIA_SMI))
    if not gpus:
        folder = outside.root / "proc/driver/nvidia"
        told = [path.read_text() for path in sorted(folder.glob("gpus/*/information"))]
        gpus = readings.read_driver(outside.text("proc/driver/nvidia/version"), told)
    if jetson is None:
        return gpus
    board = readings.board_gpu(jetson, gpus[0].driver if gpus else "")
    return (replace(board, sm=(gpus[0].sm if gpus else None) or board.sm),)


def _gpu_on_bus(root: Path) -> bool:
    """Whether PCI lists a display controller of NVIDIA's."""
    for folder in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = ((folder / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            return True
    return False


def _onnxruntime(outside: Outside) -> OnnxRuntime:
    installed = tuple(name for name in _RUNTIMES if name in outside.packages)
    found = outside.loaded(ONNXRUNTIME)
    if "version" not in found:
        version = next((outside.packages[name] for name in installed), "")
        return OnnxRuntime(
            package=Package(version=version, error=found["error"] if version else ""),
            distributions=installed,
        )
    plugin, gpus = ABSENT, 0
    if any(name.startswith("onnxruntime-ep-nv-tensorrt-rtx") for name in outside.packages):
        told = outside.loaded(PLUGIN)
        plugin = Package(version=told.get("version", "unknown"), error=told.get("error", ""))
        gpus = told.get("gpus", 0)
    return OnnxRuntime(
        package=Package(version=found["version"]),
        distributions=installed,
        providers=tuple(found["providers"]),
        libraries=_libraries(outside.root / str(found["folder"]).lstrip("/")),
        plugin=plugin,
        plugin_gpus=gpus,
    )


def _libraries(folder: Path) -> dict[str, GpuLibrary]:
    """The providers' libraries that can be looked into."""
    libraries = {}
    for provider, name in _LIBRARIES.items():
        try:
            libraries[provider] = read_library(folder / name)
        except DataError:
            continue
    return libraries


def _package(outside: Outside, name: str, code: str) -> Package:
    """A package that finds its libraries, or why it does not."""
    found = outside.loaded(code)
    if "version" in found:
        return Package(version=found["version"])
    missing = f"No module named '{name}'" in found["error"]
    return ABSENT if missing else Package(version="unknown", error=found["error"])


def _ros(outside: Outside) -> Ros:
    found = outside.loaded(RCLPY)
    missing = "No module named 'rclpy'" in found.get("error", "")
    version = outside.packages.get("ros-rclpy") or outside.packages.get("rclpy") or "unknown"
    distro = outside.environ.get("ROS_DISTRO") or readings.distro_of_rclpy(version)
    return Ros(
        distro="" if missing else distro,
        rclpy=ABSENT if missing else Package(version=version, error=found.get("error", "")),
        rmw=found.get("rmw", ""),
        cv_bridge=found.get("cv_bridge", False),
        apt="/opt/ros" in outside.environ.get("AMENT_PREFIX_PATH", ""),
    )


def _loadable(outside: Outside) -> frozenset[str]:
    """Libraries that the linker finds, and those that pip installed and onnxruntime looks for."""
    names = readings.read_ldconfig(outside.output(LDCONFIG))
    folders = [outside.root / part.lstrip("/") for part in _library_path(outside.environ)]
    if outside.root == Path("/"):
        folders += [Path(path) for entry in sys.path for path in Path(entry).glob("nvidia/*/lib")]
    return names | {path.name for folder in folders for path in folder.glob("lib*.so*")}


def _library_path(environ: Mapping[str, str]) -> list[str]:
    return [part for part in environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if part]


def _space_gb(folder: Path, *, free: bool) -> float | None:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return (usage.free if free else usage.total) / GB
