"""What a fingertip feels of a shape: the parts as MuJoCo collides them, hollow where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.simulation.objects import Part
from molmo2_ros.simulation.shape import fixed_axis_rotation

F64 = npt.NDArray[np.float64]

_RIB_RADIUS_M = 0.002
_RIBS_APART_M = 0.017  # nothing as thick as a fingertip slips through
_SHORTEST_RIB_M = 0.008


def add_skin(spec: Any, body: Any, name: str, parts: Sequence[Part], **collision: int) -> None:
    """Give a body geoms without mass that lie where the drawn surface is.

    Meshes collide as their convex hulls; a surface of revolution as ribs along its profile, which
    MuJoCo would take for solid otherwise: a finger reaches into a bowl.

    Args:
        spec: the MjSpec of the body.
        body: gets the geoms.
        name: prefix of the names of meshes.
        parts: of the shape.
        collision: contype and conaffinity of the geoms.
    """
    import mujoco

    for index, part in enumerate(parts):
        quaternion = np.zeros(4)
        mujoco.mju_euler2Quat(quaternion, np.radians(np.asarray(part.euler_deg, float)), "XYZ")
        where = {"pos": list(part.position), "quat": quaternion, "mass": 0.0, **collision}
        if part.shape == "revolution":
            turn = fixed_axis_rotation(part.euler_deg)
            for rib in _ribs(part.profile):
                body.add_geom(
                    type=mujoco.mjtGeom.mjGEOM_CAPSULE,
                    size=[_RIB_RADIUS_M, 0, 0],
                    fromto=(rib @ turn.T + part.position).ravel(),
                    mass=0.0,
                    **collision,
                )
        elif part.shape == "mesh":
            assert part.vertices is not None
            mesh = f"{name}_skin{index}"
            spec.add_mesh(name=mesh, uservert=part.vertices.astype(np.float32).ravel())
            body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=mesh, **where)
        else:
            kind = getattr(mujoco.mjtGeom, f"mjGEOM_{part.shape.upper()}")
            body.add_geom(type=kind, size=[*part.size, 0.0, 0.0][:3], **where)


def _ribs(profile: Sequence[tuple[float, float]]) -> list[F64]:
    """[2, 3] ends of each rib: the profile, coarser, repeated round the axis."""
    points = [np.array(profile[0])]
    for point in profile[1:-1]:
        if np.linalg.norm(point - points[-1]) > _SHORTEST_RIB_M:
            points.append(np.array(point))
    points.append(np.array(profile[-1]))
    num = int(np.ceil(2 * np.pi * max(point[0] for point in points) / _RIBS_APART_M))
    ribs = []
    for angle in 2 * np.pi * np.arange(num) / num:
        out = np.array([np.cos(angle), np.sin(angle), 0.0])
        ring = [point[0] * out + point[1] * np.array([0.0, 0.0, 1.0]) for point in points]
        ribs += [np.stack(pair) for pair in zip(ring, ring[1:], strict=False)]
    return [rib for rib in ribs if np.linalg.norm(rib[1] - rib[0]) > 1e-4]
