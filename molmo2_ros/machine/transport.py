"""Judges ROS 2 and what decides whether large images arrive from another process."""

from __future__ import annotations

from collections.abc import Iterator

from molmo2_ros.machine.check import Check, ok, warn
from molmo2_ros.machine.facts import Machine

_OLD_VARIABLE = ("humble", "iron", "jazzy")  # whose Fast DDS reads FASTRTPS_ only
_PROFILE = "$(ros2 pkg prefix --share molmo2_ros)/config/fastdds_shared_memory.xml"
_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_DISTRO_OF_UBUNTU = {"22.04": "humble", "24.04": "jazzy"}
# A raw image of 1280x720 in pieces, with another one on its heels.
_RMEM_MAX, _IPFRAG_HIGH, _IPFRAG_TIME = 2**23, 2**27, 3
_SEGMENT_GB = 0.034  # of shared memory that our profile takes for each node
_MANY_SEGMENTS = 64


def check_transport(machine: Machine) -> list[Check]:
    """All of this file's lines."""
    if not machine.ros.rclpy.version:
        distro = next((d for u, d in _DISTRO_OF_UBUNTU.items() if u in machine.system), "DISTRO")
        return [
            warn(
                "ros",
                "none in this shell: `molmo2 ask` works, the nodes do not",
                f"source /opt/ros/{distro}/setup.bash",
            )
        ]
    return [*_ros(machine), *_profile(machine), *_network(machine), *_shared_memory(machine)]


def profile_variable(distro: str) -> str:
    """The variable by which Fast DDS of a ROS distribution finds its profile."""
    fast = "FASTRTPS" if distro in _OLD_VARIABLE else "FASTDDS"
    return f"{fast}_DEFAULT_PROFILES_FILE"


def _ros(machine: Machine) -> Iterator[Check]:
    ros = machine.ros
    found = f"{ros.distro or 'unknown distribution'}, rclpy {ros.rclpy.version}"
    if ros.rclpy.works:
        yield ok("ros", f"{found}, {ros.rmw or 'unknown middleware'}")
    else:
        cure = "source its setup.bash in a fresh shell"
        if "_ROS_WHEELS" in ros.rclpy.error or "librcl" in ros.rclpy.error:
            cure = "env -u _ROS_WHEELS_BOOTSTRAP_COMPLETE molmo2 doctor"
        yield warn("ros", f"{found} cannot be imported ({ros.rclpy.error})", cure)


def _profile(machine: Machine) -> Iterator[Check]:
    """Shared memory for large images; Fast DDS loses most of them without."""
    name, told = "ros.shared_memory", machine.environment
    rmw = told.get("RMW_IMPLEMENTATION", machine.ros.rmw)
    if rmw and "fastrtps" not in rmw:
        yield ok(name, f"{rmw} has its own ways; our profile is for Fast DDS")
        return
    right = profile_variable(machine.ros.distro)
    wrong = next(variable for variable in _VARIABLES if variable != right)
    cure = f'export {right}="{_PROFILE}" for the camera\'s driver; our camera_node does so itself'
    if "LARGE_DATA" in told.get("FASTDDS_BUILTIN_TRANSPORTS", ""):
        yield warn(
            name,
            "LARGE_DATA is set: no image arrives from or at a process without it",
            "unset FASTDDS_BUILTIN_TRANSPORTS",
        )
    elif right in told:
        yield ok(name, f"{right}={told[right]}")
    elif wrong in told and machine.ros.distro in _OLD_VARIABLE:
        yield warn(name, f"{wrong} is set, and {machine.ros.distro} reads {right}", cure)
    elif wrong in told:
        yield ok(name, f"{wrong}={told[wrong]} (an old name, read with a warning)")
    else:
        yield warn(name, "no profile: large raw images get lost between processes", cure)


def _network(machine: Machine) -> Iterator[Check]:
    """Kernel limits for images that come over UDP, from another machine above all."""
    network = machine.network
    small = []
    if network.rmem_max is not None and network.rmem_max < _RMEM_MAX:
        small.append(("net.core.rmem_max", network.rmem_max, 2**31 - 1))
    if network.ipfrag_high_thresh is not None and network.ipfrag_high_thresh < _IPFRAG_HIGH:
        small.append(("net.ipv4.ipfrag_high_thresh", network.ipfrag_high_thresh, _IPFRAG_HIGH))
    if network.ipfrag_time is not None and network.ipfrag_time > _IPFRAG_TIME:
        small.append(("net.ipv4.ipfrag_time", network.ipfrag_time, _IPFRAG_TIME))
    if not small:
        yield ok("ros.network", "the kernel's limits let large images through")
        return
    yield warn(
        "ros.network",
        "for raw images from another machine: " + ", ".join(f"{n} is {v}" for n, v, _ in small),
        "sudo sysctl -w " + " ".join(f"{name}={wanted}" for name, _, wanted in small),
    )


def _shared_memory(machine: Machine) -> Iterator[Check]:
    name = "ros.dev_shm"
    if machine.stale_segments > _MANY_SEGMENTS:
        yield warn(
            name,
            f"{machine.stale_segments} segments of Fast DDS, most of dead nodes",
            "with no ROS process running: rm -f /dev/shm/fastdds_* /dev/shm/fastrtps_*",
        )
    elif machine.shm_gb is not None and machine.shm_gb < 4 * _SEGMENT_GB:
        yield warn(
            name,
            f"/dev/shm has {machine.shm_gb * 1000:.0f} MB, and each node takes 34",
            "docker run --shm-size=1g (or --ipc=host)",
        )
    elif machine.shm_gb is not None:
        yield ok(name, f"/dev/shm has {machine.shm_gb:.1f} GB")
