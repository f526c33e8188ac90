"""Shapes and rooms as triangles, for renderers that draw instead of casting rays.

Legend: T triangles, K segments of a profile, S sides that stand for a circle.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from molmo2_ros.simulation.objects import Part
from molmo2_ros.simulation.revolution import Revolution
from molmo2_ros.simulation.shape import fixed_axis_rotation
from molmo2_ros.simulation.view import FLOOR, TABLE, TABLE_SIDE, TABLE_THICKNESS_M, WALL
from molmo2_ros.simulation.world import FLOOR_Z, Room

Floats = npt.NDArray[np.float64]
#: Corners and their normals, each [T, 3, 3].
Triangles = tuple[Floats, Floats]

_TOLERANCE_M = 1e-4  # by which flat sides may lie inside of what is round
_MIN_SIDES, _MAX_SIDES = 12, 96
_ENDLESS_M = 60.0  # of floor and wall: farther than any picture of the table shows


def shape_mesh(parts: Sequence[Part]) -> npt.NDArray[np.float32]:
    """Triangles of a shape in its own coordinates.

    Returns:
        float32 [3 T, 7], three rows a triangle: position in metres, outward normal, index of the
        part.
    """
    rows = []
    for index, part in enumerate(parts):
        corners, normals = _part_triangles(part)
        turn = fixed_axis_rotation(part.euler_deg).T
        rows.append(_rows(corners @ turn + part.position, normals @ turn, index))
    return np.concatenate(rows)


def room_mesh(room: Room) -> npt.NDArray[np.float32]:
    """The same for floor, wall and table, in the world's coordinates and with surface codes."""
    x, y = room.table_half
    low, far = -TABLE_THICKNESS_M, _ENDLESS_M
    faces = (
        (FLOOR, (0, 0, 1), [(-far, -far, FLOOR_Z), (2 * far, 0, 0), (0, 2 * far, 0)]),
        (WALL, (0, -1, 0), [(-far, room.wall_y, -far), (2 * far, 0, 0), (0, 0, 2 * far)]),
        (TABLE, (0, 0, 1), [(-x, -y, 0), (2 * x, 0, 0), (0, 2 * y, 0)]),
        (TABLE_SIDE, (0, -1, 0), [(-x, -y, low), (2 * x, 0, 0), (0, 0, -low)]),
        (TABLE_SIDE, (-1, 0, 0), [(-x, -y, low), (0, 2 * y, 0), (0, 0, -low)]),
        (TABLE_SIDE, (1, 0, 0), [(x, -y, low), (0, 2 * y, 0), (0, 0, -low)]),
    )
    rows = []
    for code, normal, (corner, first, second) in faces:
        a, u, v = np.array(corner, float), np.array(first, float), np.array(second, float)
        corners = np.array([[a, a + u, a + u + v], [a, a + u + v, a + v]])
        rows.append(_rows(corners, np.broadcast_to(np.array(normal, float), (2, 3, 3)), code))
    return np.concatenate(rows)


def _rows(corners: Floats, normals: Floats, code: int) -> npt.NDArray[np.float32]:
    table = np.empty((corners.shape[0] * 3, 7), np.float32)
    table[:, :3], table[:, 3:6] = corners.reshape(-1, 3), normals.reshape(-1, 3)
    table[:, 6] = code
    return table


def _part_triangles(part: Part) -> Triangles:
    if part.vertices is not None and part.faces is not None:
        return _flat(part.vertices[part.faces])
    if part.shape == "revolution":
        return _turned(part.profile)
    if part.shape == "box":
        return _box(np.array(part.size))
    if part.shape == "ellipsoid":
        return _ellipsoid(np.array(part.size))
    return _turned(_primitive_profile(part))


def _flat(corners: Floats) -> Triangles:
    """Every triangle with its own normal, outward by the order of its corners."""
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return corners, np.repeat(normal[:, None], 3, axis=1)


def _box(half: Floats) -> Triangles:
    corners = []
    for axis in range(3):
        first, second = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
        for side in (1, -1):
            a, b = (first, second) if side > 0 else (second, first)
            middle = side * np.eye(3)[axis]
            square = [middle - a - b, middle + a - b, middle + a + b, middle - a + b]
            corners += [[square[0], square[1], square[2]], [square[0], square[2], square[3]]]
    return _flat(np.array(corners) * half)


def _ellipsoid(half: Floats) -> Triangles:
    tolerance = _TOLERANCE_M / float(half.max())
    corners, _ = _turned(_arc(1.0, -0.5 * np.pi, 0.5 * np.pi, tolerance), tolerance)
    normals = corners / half
    return corners * half, normals / np.linalg.norm(normals, axis=2, keepdims=True)


def _primitive_profile(part: Part) -> Sequence[tuple[float, float]]:
    radius = part.size[0]
    if part.shape == "sphere":
        return _arc(radius, -0.5 * np.pi, 0.5 * np.pi)
    half = part.size[1]
    if part.shape == "cylinder":
        return [(0.0, -half), (radius, -half), (radius, half), (0.0, half)]
    low = [(r, z - half) for r, z in _arc(radius, -0.5 * np.pi, 0.0)]
    return low + [(r, z + half) for r, z in _arc(radius, 0.0, 0.5 * np.pi)]


def _arc(
    radius: float, start: float, end: float, tolerance: float = _TOLERANCE_M
) -> list[tuple[float, float]]:
    """(radius, z) points of a circle about the origin, angles in radians above the plane z = 0."""
    num = int(np.ceil(_num_sides(radius, tolerance) * (end - start) / (2 * np.pi))) + 1
    angle = np.linspace(start, end, num)
    return [(radius * float(np.cos(a)), radius * float(np.sin(a))) for a in angle]


def _num_sides(radius: float, tolerance: float = _TOLERANCE_M) -> int:
    """Sides of a polygon in a circle that leaves it by no more than the tolerance."""
    share = min(tolerance / max(radius, tolerance), 0.5)
    return int(np.clip(np.ceil(np.pi / np.arccos(1 - share)), _MIN_SIDES, _MAX_SIDES))


def _turned(profile: Sequence[tuple[float, float]], tolerance: float = _TOLERANCE_M) -> Triangles:
    """A profile turned about z; its normals are those that rays meet."""
    surface = Revolution(profile)
    num = _num_sides(surface.radius, tolerance)
    angle = np.linspace(0, 2 * np.pi, num, endpoint=False)
    here = np.stack([np.cos(angle), np.sin(angle)])
    there = np.roll(here, -1, axis=1)

    def around(ends: Floats, direction: Floats) -> Floats:
        """[K, S, 3] from (radial, axial) pairs [K, 2] and unit vectors [2, S]."""
        across = ends[:, 0, None, None] * direction.T[None]
        along = np.broadcast_to(ends[:, 1, None, None], (*across.shape[:2], 1))
        return np.concatenate([across, along], axis=2)

    def pair(start: Floats, end: Floats) -> Floats:
        """[2 K S, 3, 3] two triangles for every segment and side."""
        a, b = around(start, here), around(start, there)
        c, d = around(end, there), around(end, here)
        both = np.stack([np.stack([a, b, c], axis=2), np.stack([a, c, d], axis=2)])
        return both.reshape(-1, 3, 3)

    return pair(surface.start, surface.end), pair(surface.start_normal, surface.end_normal)
