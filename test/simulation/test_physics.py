"""The course of the hand: objects are pushed along the table and carried above it."""

import numpy as np
import pytest

from molmo2_ros.simulation.objects import CATEGORY_NAMES, OWN_COLOUR
from molmo2_ros.simulation.physics import STEP_S, Physics
from molmo2_ros.simulation.world import World

NAMES = ("lemon", "phone", "apple")


@pytest.fixture(scope="module")
def course():
    """[100, 3 objects, 3] positions over fifty seconds."""
    world, rng = World(3, 1), np.random.default_rng(3)
    categories = [CATEGORY_NAMES.index(name) for name in NAMES]
    items = [world.make_item(rng, category, OWN_COLOUR) for category in categories]
    for item, x in zip(items, (-0.15, 0.0, 0.15), strict=True):
        item.position = np.array([x, 0.0, 0.0])
    physics = Physics(items, categories, rng)
    places = []
    for _ in range(100):
        physics.advance(round(0.5 / STEP_S))
        places.append([item.position for item in items])
    return np.array(places)


def test_some_object_is_carried_above_the_others(course):
    assert course[..., 2].max() > 0.12


def test_every_object_comes_back_to_the_table(course):
    # A ball's origin lies at its underside, and turns up when it rolls.
    assert np.all(np.median(course[..., 2], axis=0) < 0.09)
    assert course[..., 2].min() > -0.02


def test_some_object_is_pushed_along_the_table(course):
    low = (course[1:, :, 2] < 0.02) & (course[:-1, :, 2] < 0.02)
    stride = np.linalg.norm(np.diff(course[..., :2], axis=0), axis=-1)
    assert stride[low].max() > 0.02


def test_objects_stay_inside_the_fence(course):
    assert np.abs(course[..., :2]).max() < 0.35
