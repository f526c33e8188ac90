"""A robot arm with four joints and a finger: what it is made of, and its kinematics by MuJoCo.

Coordinates of its base: metres, x forward where the arm points at zero, z up, the foot at z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.simulation.objects import Part

F64 = npt.NDArray[np.float64]

VELOCITY_LIMIT = 1.5  # rad/s, of every joint
ACCELERATION_LIMIT = 6.0  # rad/s^2
TIP_RADIUS_M = 0.008
_FINGER_M = 0.20  # from the wrist to the middle of the tip

_SHELL = (0.86, 0.87, 0.89)
_JOINT = (0.12, 0.12, 0.13)
_TIP = (0.10, 0.70, 0.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A rigid part and the hinge that carries it."""

    name: str
    #: Where the hinge is in the coordinates of the link before, metres.
    offset: tuple[float, float, float]
    axis: tuple[float, float, float]
    #: Angles that the hinge may take, radians.
    limits: tuple[float, float]
    parts: tuple[Part, ...]


_UP = (0.0, -1.0, 0.0)  # a hinge that lifts what points forward


def _bone(length: float, radius: float) -> tuple[Part, ...]:
    """A limb along x with a hinge at its beginning."""
    middle, half = (length / 2, 0.0, 0.0), length / 2
    return (
        Part(
            shape="capsule",
            size=(radius, half),
            position=middle,
            euler_deg=(0, 90, 0),
            colour=_SHELL,
        ),
        Part(
            shape="cylinder",
            size=(1.35 * radius, 1.25 * radius),
            euler_deg=(90, 0, 0),
            colour=_JOINT,
        ),
    )


FOOT = (
    Part(shape="cylinder", size=(0.065, 0.05), position=(0, 0, 0.05), colour=_JOINT),
    Part(shape="cylinder", size=(0.05, 0.01), position=(0, 0, 0.105), colour=_SHELL),
)
LINKS = (
    Link(
        name="shoulder_pan",
        offset=(0.0, 0.0, 0.11),
        axis=(0.0, 0.0, 1.0),
        limits=(-2.0, 2.0),
        parts=(Part(shape="cylinder", size=(0.045, 0.035), position=(0, 0, 0.04), colour=_SHELL),),
    ),
    Link(
        name="shoulder_lift",
        offset=(0.0, 0.0, 0.08),
        axis=_UP,
        limits=(-0.3, 2.4),
        parts=_bone(0.40, 0.032),
    ),
    Link(
        name="elbow",
        offset=(0.40, 0.0, 0.0),
        axis=_UP,
        limits=(-2.8, -0.05),
        parts=_bone(0.38, 0.026),
    ),
    Link(
        name="wrist",
        offset=(0.38, 0.0, 0.0),
        axis=_UP,
        limits=(-2.2, 2.2),
        parts=(
            *_bone(0.05, 0.019),
            Part(
                shape="capsule",
                size=(0.006, 0.066),
                position=(0.125, 0, 0),
                euler_deg=(0, 90, 0),
                colour=_JOINT,
            ),
            Part(shape="sphere", size=(TIP_RADIUS_M,), position=(_FINGER_M, 0, 0), colour=_TIP),
        ),
    ),
)
JOINT_NAMES = tuple(f"{link.name}_joint" for link in LINKS)
NUM_JOINTS = len(LINKS)
HOME = np.array([-1.2, 1.95, -2.3, -0.3])  # folded up, out of the way
LIMITS = np.array([link.limits for link in LINKS])


def add_arm(body: Any) -> Any:
    """Hang the links on a body of a MuJoCo model under construction.

    Args:
        body: of an MjSpec, at the arm's foot.

    Returns:
        the last link's body, which has a site `tip`.
    """
    for link in LINKS:
        body = body.add_body(name=link.name, pos=list(link.offset), gravcomp=1.0)
        # The drives move the joints; a light link could not be told from a loose one by a solver.
        body.add_joint(name=f"{link.name}_joint", axis=list(link.axis), armature=1000.0)
        body.mass, body.inertia, body.explicitinertial = 1.0, [0.01] * 3, True
    body.add_site(name="tip", pos=[_FINGER_M, 0.0, 0.0])
    return body


class Arm:
    """Where the arm is when its joints have certain angles. Use from one thread at a time."""

    def __init__(self) -> None:
        import mujoco

        spec = mujoco.MjSpec()
        add_arm(spec.worldbody)
        self._mujoco = mujoco
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._tip = self._model.site("tip").id

    def tip(self, angles: F64) -> F64:
        """[3] metres, the middle of the fingertip; angles [4] radians."""
        self._pose(angles)
        return np.array(self._data.site_xpos[self._tip])

    def finger(self, angles: F64) -> F64:
        """[3] the unit vector along which the finger points."""
        self._pose(angles)
        return np.array(self._data.site_xmat[self._tip].reshape(3, 3)[:, 0])

    def jacobian(self, angles: F64) -> F64:
        """[3, 4] metres a radian: how each joint moves the fingertip."""
        self._pose(angles)
        self._mujoco.mj_comPos(self._model, self._data)
        jacobian = np.zeros((3, NUM_JOINTS))
        self._mujoco.mj_jacSite(self._model, self._data, jacobian, None, self._tip)
        return jacobian

    def _pose(self, angles: F64) -> None:
        self._data.qpos[:] = angles
        self._mujoco.mj_kinematics(self._model, self._data)


def pitch(angles: F64) -> float:
    """Radians of the finger above the horizon."""
    return float(angles[1:].sum())


class Drives:
    """Joints that follow a commanded velocity as far as their limits allow.

    Velocities stay within VELOCITY_LIMIT and change by at most ACCELERATION_LIMIT, whatever is
    commanded; a joint brakes in time to stop within its range.

    Args:
        angles: [4] radians at the start, within LIMITS; at rest.
    """

    def __init__(self, angles: F64) -> None:
        self.angles = np.array(angles, np.float64)
        self.velocities = np.zeros(NUM_JOINTS)

    def advance(self, command: F64, step_s: float) -> None:
        """Let a moment pass.

        Args:
            command: [4] rad/s wanted.
            step_s: seconds.
        """
        change = ACCELERATION_LIMIT * step_s
        wanted = np.clip(command, -VELOCITY_LIMIT, VELOCITY_LIMIT)
        wanted = np.clip(wanted, self.velocities - change, self.velocities + change)
        # The fastest from which the joint can still stop: v step + v^2 / 2a = room.
        room = np.stack([self.angles - LIMITS[:, 0], LIMITS[:, 1] - self.angles])
        top = np.sqrt(change**2 + 2 * ACCELERATION_LIMIT * np.maximum(room, 0)) - change
        self.velocities = np.clip(wanted, -top[0], top[1])
        self.angles = self.angles + self.velocities * step_s
