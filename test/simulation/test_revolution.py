"""Surfaces of revolution in closed form against solids whose hits are known."""

import numpy as np
import pytest

from molmo2_ros.simulation.objects import Part, lathe
from molmo2_ros.simulation.revolution import Revolution
from molmo2_ros.simulation.shape import RayShape

POSE = {"position": (0.1, -0.2, 0.3), "euler_deg": (20.0, 30.0, 40.0)}


@pytest.fixture
def rays():
    """One eye, and directions towards and past the neighbourhood of POSE."""
    rng = np.random.default_rng(0)
    eye = np.array([1.0, 0.5, 1.2])
    return eye, np.array(POSE["position"]) + rng.uniform(-0.3, 0.3, (4000, 3)) - eye


def test_turned_rectangle_is_the_cylinder_that_mujoco_knows(rays):
    profile = ((0, -0.15), (0.2, -0.15), (0.2, 0.15), (0, 0.15))
    turned = RayShape([Part(shape="revolution", profile=profile, **POSE)])
    known = RayShape([Part(shape="cylinder", size=(0.2, 0.15), **POSE)])
    part, distance, normal = turned.cast(*rays)
    known_part, known_distance, known_normal = known.cast(*rays)
    assert 0.2 < (part == 0).mean() < 0.9
    assert np.array_equal(part, known_part)
    assert np.allclose(distance, known_distance, atol=1e-7)
    hit = part == 0
    assert np.allclose(normal[hit], known_normal[hit], atol=1e-6)


def test_turned_half_circle_is_nearly_a_sphere(rays):
    angle = np.linspace(-np.pi / 2, np.pi / 2, 60)
    profile = list(zip(0.2 * np.cos(angle), 0.2 * np.sin(angle), strict=True))
    turned = RayShape([lathe(profile)])
    known = RayShape([Part(shape="sphere", size=(0.2,))])
    eye, toward = np.array([1.0, 0.5, 1.2]), np.random.default_rng(1).uniform(-0.1, 0.1, (500, 3))
    _, distance, normal = turned.cast(eye, toward - eye)
    _, known_distance, known_normal = known.cast(eye, toward - eye)
    assert np.allclose(distance, known_distance, atol=1e-3)
    # Smooth along the profile although it has sixty corners.
    assert np.einsum("ni,ni->n", normal, known_normal).min() > 0.9999


def test_cup_is_open_above_and_closed_below():
    cup = Revolution([(0, 0), (0.05, 0), (0.05, 0.1), (0.046, 0.1), (0.046, 0.006), (0, 0.006)])
    above, below = np.array([0.01, 0.02, 1.0]), np.array([0.01, 0.02, -1.0])
    down, up = np.array([[0.0], [0.0], [-1.0]]), np.array([[0.0], [0.0], [1.0]])
    distance, normal = cup.cast(above, down)
    assert distance[0] == pytest.approx(1 - 0.006)
    assert np.allclose(normal[:, 0], (0, 0, 1))
    distance, normal = cup.cast(below, up)
    assert distance[0] == pytest.approx(1)
    assert np.allclose(normal[:, 0], (0, 0, -1))


def test_normals_can_be_left_out(rays):
    shape = RayShape([lathe([(0, -0.1), (0.2, -0.1), (0.1, 0.1), (0, 0.1)])])
    part, distance, _ = shape.cast(*rays)
    bare_part, bare_distance, bare_normal = shape.cast(*rays, normals=False)
    assert np.array_equal(part, bare_part)
    assert np.array_equal(distance, bare_distance)
    assert not bare_normal.any()
