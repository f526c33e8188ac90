"""Facts from the text that commands and files of a system give."""

from __future__ import annotations

import re

from molmo2_ros.machine.facts import GB, Gpu, Jetson

# Jetson Linux to JetPack, by the longest beginning that is known.
_JETPACKS = {
    "36.2": "6.0",
    "36.3": "6.0",
    "36.4": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "38.2": "7.0",
    "38.4": "7.1",
}
_BOARD_SM = {"thor": 110, "orin": 87, "xavier": 72}
_DISTRO_OF_RCLPY = {(3, 3): "humble", (7, 1): "jazzy", (9, 1): "kilted"}


def read_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """GPUs of `nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version` in CSV.

    Args:
        text: one GPU a line, memory in MiB; what a GPU does not have reads [N/A].
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return tuple(
        Gpu(
            name=name,
            sm=_capability(capability),
            memory_gb=int(memory) * 2**20 / GB if memory.isdecimal() else None,
            driver=driver if re.match(r"\d", driver) else "",
        )
        for name, capability, memory, driver in (row for row in rows if len(row) == 4)
    )


def read_driver(version_text: str, information: list[str]) -> tuple[Gpu, ...]:
    """GPUs of /proc/driver/nvidia, where nvidia-smi is missing.

    Args:
        version_text: of the file `version`.
        information: of the file `information` of each GPU.
    """
    found = re.search(r"^NVRM version:.*?\s(\d{3,}\.[\d.]+)", version_text, re.MULTILINE)
    names = [re.search(r"^Model:\s*(.+)$", text, re.MULTILINE) for text in information]
    driver = found[1] if found else ""
    return tuple(
        Gpu(name=name[1].strip(), sm=None, memory_gb=None, driver=driver) for name in names if name
    )


def read_jetson(board: str, release: str, jetpack: str) -> Jetson | None:
    """The board and its system; None on anything but a Jetson.

    Args:
        board: of /proc/device-tree/model.
        release: of /etc/nv_tegra_release, "# R36 (release), REVISION: 4.3, ...".
        jetpack: version of Debian's package nvidia-jetpack, such as "6.2+b77"; "" without it.
    """
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    if "jetson" not in board.casefold() and not found:
        return None
    l4t = f"{found[1]}.{found[2].removesuffix('.0')}" if found else ""
    known = [prefix for prefix in _JETPACKS if f"{l4t}.".startswith(f"{prefix}.")]
    guessed = _JETPACKS[max(known, key=len)] if known else ""
    return Jetson(
        board=board.rstrip("\0").strip() or "Jetson",
        l4t=l4t,
        jetpack=jetpack.partition("+")[0].strip() or guessed,
    )


def board_gpu(jetson: Jetson, driver: str = "") -> Gpu:
    """The GPU that a Jetson has by its name, sharing the board's memory."""
    name = jetson.board.casefold()
    capability = next((sm for word, sm in _BOARD_SM.items() if word in name), None)
    return Gpu(name=jetson.board, sm=capability, memory_gb=None, driver=driver)


def read_meminfo(text: str) -> float:
    """10^9 bytes of memory that /proc/meminfo tells, 0 where it does not."""
    found = re.search(r"^MemTotal:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 / GB if found else 0.0


def read_os_release(text: str) -> str:
    """Name of the distribution in /etc/os-release, "" where it does not tell."""
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)"?$', text, re.MULTILINE)
    return found[1] if found else ""


def read_ldconfig(text: str) -> frozenset[str]:
    """Names of the libraries that `ldconfig -p` lists."""
    return frozenset(re.findall(r"^\s+(\S+) \(", text, re.MULTILINE))


def distro_of_rclpy(version: str) -> str:
    """The ROS distribution that a version of rclpy belongs to, "" where it is not known."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return _DISTRO_OF_RCLPY.get((int(found[1]), int(found[2])), "") if found else ""


def _capability(text: str) -> int | None:
    found = re.fullmatch(r"(\d+)\.(\d)", text)
    return int(found[1] + found[2]) if found else None
