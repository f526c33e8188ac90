"""Parts turned into something that rays can be cast at: one small MuJoCo model per shape.

A model for each shape, and not one for the whole table, keeps a ray from being tested against
anything but the object at hand, lets a scene hold one shape any number of times, and gives the
silhouette of each object alone without a second cast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.simulation.objects import Part
from molmo2_ros.simulation.revolution import Revolution

_FAR_M = 30.0


class RayShape:
    """A rigid arrangement of parts that answers ray casts in its own coordinates.

    Attributes:
        parts: what it is made of.
        colours: float32 [G, 3], RGB of each part in 0..1; 0 where `paintable`.
        paintable: bool [G], parts that take the colour of the instance.
        corners: float64 [8, 3], corners of the bounding box, metres.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        """Compiles the parts; the order of `colours` is the order of `parts`."""
        import mujoco

        spec = mujoco.MjSpec()
        spec.memory = 1 << 21  # the default arena is 13 MB a model
        body = spec.worldbody.add_body(name="object")
        solids: list[int] = []
        self._revolutions: list[_Turned] = []
        for index, part in enumerate(parts):
            if part.shape == "revolution":
                self._revolutions.append(_Turned(index, part))
            else:
                _add_part(spec, body, index, part)
                solids.append(index)
        #: Part of every geom of the model.
        self._solids = np.array(solids, np.int32)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        mujoco.mj_kinematics(self._model, self._data)
        self._multi_ray = mujoco.mj_multiRay
        self.parts = tuple(parts)
        self.paintable = np.array([part.colour is None for part in parts])
        self.colours = np.array([part.colour or (0, 0, 0) for part in parts], np.float32)
        self.corners = self._bounding_corners()
        self.centre = self.corners.mean(axis=0)
        self.radius = float(np.linalg.norm(self.corners[0] - self.centre))

    def cast(
        self,
        origin: npt.NDArray[np.float64],
        directions: npt.NDArray[np.float64],
        *,
        normals: bool = True,
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """First hits of rays from one point.

        Args:
            origin: [3] metres, in the coordinates of the shape.
            directions: [N, 3], of any length.
            normals: False leaves the normals zero, which is faster.

        Returns:
            part index [N] (-1: missed), distance [N] in units of the length of the direction
            (-1: missed), outward normal [N, 3].
        """
        part, distance, normal = self._cast_solids(origin, directions)
        for turned in self._revolutions:
            other_distance, other_normal = turned.cast(origin, directions, normals=normals)
            nearer = (other_distance < distance) | ((distance < 0) & np.isfinite(other_distance))
            part[nearer] = turned.index
            distance[nearer] = other_distance[nearer]
            if normals:
                normal[nearer] = other_normal[nearer]
        return part, distance, normal

    def _cast_solids(
        self, origin: npt.NDArray[np.float64], directions: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The same for what MuJoCo knows: primitives and meshes."""
        num = len(directions)
        geom = np.full(num, -1, np.int32)
        distance = np.full(num, -1.0)
        normal = np.zeros(num * 3)
        if num and len(self._solids):
            self._multi_ray(
                self._model,
                self._data,
                np.ascontiguousarray(origin, np.float64),
                np.ascontiguousarray(directions, np.float64).reshape(-1),
                None,
                True,
                -1,
                geom,
                distance,
                normal,
                num,
                _FAR_M,
            )
            geom = np.where(geom < 0, np.int32(-1), self._solids[geom])
        return geom, distance, normal.reshape(-1, 3)

    def _bounding_corners(self) -> npt.NDArray[np.float64]:
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
        points = []
        for geom in range(self._model.ngeom):
            box = self._model.geom_aabb[geom]
            rotation = self._data.geom_xmat[geom].reshape(3, 3)
            points.append((box[:3] + signs * box[3:]) @ rotation.T + self._data.geom_xpos[geom])
        points += [turned.corners for turned in self._revolutions]
        low, high = np.concatenate(points).min(axis=0), np.concatenate(points).max(axis=0)
        return np.asarray((low + high) / 2 + signs * (high - low) / 2)


class _Turned:
    """A surface of revolution at its place in a shape."""

    def __init__(self, index: int, part: Part) -> None:
        self.index = index
        self._surface = Revolution(part.profile)
        self._position = np.asarray(part.position, float)
        self._rotation = fixed_axis_rotation(part.euler_deg)
        radius, (low, high) = self._surface.radius, self._surface.z_range
        box = [(x, y, z) for x in (-radius, radius) for y in (-radius, radius) for z in (low, high)]
        self.corners = np.array(box) @ self._rotation.T + self._position

    def cast(
        self,
        origin: npt.NDArray[np.float64],
        directions: npt.NDArray[np.float64],
        *,
        normals: bool,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        to_part = self._rotation.T
        local = to_part @ np.asarray(directions, float).T
        start = to_part @ (origin - self._position)
        distance, normal = self._surface.cast(start, local, normals=normals)
        return distance, (self._rotation @ normal).T if normals else normal.T


def fixed_axis_rotation(euler_deg: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """[3, 3] rotation about the fixed x, then y, then z axis, as parts have it."""
    x, y, z = np.radians(euler_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    return np.asarray(rotation_z(float(np.degrees(z))) @ about_y @ about_x)


def _add_part(spec: Any, body: Any, index: int, part: Part) -> None:
    import mujoco

    quaternion = np.zeros(4)
    mujoco.mju_euler2Quat(quaternion, np.radians(np.asarray(part.euler_deg, float)), "XYZ")
    kind = getattr(mujoco.mjtGeom, f"mjGEOM_{part.shape.upper()}")
    where = {"type": kind, "pos": list(part.position), "quat": quaternion}
    if part.vertices is None or part.faces is None:
        body.add_geom(size=[*part.size, *[0.0] * (3 - len(part.size))], **where)
        return
    spec.add_mesh(
        name=f"mesh{index}",
        uservert=part.vertices.astype(np.float32).ravel(),
        userface=part.faces.astype(np.int32).ravel(),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,  # some meshes are open
    )
    body.add_geom(meshname=f"mesh{index}", **where)


def rotation_z(angle_deg: float) -> npt.NDArray[np.float64]:
    """[3, 3] rotation about the vertical."""
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
