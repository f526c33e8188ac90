"""What is said of ROS 2 and of the way that images take."""

from dataclasses import replace

import pytest

from molmo2_ros.machine.facts import Network, Package
from molmo2_ros.machine.probes import probe
from molmo2_ros.machine.transport import check_transport, profile_variable
from molmo2_ros.ros import compat

FAST, OLD = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"


def lines(machine):
    return {check.name: check for check in check_transport(machine)}


def told(machine, **environment):
    return lines(replace(machine, environment=environment))["ros.shared_memory"]


def test_without_ros_one_line_says_what_to_source(machines):
    (check,) = check_transport(machines["desktop"])
    assert (check.state, check.cure) == ("warn", "source /opt/ros/jazzy/setup.bash")


def test_ros_that_is_sourced_is_named(machines):
    assert lines(machines["agx-orin"])["ros"].found == "humble, rclpy 3.3.15, rmw_fastrtps_cpp"


def test_wheels_that_lost_their_libraries_have_a_cure(machines):
    broken = replace(
        machines["thor"].ros,
        rclpy=Package(version="7.1.6", error="ImportError: librcl_action.so: cannot open"),
    )
    check = lines(replace(machines["thor"], ros=broken))["ros"]
    assert check.state == "warn"
    assert "-u _ROS_WHEELS_BOOTSTRAP_COMPLETE" in check.cure


def test_the_variable_is_the_one_that_the_nodes_set():
    """Found here by the distribution's name, there by rclpy's features."""
    assert profile_variable(probe().ros.distro) == compat.profile_variable()


@pytest.mark.parametrize(
    ("distro", "variable"),
    [("humble", OLD), ("jazzy", OLD), ("kilted", FAST), ("lyrical", FAST)],
)
def test_each_distribution_reads_its_own_variable(machines, distro, variable):
    machine = replace(machines["thor"], ros=replace(machines["thor"].ros, distro=distro))
    assert told(machine).state == "warn"
    assert told(machine).cure.startswith(f"export {variable}=")
    assert told(machine, **{variable: "/etc/shm.xml"}).state == "ok"


def test_the_new_variable_alone_does_nothing_on_jazzy(machines):
    check = told(machines["thor"], **{FAST: "/etc/shm.xml"})
    assert (check.state, check.found) == ("warn", f"{FAST} is set, and jazzy reads {OLD}")


def test_the_old_variable_is_still_read_on_kilted(machines):
    machine = replace(machines["thor"], ros=replace(machines["thor"].ros, distro="kilted"))
    assert told(machine, **{OLD: "/etc/shm.xml"}).state == "ok"


def test_large_data_on_one_side_is_warned_of_before_anything_else(machines):
    check = told(
        machines["thor"], FASTDDS_BUILTIN_TRANSPORTS="LARGE_DATA?max_msg_size=1MB", **{OLD: "x"}
    )
    assert (check.state, check.cure) == ("warn", "unset FASTDDS_BUILTIN_TRANSPORTS")


def test_another_middleware_needs_no_profile(machines):
    assert told(machines["thor"], RMW_IMPLEMENTATION="rmw_cyclonedds_cpp").state == "ok"


def test_the_kernels_small_limits_come_with_the_command(machines):
    check = lines(machines["thor"])["ros.network"]
    assert check.state == "warn"
    assert check.cure == (
        "sudo sysctl -w net.core.rmem_max=2147483647 net.ipv4.ipfrag_high_thresh=134217728 "
        "net.ipv4.ipfrag_time=3"
    )


@pytest.mark.parametrize(
    "network",
    [Network(), Network(rmem_max=2**31 - 1, ipfrag_high_thresh=2**27, ipfrag_time=3)],
)
def test_limits_that_are_large_or_unknown_are_left_alone(machines, network):
    assert lines(replace(machines["thor"], network=network))["ros.network"].state == "ok"


def test_dockers_shared_memory_is_too_small(machines):
    check = lines(replace(machines["thor"], shm_gb=0.067))["ros.dev_shm"]
    assert (check.state, check.found) == ("warn", "/dev/shm has 67 MB, and each node takes 34")
    assert "--shm-size=1g" in check.cure


def test_what_dead_nodes_left_is_told(machines):
    check = lines(replace(machines["thor"], shm_gb=8.0, stale_segments=200))["ros.dev_shm"]
    assert "rm -f /dev/shm/fastdds_*" in check.cure
    assert lines(replace(machines["thor"], shm_gb=8.0))["ros.dev_shm"].state == "ok"
