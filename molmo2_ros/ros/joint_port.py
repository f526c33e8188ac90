"""The simulated arm as a robot's driver shows it: joint states out, joint velocities in."""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray

from molmo2_ros.errors import ConfigError
from molmo2_ros.ros import qos
from molmo2_ros.ros.diagnostics import ProblemLog
from molmo2_ros.ros.images import header
from molmo2_ros.simulation.arm import JOINT_NAMES, NUM_JOINTS
from molmo2_ros.simulation.reach_camera import ReachCamera

RATE_HZ = 50.0
FRAME_ID = "arm_foot"


class JointPort:
    """Publishes `joint_states` and `fingertip_gap`, and obeys `joint_commands`.

    Args:
        node: where topics and timer are created.
        source: what is moved.
        problems: takes note of commands that cannot be obeyed.
    """

    def __init__(self, node: Node, source: ReachCamera, problems: ProblemLog) -> None:
        self._source = source
        self._problems = problems
        results = qos.result_qos()
        self._states = node.create_publisher(JointState, "joint_states", results)
        self._gap = node.create_publisher(Float64, "fingertip_gap", results)
        node.create_subscription(Float64MultiArray, "joint_commands", self._on_command, results)
        node.create_timer(1 / RATE_HZ, self._tick)

    def _tick(self) -> None:
        stamp_ns = self._source.follow()
        angles, velocities, gap_m = self._source.joints()
        self._states.publish(
            JointState(
                header=header(stamp_ns, FRAME_ID),
                name=list(JOINT_NAMES),
                position=angles.tolist(),
                velocity=velocities.tolist(),
            )
        )
        self._gap.publish(Float64(data=gap_m))

    def _on_command(self, message: Float64MultiArray) -> None:
        velocities = np.array(message.data, np.float64)
        if velocities.shape == (NUM_JOINTS,) and np.isfinite(velocities).all():
            self._source.command(velocities)
            self._problems.clear("joints")
            return
        self._problems.report(
            "joints",
            ConfigError(
                f"joint command holds {velocities.tolist()[:8]}, expected {NUM_JOINTS} finite "
                f"numbers in rad/s, for {', '.join(JOINT_NAMES)}; the arm stops"
            ),
        )
