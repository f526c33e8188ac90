"""A table with gravity: objects slide and fall, and a robot's hand pushes and carries them.

Each object collides as one primitive about its shape; what is drawn is the shape itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.simulation.objects import CATEGORIES
from molmo2_ros.simulation.world import Item

STEP_S = 0.004

Floats = npt.NDArray[np.float64]

_ROUND = frozenset({"cone", "plant", "mushroom", "plate", "wine_glass", "bottle", "donut"}) | {
    "mug",
    "bowl",
    "can",
}
_BALLS = frozenset({"lemon", "apple"})
_MASS_KG = 0.15
_FRICTION = (0.7, 0.01, 0.004)  # sliding, turning, rolling: nothing rolls for long
_LOW, _HIGH = np.array([-0.36, -0.28]), np.array([0.36, 0.31])  # where objects are kept
_GOAL_LOW, _GOAL_HIGH = np.array([-0.20, -0.13]), np.array([0.20, 0.15])  # where the hand puts them
_SETTLING_S = 1.0  # before anything is seen: objects that were set down too close come apart
_REST = np.array([0.0, 0.25, 0.55])  # of the hand: above the picture
_SPEED_M_S = 0.22
_PUSH_M_S = 0.10
_TIP_RADIUS_M = 0.03
_TIP_Z = 0.032
_PARKED = np.array([0.0, 0.0, 5.0])


class Physics:
    """Moves items by MuJoCo's dynamics, without end; the same seed gives the same course.

    Args:
        items: the objects, standing apart on the table; moved in place.
        categories: index into CATEGORIES of each item.
        rng: decides what the hand does.
    """

    def __init__(
        self, items: Sequence[Item], categories: Sequence[int], rng: np.random.Generator
    ) -> None:
        import mujoco

        self._items = list(items)
        self._rng = rng
        self._step = mujoco.mj_step
        spec = mujoco.MjSpec()
        spec.option.timestep = STEP_S
        _add_table(spec)
        kinds = mujoco.mjtGeom
        tip = spec.worldbody.add_body(name="tip", mocap=True, pos=_PARKED)
        tip.add_geom(type=kinds.mjGEOM_SPHERE, size=[_TIP_RADIUS_M, 0, 0], friction=_FRICTION)
        for j, (item, category) in enumerate(zip(self._items, categories, strict=True)):
            add_object(spec, j, item, CATEGORIES[category].name)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        for _ in range(round(_SETTLING_S / STEP_S)):
            mujoco.mj_step(self._model, self._data)
        self._data.qvel[:] = 0
        self._radii = [
            0.5 * float(np.ptp(item.shape.corners[:, :2], axis=0).max()) for item in self._items
        ]
        self._heights = [float(item.shape.corners[:, 2].max()) for item in self._items]
        self._carried: int | None = None
        self._pushes = False
        #: [3] metres, where the hand's fingers are.
        self.hand = _REST.copy()
        self._course = self._moves()
        self._copy_back()

    def advance(self, num_steps: int) -> None:
        """Lets `num_steps` of STEP_S pass and moves the items."""
        for _ in range(num_steps):
            next(self._course)
            self._data.mocap_pos[0] = self.hand if self._pushes else _PARKED
            if self._carried is not None:
                self._place(self._carried, self.hand + self._grip)
            self._step(self._model, self._data)
        self._copy_back()
        for j, item in enumerate(self._items):
            x, y, z = item.position
            if z < -0.1 or abs(x) > 0.5 or abs(y) > 0.5:  # squeezed out of the fence
                self._place(j, np.append(self._free_place(j), 0.08))

    def _copy_back(self) -> None:
        for j, item in enumerate(self._items):
            item.position = self._data.xpos[2 + j].copy()
            item.rotation = self._data.xmat[2 + j].reshape(3, 3).copy()

    def _place(self, j: int, position: Floats) -> None:
        self._data.qpos[7 * j : 7 * j + 3] = position
        self._data.qvel[6 * j : 6 * j + 6] = 0

    def _moves(self) -> Iterator[None]:
        """The course of the hand: every value drawn lets one step pass."""
        yield from self._wait(1.5)
        while True:
            j = int(self._rng.integers(len(self._items)))
            if self._rng.random() < 0.5:
                yield from self._push(j)
            else:
                yield from self._carry(j)
            if self._rng.random() < 0.5:
                yield from self._go(_REST, _SPEED_M_S)
                yield from self._wait(self._rng.uniform(0.5, 2.5))

    def _push(self, j: int) -> Iterator[None]:
        start = self._data.xpos[2 + j][:2].copy()
        goal = self._free_place(j)
        direction = (goal - start) / (np.linalg.norm(goal - start) + 1e-9)
        reach = self._radii[j] + _TIP_RADIUS_M + 0.015
        behind = start - direction * reach
        if self._crowded(behind, j, _TIP_RADIUS_M + 0.01):
            return
        yield from self._go(np.append(behind, 0.25), _SPEED_M_S)
        yield from self._go(np.append(behind, _TIP_Z), _SPEED_M_S)
        self._pushes = True
        yield from self._go(np.append(goal - direction * reach, _TIP_Z), _PUSH_M_S)
        self._pushes = False
        yield from self._go(np.append(goal - direction * (reach + 0.03), 0.25), _SPEED_M_S)

    def _carry(self, j: int) -> Iterator[None]:
        over = self._data.xpos[2 + j].copy()
        over[2] += 0.8 * self._heights[j]
        yield from self._go(over + (0, 0, 0.15), _SPEED_M_S)
        yield from self._go(over, _SPEED_M_S)
        self._grip = self._data.xpos[2 + j] - self.hand
        self._carried = j
        yield from self._go(over + (0, 0, 0.15), _SPEED_M_S)
        if self._rng.random() < 0.4:  # out of sight for a while
            yield from self._go(_REST, _SPEED_M_S)
            yield from self._wait(self._rng.uniform(1.0, 3.0))
        down = np.append(self._free_place(j), over[2] + 0.004)
        yield from self._go(down + (0, 0, 0.15), _SPEED_M_S)
        yield from self._go(down, _SPEED_M_S)
        self._carried = None
        yield from self._go(down + (0, 0, 0.15), _SPEED_M_S)

    def _go(self, goal: Floats, speed_m_s: float) -> Iterator[None]:
        while True:
            way = goal - self.hand
            left = float(np.linalg.norm(way))
            stride = speed_m_s * STEP_S
            if left <= stride:
                self.hand = goal.copy()
                yield
                return
            self.hand = self.hand + way * (stride / left)
            yield

    def _wait(self, seconds: float) -> Iterator[None]:
        for _ in range(int(seconds / STEP_S)):
            yield

    def _free_place(self, j: int) -> Floats:
        """[2] the roomiest of some random places for item j."""
        places = self._rng.uniform(_GOAL_LOW, _GOAL_HIGH, (25, 2))
        others = [k for k in range(len(self._items)) if k != j]
        where = self._data.xpos[2:][others, :2]
        gaps = np.linalg.norm(places[:, None] - where, axis=2) - np.array(self._radii)[others]
        return np.asarray(places[int(gaps.min(axis=1, initial=1.0).argmax())])

    def _crowded(self, place: Floats, j: int, radius: float) -> bool:
        return any(
            np.linalg.norm(place - self._data.xpos[2 + k][:2]) < self._radii[k] + radius
            for k in range(len(self._items))
            if k != j
        )


def _add_table(spec: object) -> None:
    """The top, and a fence that nobody sees, so that every object stays in reach of the camera."""
    import mujoco

    world = spec.worldbody  # type: ignore[attr-defined]
    plane = mujoco.mjtGeom.mjGEOM_PLANE
    world.add_geom(type=plane, size=[1, 1, 0.1], friction=_FRICTION)
    for x, y, axis in (
        (_LOW[0], 0, (1, 0, 0)),
        (_HIGH[0], 0, (-1, 0, 0)),
        (0, _LOW[1], (0, 1, 0)),
        (0, _HIGH[1], (0, -1, 0)),
    ):
        quaternion = np.zeros(4)
        mujoco.mju_quatZ2Vec(quaternion, np.array(axis, float))
        world.add_geom(type=plane, size=[1, 1, 0.1], pos=[x, y, 0], quat=quaternion)


def add_object(spec: object, j: int, item: Item, name: str) -> Any:
    """Let a body `object<j>` that is free to move stand for an item.

    Args:
        spec: an MjSpec.
        j: number of the item.
        item: where it stands.
        name: of its category.

    Returns:
        the body.
    """
    import mujoco

    kinds = mujoco.mjtGeom
    corners = item.shape.corners
    middle, half = corners.mean(axis=0), np.ptp(corners, axis=0) / 2
    if name in _BALLS:
        kind, size = kinds.mjGEOM_ELLIPSOID, half
    elif name in _ROUND:
        # The handle of a mug sticks out of its cylinder, which may cut into a neighbour a little.
        kind, size = kinds.mjGEOM_CYLINDER, np.array([half[:2].min(), half[2], 0])
    else:
        kind, size = kinds.mjGEOM_BOX, half
    if name == "mug":
        middle = np.array([0, 0, middle[2]])
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, item.rotation.ravel())
    position = item.position + (0, 0, 0.002)
    body = spec.worldbody.add_body(  # type: ignore[attr-defined]
        name=f"object{j}", pos=position, quat=quaternion
    )
    body.add_freejoint()
    body.add_geom(type=kind, size=size, pos=middle, mass=_MASS_KG, condim=6, friction=_FRICTION)
    return body
