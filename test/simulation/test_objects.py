"""The stock of objects: words, colours, and shapes that rays meet."""

import numpy as np
import pytest

from molmo2_ros.simulation.objects import (
    CATEGORIES,
    COLOUR_NAMES,
    OWN_COLOUR,
    arc,
    extrude,
    lathe,
    sweep,
)
from molmo2_ros.simulation.shape import RayShape, rotation_z


def test_there_are_twenty_two_categories_with_distinct_words():
    assert len(CATEGORIES) == 22
    for words in ("name", "noun", "plural"):
        assert len({getattr(category, words) for category in CATEGORIES}) == 22


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("cardboard box", "cardboard boxes"),
        ("mushroom", "mushrooms"),
        ("wine glass", "wine glasses"),
        ("wrench", "wrenches"),
        ("teddy bear", "teddy bears"),
    ],
)
def test_plurals_are_english(noun, plural):
    assert {category.noun: category.plural for category in CATEGORIES}[noun] == plural


def test_label_names_the_colour_of_painted_categories_only():
    by_name = {category.name: category for category in CATEGORIES}
    assert by_name["mug"].label(COLOUR_NAMES.index("red")) == "red mug"
    assert by_name["lemon"].label(OWN_COLOUR) == "lemon"


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda category: category.name)
def test_every_object_stands_on_the_table_and_stops_a_ray_from_above(category):
    shape = RayShape(category.build(np.random.default_rng(3)))
    low, high = shape.corners.min(axis=0), shape.corners.max(axis=0)
    assert -0.006 < low[2] < 0.006
    assert 0.05 < max(high - low) < 0.30
    assert shape.paintable.any() == bool(category.colours)
    across = np.linspace(low, high, 15)[:, :2]
    points = np.array([(x, y, 0.0) for x in across[:, 0] for y in across[:, 1]])
    eye = np.array([*shape.centre[:2], 1.0])
    part, distance, normal = shape.cast(eye, points - eye)
    hit = part >= 0
    assert hit.mean() > 0.2
    met = eye + distance[hit, None] * (points - eye)[hit]
    assert np.all((met > low - 1e-6) & (met < high + 1e-6))
    assert np.allclose(np.linalg.norm(normal[hit], axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("category", CATEGORIES, ids=lambda category: category.name)
def test_shapes_of_one_category_differ(category):
    rng = np.random.default_rng(0)
    first, second = RayShape(category.build(rng)), RayShape(category.build(rng))
    assert not np.allclose(first.corners, second.corners, atol=1e-5)


def _ray_length(part, origin, direction):
    _, distance, _ = RayShape([part]).cast(np.array(origin, float), np.array([direction], float))
    return float(distance[0])


def test_builders_make_the_solids_that_their_names_promise():
    # A ray from x = 1 towards -x meets a cylinder of radius 0.2 at x = 0.2.
    drum = lathe([(0, -0.1), (0.2, -0.1), (0.2, 0.1), (0, 0.1)])
    assert _ray_length(drum, (1, 0, 0.01), (-1, 0, 0)) == pytest.approx(0.8, abs=1e-9)
    # A ring of radius 0.3 and thickness 0.05 in the plane z = 0: top at 0.05, a hole in the middle.
    ring = sweep(arc(0.3, num_points=40), 0.05, 16)
    assert _ray_length(ring, (0.3, 0.001, 1), (0, 0, -1)) == pytest.approx(0.95, abs=3e-3)
    assert _ray_length(ring, (0.001, 0.001, 1), (0, 0, -1)) == -1
    # An L of height 0.2 is hollow where it is not concave-filled.
    corner = extrude([(0, 0), (1, 0), (1, 0.3), (0.3, 0.3), (0.3, 1), (0, 1)], 0.2)
    assert _ray_length(corner, (0.15, 0.8, 1), (0, 0, -1)) == pytest.approx(0.9, abs=1e-5)
    assert _ray_length(corner, (0.8, 0.8, 1), (0, 0, -1)) == -1


def test_rotation_is_counter_clockwise_seen_from_above():
    assert np.allclose(rotation_z(90) @ (1, 0, 0), (0, 1, 0))
