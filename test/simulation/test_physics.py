"""Objects on the simulated table rest, are pushed and carried, and stay on it."""

import numpy as np
import pytest

from molmo2_ros.simulation.objects import CATEGORY_NAMES, OWN_COLOUR
from molmo2_ros.simulation.physics import STEP_S, Physics
from molmo2_ros.simulation.world import World, place_apart

THINGS = ("duck", "lemon", "phone", "apple")


@pytest.fixture(params=[0, 1])
def table(request):
    rng = np.random.default_rng(request.param)
    world = World(request.param, variants=1)
    categories = [CATEGORY_NAMES.index(name) for name in THINGS]
    items = [world.make_item(rng, category, OWN_COLOUR) for category in categories]
    place_apart(rng, items)
    return items, Physics(items, categories, rng)


def places(items):
    return np.array([item.position for item in items])


def test_nothing_moves_until_the_hand_comes(table):
    items, physics = table
    before = places(items)
    physics.advance(round(1.0 / STEP_S))
    assert np.abs(places(items) - before).max() < 0.003  # metres


def test_the_hand_moves_things_and_they_stay_on_the_table(table):
    items, physics = table
    before = places(items)
    farthest = np.zeros(len(items))
    for _ in range(40):
        physics.advance(round(0.5 / STEP_S))
        farthest = np.maximum(farthest, np.linalg.norm(places(items) - before, axis=1))
        x, y, z = places(items).T
        assert (np.abs(x) < 0.5).all()
        assert (np.abs(y) < 0.5).all()
        assert (z > -0.1).all()
    assert (farthest > 0.05).sum() >= 2
