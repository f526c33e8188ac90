"""Triangles against rays: a mesh lies where rays meet its shape, with its parts and normals."""

import numpy as np
import pytest

from molmo2_ros.simulation.mesh import room_mesh, shape_mesh
from molmo2_ros.simulation.objects import CATEGORIES
from molmo2_ros.simulation.view import FLOOR, TABLE, TABLE_SIDE, WALL
from molmo2_ros.simulation.world import FLOOR_Z, World, draw_room

ORIGINS = np.array([(0.3, -0.5, 0.5), (-0.6, 0.2, 0.3), (0.1, 0.6, 0.15)])
CLOSE_M = 2.5e-4


@pytest.fixture(scope="module")
def world():
    return World(seed=5, variants=1)


def spots(mesh):
    """Middle [T, 3], normal [T, 3], part [T] and area [T] of each triangle."""
    corners = mesh.reshape(-1, 3, 7)
    edges = corners[:, 1:, :3] - corners[:, :1, :3]
    area = 0.5 * np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    normal = corners[..., 3:6].sum(axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return corners[..., :3].mean(axis=1), normal, corners[:, 0, 6], area


@pytest.mark.parametrize("index", range(len(CATEGORIES) + 2))
def test_rays_meet_the_shape_where_its_triangles_are(world, index):
    shape = [*(variants[0] for variants in world.shapes), world.arms[0], world.hands[0]][index]
    middle, normal, part, area = spots(shape_mesh(shape.parts))
    assert set(part) == set(range(len(shape.parts)))
    large = area > 1e-9  # where profiles touch the axis, triangles are lines
    num_seen = 0
    for origin in ORIGINS + shape.centre:
        way = middle[large] - origin
        met, share, outward = shape.cast(origin, way)
        # The shape reaches out to all of its triangles; some are hidden by others.
        assert np.all(met >= 0)
        below = (share - 1) * np.abs((way * normal[large]).sum(axis=1))
        assert np.percentile(below, 99) < 1.5e-4
        seen = np.abs(share - 1) * np.linalg.norm(way, axis=1) < CLOSE_M
        assert np.mean(met[seen] == part[large][seen]) > 0.99
        agreement = (outward * normal[large]).sum(axis=1)[seen & (met == part[large])]
        assert np.percentile(agreement, 1) > 0.85
        assert np.median(agreement) > 0.995
        num_seen += int(seen.sum())
    assert num_seen > 0.2 * large.sum()


def test_room_has_its_surfaces_where_rays_meet_them(world):
    room = draw_room(np.random.default_rng(1), world.textures)
    middle, normal, code, _ = spots(room_mesh(room))
    half_x, half_y = room.table_half
    assert np.all(np.abs(normal[code == TABLE] - (0, 0, 1)) < 1e-6)
    assert np.all(middle[code == TABLE][:, 2] == 0)
    corners = room_mesh(room)[room_mesh(room)[:, 6] == TABLE]
    assert np.abs(corners[:, :2]).max(axis=0) == pytest.approx((half_x, half_y))
    assert np.all(middle[code == FLOOR][:, 2] == np.float32(FLOOR_Z))
    assert np.all(middle[code == WALL][:, 1] == np.float32(room.wall_y))
    # Left, right and front; nobody sees the back.
    outward = {tuple(direction) for direction in normal[code == TABLE_SIDE].round().tolist()}
    assert outward == {(-1, 0, 0), (1, 0, 0), (0, -1, 0)}
    assert np.all(middle[code == TABLE_SIDE][:, 2] < 0)
