"""The arm's controller over real DDS, and the three nodes together as `make reach` runs them."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, PointStamped
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray

from molmo2_ros.errors import ConfigError
from molmo2_ros.ros import qos
from molmo2_ros.ros.arm_node import ArmNode, pose_of
from molmo2_ros.ros.camera_node import CameraNode
from molmo2_ros.ros.images import header
from molmo2_ros.ros.parameters import ArmParameters
from molmo2_ros.simulation.arm import HOME, JOINT_NAMES, TIP_RADIUS_M, Arm, Drives
from molmo2_ros.simulation.reach import camera_from_foot

ROOT = Path(__file__).parents[2]
PLACE = np.array([0.5, 0.1, 0.06])  # of the target in the arm's foot
PERIOD_S = 0.02


def target_message(place, stamp_ns):
    position, rotation = camera_from_foot()
    x, y, z = (float(c) for c in rotation.T @ (place - position))
    return PointStamped(header=header(stamp_ns, "camera"), point=Point(x=x, y=y, z=z))


def joint_message(angles, stamp_ns, names=JOINT_NAMES):
    # A driver may name its joints in any order.
    return JointState(
        header=header(stamp_ns, "arm_foot"), name=list(names)[::-1], position=angles[::-1].tolist()
    )


def test_the_fingertip_goes_where_the_targets_are(node_under_test):
    node_under_test.listen("joint_commands", Float64MultiArray, qos.result_qos())
    node_under_test.listen("arm/goal", PointStamped, qos.result_qos())
    node = node_under_test.start(ArmNode)
    drives, arm, stop = Drives(HOME), Arm(), threading.Event()

    def robot():
        tick = 0
        while not stop.wait(PERIOD_S):
            now_ns = node.get_clock().now().nanoseconds
            commands = node_under_test.received["joint_commands"]
            wanted = np.array(commands[-1].data) if commands else np.zeros(4)
            drives.advance(wanted, PERIOD_S)
            node_under_test.send("joint_states", joint_message(drives.angles, now_ns))
            if tick % 5 == 0:
                node_under_test.send("target", target_message(PLACE, now_ns))
            tick += 1

    thread = threading.Thread(target=robot)
    thread.start()
    try:
        node_under_test.until(
            lambda: np.linalg.norm(arm.tip(drives.angles.copy()) - PLACE) < TIP_RADIUS_M + 0.005,
            "touch",
        )
    finally:
        stop.set()
        thread.join()
    point = node_under_test.received["arm/goal"][-1].point
    assert (point.x, point.y, point.z) == pytest.approx(PLACE, abs=0.005)


def test_joint_states_of_another_robot_are_told_and_move_nothing(node_under_test):
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.listen("joint_commands", Float64MultiArray, qos.result_qos())
    node = node_under_test.start(ArmNode, diagnostics_period_s=0.1)
    now_ns = node.get_clock().now().nanoseconds
    node_under_test.send("joint_states", joint_message(HOME, now_ns, ("a", "b", "c", "d")))

    line = node_under_test.wait_for(
        "/diagnostics", lambda m: m.status[0].level == DiagnosticStatus.ERROR
    ).status[0]

    assert "joint_states names d, c, b, a, expected also shoulder_pan_joint" in line.message
    assert not node_under_test.received["joint_commands"]


def test_the_default_calibration_is_that_of_the_simulated_camera():
    position, rotation = pose_of(ArmParameters().camera_pose)
    expected_position, expected_rotation = camera_from_foot()
    assert position == pytest.approx(expected_position, abs=1e-5)
    assert rotation == pytest.approx(expected_rotation, abs=1e-5)


def test_a_pose_is_read_as_static_transform_publisher_reads_it():
    quaternion = Rotation.from_euler("xyz", [0.3, -0.8, 2.0])
    words = " ".join(str(number) for number in (1, 2, 3, *(2 * quaternion.as_quat())))
    position, rotation = pose_of(words)
    assert position == pytest.approx([1, 2, 3])
    assert rotation == pytest.approx(quaternion.as_matrix())


@pytest.mark.parametrize(
    "text", ["", "1 2 3", "1 2 3 0 0 0 0", "1 2 3 0 0 0 one", "1 nan 3 0 0 0 1", "1 2 3 4 5 6 7 8"]
)
def test_a_pose_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="expected seven numbers x y z qx qy qz qw"):
        pose_of(text)


def test_the_camera_node_moves_the_arm_as_it_is_told_and_refuses_nonsense(node_under_test):
    for topic, kind in (("joint_states", JointState), ("fingertip_gap", Float64)):
        node_under_test.listen(topic, kind, qos.result_qos())
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.start(
        CameraNode, source="reach", table_width=64, table_height=48, diagnostics_period_s=0.1
    )
    first = node_under_test.wait_for("joint_states")
    assert tuple(first.name) == JOINT_NAMES

    def turn():
        node_under_test.send("joint_commands", Float64MultiArray(data=[0.5, 0.0, 0.0, 0.0]))
        turned = node_under_test.received["joint_states"][-1].position[0] - HOME[0]
        return turned > 0.05

    node_under_test.until(turn, "joint that turns")
    assert node_under_test.wait_for("fingertip_gap").data > 0.1
    node_under_test.send("joint_commands", Float64MultiArray(data=[1.0, float("nan")]))
    told = node_under_test.wait_for(
        "/diagnostics", lambda m: m.status[0].level == DiagnosticStatus.ERROR
    )
    assert "expected 4 finite numbers in rad/s" in told.status[0].message


def reach(domain_id, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "molmo2_ros.ros.reach_demo", *arguments],
        cwd=ROOT,
        env={**os.environ, "ROS_DOMAIN_ID": str(domain_id)},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_the_asked_object_is_touched_and_filmed(domain_id, tmp_path):
    done = reach(domain_id, "--seconds", "90", "--output", str(tmp_path))

    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(
        r"reach: touched the red mug for 0.5 s, [\d.]+ s after the first answer", last
    )
    film = cv2.VideoCapture(str(tmp_path / "reach.mp4"))
    assert film.read()[1].shape == (480, 640, 3)
    assert cv2.imread(str(tmp_path / "reach.png")).shape == (480, 640, 3)


def test_an_object_that_does_not_exist_is_refused_before_anything_starts(domain_id):
    done = reach(domain_id, "--object", "unicorn")

    assert done.returncode == 2
    assert "object 'unicorn' does not exist here, expected one of apple, " in done.stderr
