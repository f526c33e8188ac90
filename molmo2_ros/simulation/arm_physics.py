"""An arm among objects that have weight: drives move it, its finger and a belt move the objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from molmo2_ros.simulation.arm import F64, HOME, LINKS, NUM_JOINTS, Drives, add_arm
from molmo2_ros.simulation.objects import CATEGORIES
from molmo2_ros.simulation.physics import STEP_S, add_object
from molmo2_ros.simulation.skin import add_skin
from molmo2_ros.simulation.world import Item

BELT_Y, BELT_HALF_WIDTH, BELT_TOP = 0.05, 0.075, 0.012  # metres
COMMAND_LASTS_S = 0.25  # the drives stop when no new command comes for so long
_BELT_ACCELERATION = 0.5  # m/s^2
_BELT_FRICTION = (1.0, 0.02, 0.01)
_SETTLING_S = 0.6  # before anything is seen


class ArmPhysics:
    """The arm, objects that it can push, and a belt along x.

    The drives are strong: nothing that the finger meets holds them up.

    Args:
        items: the objects, standing apart on the table or the belt.
        categories: index into CATEGORIES of each item.
        foot_position: [3] of the arm, metres.
        foot_rotation: [3, 3].
        belt_speed: m/s along x that the belt reaches; 0: there is none.
        belt_stroke: metres after which it turns back, and back again.
    """

    def __init__(
        self,
        items: Sequence[Item],
        categories: Sequence[int],
        foot_position: F64,
        foot_rotation: F64,
        belt_speed: float,
        belt_stroke: float,
    ) -> None:
        import mujoco

        self.time_s = 0.0
        self.drives = Drives(HOME)
        self._items = list(items)
        self._belt_speed, self._belt_stroke = belt_speed, belt_stroke
        self._belt_goal, self._belt_runs_at = belt_speed, 0.0  # m/s
        self._command, self._commanded_s = np.zeros(NUM_JOINTS), -np.inf
        self._mujoco = mujoco
        spec = mujoco.MjSpec()
        spec.option.timestep = STEP_S
        kinds = mujoco.mjtGeom
        # Objects meet the table and each other as simple bodies; the finger feels their skin.
        solid = {"contype": 0, "conaffinity": 1}
        spec.worldbody.add_geom(type=kinds.mjGEOM_PLANE, size=[2, 2, 0.1], **solid)
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, np.ravel(foot_rotation))
        hand = add_arm(spec.worldbody.add_body(pos=foot_position, quat=quaternion))
        for part in LINKS[-1].parts[-2:]:  # finger and tip
            quaternion = np.zeros(4)
            mujoco.mju_euler2Quat(quaternion, np.radians(part.euler_deg), "XYZ")
            kind = getattr(kinds, f"mjGEOM_{part.shape.upper()}")
            size = [*part.size, 0.0, 0.0][:3]
            hand.add_geom(
                type=kind,
                size=size,
                pos=list(part.position),
                quat=quaternion,
                contype=2,
                conaffinity=0,
            )
        if belt_speed:
            belt = spec.worldbody.add_body(pos=[0, BELT_Y, BELT_TOP / 2])
            belt.add_joint(type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[1, 0, 0], armature=1000.0)
            size = [3.0, BELT_HALF_WIDTH, BELT_TOP / 2]
            belt.add_geom(type=kinds.mjGEOM_BOX, size=size, friction=_BELT_FRICTION, **solid)
        for j, (item, category) in enumerate(zip(self._items, categories, strict=True)):
            body = add_object(spec, j, item, CATEGORIES[category].name)
            add_skin(spec, body, body.name, item.shape.parts, contype=0, conaffinity=2)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._bodies = [self._model.body(f"object{j}").id for j in range(len(self._items))]
        self._links = [self._model.body(link.name).id for link in LINKS]
        self._tip = self._model.site("tip").id
        for _ in range(round(_SETTLING_S / STEP_S)):
            self._step()

    def command(self, velocities: F64) -> None:
        """What the joints shall do from now on, [4] rad/s."""
        self._command, self._commanded_s = np.array(velocities, np.float64), self.time_s

    def advance(self, num_steps: int) -> None:
        """Let `num_steps` of STEP_S pass."""
        for _ in range(num_steps):
            is_stale = self.time_s - self._commanded_s > COMMAND_LASTS_S
            self.drives.advance(np.zeros(NUM_JOINTS) if is_stale else self._command, STEP_S)
            self._turn_belt()
            self._step()
            self.time_s += STEP_S

    def _turn_belt(self) -> None:
        """Gently, so that what stands on the belt does not fall."""
        way = np.sign(self._belt_speed) * self.belt_place
        if way > self._belt_stroke:
            self._belt_goal = -self._belt_speed
        elif way < 0:
            self._belt_goal = self._belt_speed
        change = _BELT_ACCELERATION * STEP_S
        missing = self._belt_goal - self._belt_runs_at
        self._belt_runs_at += float(np.clip(missing, -change, change))

    @property
    def belt_place(self) -> float:
        """Metres that the belt has moved."""
        return float(self._data.qpos[NUM_JOINTS]) if self._belt_speed else 0.0

    def tip_in(self, j: int) -> F64:
        """[3] metres, the middle of the fingertip in the coordinates of object j."""
        self._mujoco.mj_kinematics(self._model, self._data)
        body = self._bodies[j]
        away = self._data.site_xpos[self._tip] - self._data.xpos[body]
        return np.asarray(self._data.xmat[body].reshape(3, 3).T @ away)

    def copy_back(self, links: Sequence[Item]) -> None:
        """Move the items, and those of the links, to where they are now."""
        self._mujoco.mj_kinematics(self._model, self._data)
        bodies = [*self._bodies, *self._links]
        for item, body in zip([*self._items, *links], bodies, strict=True):
            item.position = self._data.xpos[body].copy()
            item.rotation = self._data.xmat[body].reshape(3, 3).copy()

    def _step(self) -> None:
        data = self._data
        data.qpos[:NUM_JOINTS], data.qvel[:NUM_JOINTS] = self.drives.angles, self.drives.velocities
        if self._belt_speed:
            data.qvel[NUM_JOINTS] = self._belt_runs_at
        self._mujoco.mj_step(self._model, data)
        data.qpos[:NUM_JOINTS], data.qvel[:NUM_JOINTS] = self.drives.angles, self.drives.velocities
