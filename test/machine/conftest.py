"""Four machines written down as their files and the output of their commands."""

import json
import shutil
import struct
from pathlib import Path

import pytest

from molmo2_ros.machine import probes
from molmo2_ros.machine.outside import Output, Outside
from molmo2_ros.machine.probes import probe
from molmo2_ros.runtime.engine import NANO

CAPI = "opt/venv/onnxruntime/capi"
CUDA_LIBRARY = f"{CAPI}/libonnxruntime_providers_cuda.so"
TENSORRT_LIBRARY = f"{CAPI}/libonnxruntime_providers_tensorrt.so"
CUBIN, PTX = 2, 1


def library_bytes(cubins=(), ptx=(), needs=()):
    """A small shared library whose headers name these architectures and libraries."""
    entries = b"".join(
        struct.pack("<HHIQIIHHI32x", kind, 257, 64, 8, 0, 0, 0, 0, sm) + b"\x7fcode\0\0\0"
        for kind, sms in ((CUBIN, cubins), (PTX, ptx))
        for sm in sms
    )
    half = len(entries) // 2 // 72 * 72
    fatbin = b"".join(  # two of them with padding between, as a linker puts them
        struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(part)) + part + bytes(24)
        for part in (entries[:half], entries[half:])
    )
    strings, dynamic = b"\0", b""
    for name in needs:
        dynamic += struct.pack("<qQ", 1, len(strings))
        strings += name.encode() + b"\0"
    dynamic += struct.pack("<qQ", 5, 0x1000) + bytes(16)
    named = {"": b"", ".dynstr": strings, ".dynamic": dynamic, ".nv_fatbin": fatbin}
    names = b"".join(name.encode() + b"\0" for name in (*named, ".shstrtab"))
    body, headers, place = b"", b"", 64
    for name, content in {**named, ".shstrtab": names}.items():
        index = names.index(name.encode() + b"\0")
        headers += struct.pack("<IIQQQQ24x", index, 1, 0, 0, place, len(content))
        body, place = body + content, place + len(content)
    start = struct.pack(
        "<6s10xHHIQQQIHHHHHH", b"\x7fELF\x02\x01", 3, 183, 1, 0, 0, place, 0, 64, 0, 0, 64, 5, 4
    )
    return start + body + headers


CUDA_12 = ("libcublasLt.so.12", "libcublas.so.12", "libcudart.so.12", "libcudnn.so.9", "libc.so.6")
CUDA_13 = ("libcublasLt.so.13", "libcublas.so.13", "libcudart.so.13", "libcuda.so.1", "libc.so.6")
TENSORRT_10 = ("libnvinfer.so.10", "libnvonnxparser.so.10", "libcudart.so.13", "libm.so.6")
MODULE = "ModuleNotFoundError: No module named {!r}\n"


def ldconfig(*names):
    lines = [f"\t{name} (libc6,x86-64) => /usr/lib/{name}" for name in names]
    return f"{len(lines)} libs found in cache `/etc/ld.so.cache'\n" + "\n".join(lines)


def onnxruntime(version, *providers):
    names = [f"{provider}ExecutionProvider" for provider in providers]
    return json.dumps({"version": version, "providers": names, "folder": f"/{CAPI}"})


def rclpy(rmw="rmw_fastrtps_cpp", cv_bridge=True):
    return json.dumps({"version": "imported", "rmw": rmw, "cv_bridge": cv_bridge})


NETWORK = {
    "proc/sys/net/core/rmem_max": "212992\n",
    "proc/sys/net/ipv4/ipfrag_high_thresh": "4194304\n",
    "proc/sys/net/ipv4/ipfrag_time": "30\n",
}

AGX_ORIN = {
    "uname": "aarch64",
    "python": (3, 10),
    "environ": {"ROS_DISTRO": "humble", "AMENT_PREFIX_PATH": "/opt/ros/humble"},
    "packages": {"numpy": "1.26.4", "onnxruntime-gpu": "1.23.0", "rclpy": "3.3.15"},
    "files": {
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, "
        "EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n",
        "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
        "proc/meminfo": "MemTotal:       64349172 kB\nMemFree:        50000000 kB\n",
        "proc/cpuinfo": "".join(f"processor\t: {i}\nmodel name\t: ARMv8\n" for i in range(12)),
        **NETWORK,
    },
    # Built for JetPack 6, by whoever builds for it: kernels for sm 87 alone.
    "libraries": {CUDA_LIBRARY: library_bytes(cubins=(87,), needs=CUDA_12)},
    "outputs": {
        probes.NVIDIA_SMI: "Orin (nvgpu), [N/A], [N/A], N/A\n",
        probes.JETPACK: "6.2+b77",
        probes.LDCONFIG: ldconfig(*CUDA_12, "libcuda.so.1", "libnvinfer.so.10"),
        probes.ONNXRUNTIME: onnxruntime("1.23.0", "CUDA", "CPU"),
        probes.TENSORRT: '{"version": "10.3.0"}\n',
        probes.RCLPY: rclpy(),
    },
}
THOR = {
    "uname": "aarch64",
    "python": (3, 12),
    "environ": {"ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": "/opt/ros/jazzy"},
    "packages": {"numpy": "2.3.1", "onnxruntime-gpu": "1.31.1", "rclpy": "7.1.5"},
    "files": {
        "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
        "etc/nv_tegra_release": "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, "
        "EABI: aarch64, DATE: Fri Aug 22 00:55:42 UTC 2025\n",
        "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.3 LTS"\n',
        "proc/meminfo": "MemTotal:       128804672 kB\n",
        "proc/cpuinfo": "".join(f"processor\t: {i}\n" for i in range(14)),
        **NETWORK,
    },
    # What pip brings for aarch64: no kernel for this GPU.
    "libraries": {CUDA_LIBRARY: library_bytes(cubins=(89, 90, 120, 121), needs=CUDA_13)},
    "outputs": {
        probes.NVIDIA_SMI: "NVIDIA Thor, 11.0, [N/A], 580.00\n",
        probes.LDCONFIG: ldconfig(*CUDA_13),
        probes.ONNXRUNTIME: onnxruntime("1.31.1", "CUDA", "CPU"),
        probes.TENSORRT: '{"version": "10.13.3.9"}\n',
        probes.RCLPY: rclpy(),
    },
}
DESKTOP = {
    "uname": "x86_64",
    "python": (3, 12),
    "environ": {"HOME": "/"},
    "packages": {
        "numpy": "2.4.6",
        "opencv-python-headless": "5.0.0.93",
        "onnxruntime-gpu": "1.31.1",
        "onnxruntime-ep-nv-tensorrt-rtx-cu13": "0.5.0",
    },
    "files": {
        "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\n',
        "proc/meminfo": "MemTotal:       65690000 kB\n",
        "proc/cpuinfo": "".join(f"processor\t: {i}\n" for i in range(32)),
        "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
        "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
    },
    "libraries": {
        CUDA_LIBRARY: library_bytes(cubins=(75, 80, 86, 89, 90, 120), needs=CUDA_13),
        TENSORRT_LIBRARY: library_bytes(needs=TENSORRT_10),
    },
    "outputs": {
        probes.NVIDIA_SMI: "NVIDIA GeForce RTX 4090, 8.9, 24564, 580.95.05\n",
        probes.LDCONFIG: ldconfig(*CUDA_13),
        probes.ONNXRUNTIME: onnxruntime("1.31.1", "Tensorrt", "CUDA", "CPU"),
        probes.PLUGIN: '{"version": "0.5.0", "gpus": 1}\n',
    },
}
LAPTOP = {
    "uname": "x86_64",
    "python": (3, 12),
    "environ": {},
    "packages": {"numpy": "2.4.6", "onnxruntime": "1.32.0"},
    "files": {
        "etc/os-release": 'PRETTY_NAME="Fedora Linux 42 (Workstation Edition)"\n',
        "proc/meminfo": "MemTotal:        7951104 kB\n",
        "proc/cpuinfo": "".join(f"processor\t: {i}\n" for i in range(8)),
    },
    "libraries": {},
    "outputs": {
        probes.LDCONFIG: ldconfig("libc.so.6"),
        probes.ONNXRUNTIME: onnxruntime("1.32.0", "Azure", "CPU"),
    },
}
MACHINES = {"agx-orin": AGX_ORIN, "thor": THOR, "desktop": DESKTOP, "laptop": LAPTOP}
_ABSENT = {
    probes.TENSORRT: MODULE.format("tensorrt"),
    probes.TENSORRT_RTX: MODULE.format("tensorrt_rtx_libs"),
    probes.RCLPY: MODULE.format("rclpy"),
    probes.ONNXRUNTIME: MODULE.format("onnxruntime"),
}


def lay_out(captured, root):
    """Put a captured machine's files below a folder; what is outside of our process is there."""
    for name, content in captured["files"].items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for name, content in captured["libraries"].items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def run(command):
        known = command[2] if len(command) == 3 and command[1] == "-c" else tuple(command)
        if known in captured["outputs"]:
            return Output(status=0, out=captured["outputs"][known])
        return Output(status=1 if known in _ABSENT else 127, err=_ABSENT.get(known, ""))

    return Outside(
        root=Path(root),
        run=run,
        environ=captured["environ"],
        packages=captured["packages"],
        uname=captured["uname"],
        python=captured["python"],
    )


@pytest.fixture(scope="session")
def make_library():
    """Builds a small shared library: cubins, ptx, needs."""
    return library_bytes


@pytest.fixture
def outside(tmp_path):
    """Puts a captured machine, with changes to its parts, where `probe` looks."""

    def put(name, **changes):
        captured = {**MACHINES[name], **changes}
        for part, values in changes.items():
            if isinstance(values, dict):
                captured[part] = {**MACHINES[name][part], **values}
        return lay_out(captured, tmp_path)

    return put


@pytest.fixture(scope="session")
def machines(tmp_path_factory):
    """The facts of each captured machine."""
    return {
        name: probe(lay_out(captured, tmp_path_factory.mktemp(name)))
        for name, captured in MACHINES.items()
    }


@pytest.fixture
def engine_folder(tmp_path):
    """A copy of the shipped engine that a test may spoil."""
    folder = tmp_path / "engine"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
    return folder
