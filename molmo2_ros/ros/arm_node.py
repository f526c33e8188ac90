"""The arm that touches what was asked for: it knows ~/target and its own joints, nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point, PointStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import ConfigError
from molmo2_ros.ros import qos
from molmo2_ros.ros.diagnostics import ProblemLog, RateMeter, diagnostic_array, status
from molmo2_ros.ros.images import header, stamp_ns_of
from molmo2_ros.ros.parameter_server import ParameterServer
from molmo2_ros.ros.parameters import ArmParameters
from molmo2_ros.ros.process import run_node
from molmo2_ros.ros.timers import steady_timer
from molmo2_ros.simulation.arm import F64, JOINT_NAMES
from molmo2_ros.simulation.reaching import Reacher

_STALE_S = 0.5  # joint states older than this move nothing


class ArmNode(Node):
    """Publishes joint velocities that bring the fingertip to the newest target.

    Raises:
        ConfigError: a parameter given at start is wrong.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("arm", **node_arguments)
        self._server = ParameterServer(
            self,
            ArmParameters,
            check=lambda _: None,
            changed=lambda _before, _after: None,
            frozen=lambda: "it is read at start; start the node again with the new value",
        )
        wanted = self._server.snapshot
        self._reacher = _reacher(wanted.camera_pose)
        self._problems = ProblemLog(self.get_logger())
        self._targets, self._states = RateMeter(), RateMeter()
        self._felt_ns = 0
        self._origin_ns = self._now_ns()  # seconds since then keep their nanoseconds in a float
        results = qos.result_qos()
        self._commands = self.create_publisher(Float64MultiArray, "joint_commands", results)
        self._goal = self.create_publisher(PointStamped, "~/goal", results)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", results)
        self.create_subscription(PointStamped, "target", self._on_target, results)
        self.create_subscription(JointState, "joint_states", self._on_joints, results)
        self.create_timer(1 / wanted.rate_hz, self._move)
        steady_timer(self, wanted.diagnostics_period_s, self._publish_diagnostics)
        self.is_done = False

    def start(self) -> None:
        """Nothing to begin: the timers run when the node is spun."""
        self.get_logger().info("waits for joint_states and a target")

    def close(self) -> None:
        """Tell the joints to stop."""
        if self.context.ok():
            self._commands.publish(Float64MultiArray(data=[0.0] * len(JOINT_NAMES)))

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _seconds(self, time_ns: int) -> float:
        return (time_ns - self._origin_ns) / NS_PER_S

    def _on_target(self, message: PointStamped) -> None:
        point = message.point
        self._targets.tick()
        self._reacher.see(
            np.array([point.x, point.y, point.z]), self._seconds(stamp_ns_of(message))
        )

    def _on_joints(self, message: JointState) -> None:
        angles = dict(zip(message.name, message.position, strict=False))
        missing = [name for name in JOINT_NAMES if name not in angles]
        if missing:
            self._problems.report(
                "joints",
                ConfigError(
                    f"joint_states names {', '.join(message.name) or 'nothing'}, expected also "
                    f"{', '.join(missing)}; remap joint_states to the arm's own"
                ),
            )
            return
        self._problems.clear("joints")
        self._states.tick()
        self._felt_ns = stamp_ns_of(message)
        felt_s = self._seconds(self._felt_ns)
        self._reacher.feel(np.array([angles[name] for name in JOINT_NAMES]), felt_s)

    def _move(self) -> None:
        now_ns = self._now_ns()
        if now_ns - self._felt_ns > _STALE_S * NS_PER_S:
            return
        now_s = self._seconds(now_ns)
        velocities = self._reacher.command(now_s)
        self._commands.publish(Float64MultiArray(data=velocities.tolist()))
        if self._reacher.aim.is_known:
            place, _ = self._reacher.aim.at(now_s)
            x, y, z = (float(c) for c in place)
            self._goal.publish(
                PointStamped(header=header(now_ns, "arm_foot"), point=Point(x=x, y=y, z=z))
            )

    def _publish_diagnostics(self) -> None:
        now_ns = self._now_ns()
        is_felt = now_ns - self._felt_ns <= _STALE_S * NS_PER_S
        aim = self._reacher.aim
        line = status(
            f"{self.get_name()}: reach",
            "joint velocities",
            {
                "targets": self._targets.count,
                "targets_rate_hz": self._targets.rate_hz,
                "joint_states_rate_hz": self._states.rate_hz,
                "target_age_s": round(self._seconds(now_ns) - aim.seen_s, 3)
                if aim.is_known
                else "",
                "touching": self._reacher.is_touching,
                **{f"problems_{kind}": n for kind, n in self._problems.counts.items()},
            },
            error=self._problems.recent("joints"),
            warning="" if is_felt else "no joint_states come: remap them to the arm's own",
            message="reaching" if aim.is_known else "waiting for a target",
        )
        self._diagnostics.publish(diagnostic_array([line], now_ns))


def _reacher(camera_pose: str) -> Reacher:
    try:
        return Reacher(*pose_of(camera_pose))
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the arm's kinematics need the package {error.name}, and it is not installed; pip "
            "install 'molmo2_ros[simulation]'"
        ) from error


def pose_of(text: str) -> tuple[F64, F64]:
    """Position [3] and rotation [3, 3] from "x y z qx qy qz qw" (as static_transform_publisher).

    Raises:
        ConfigError: not seven numbers, or a quaternion without length.
    """
    try:
        x, y, z, *quaternion = numbers = [float(word) for word in text.split()]
        if not all(map(math.isfinite, numbers)):
            raise ValueError
        qx, qy, qz, qw = (number / math.hypot(*quaternion) for number in quaternion)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(
            f"parameter camera_pose is {text!r}, expected seven numbers x y z qx qy qz qw: the "
            "camera's optical frame in the arm's foot, metres and a unit quaternion"
        ) from None
    rotation = np.array(
        [
            [1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy - qz * qw), 2 * (qx * qz + qy * qw)],
            [2 * (qx * qy + qz * qw), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz - qx * qw)],
            [2 * (qx * qz - qy * qw), 2 * (qy * qz + qx * qw), 1 - 2 * (qx * qx + qy * qy)],
        ]
    )
    return np.array([x, y, z]), rotation


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable `arm_node`."""
    return run_node(ArmNode, args, shares_memory=False)


if __name__ == "__main__":
    raise SystemExit(main())
