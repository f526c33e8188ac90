"""What is drawn, and where."""

import math

import numpy as np
import pytest

from molmo2_ros.overlay import Trails, draw, track_colour
from molmo2_ros.tracking.target import Target


def make_target(u, v, track_id=1, **changes):
    return Target(
        **{
            "query_id": 1,
            "query_name": "mug",
            "label": "red mug",
            "track_id": track_id,
            "stamp_ns": 0,
            "u": u,
            "v": v,
            "point_m": None,
            "age_s": 0.0,
            "quality": 1.0,
            "confidence": 0.9,
            "measured": True,
            **changes,
        }
    )


def grey_picture(height=240, width=320):
    picture = np.full((height, width, 3), 90, np.uint8)
    picture.flags.writeable = False  # as a Frame's
    return picture


def changed_near(before, after, u, v, radius=4):
    area = np.s_[max(0, v - radius) : v + radius + 1, max(0, u - radius) : u + radius + 1]
    return bool((before[area] != after[area]).any())


def test_a_target_is_drawn_at_its_pixel_on_a_copy():
    picture = grey_picture()
    drawn = draw(picture, [make_target(100.0, 120.0)])
    assert drawn.shape == picture.shape
    assert drawn.dtype == np.uint8
    assert (picture == 90).all()
    assert changed_near(picture, drawn, 100, 120)
    assert not changed_near(picture, drawn, 300, 230)
    inside = drawn[118:123, 96:105].reshape(-1, 3).astype(int)
    assert np.abs(inside - track_colour(1)).sum(axis=1).min() < 30


def test_carried_and_badly_held_targets_look_different():
    picture = grey_picture()
    looks = [
        draw(picture, [make_target(100.0, 120.0, **how)])
        for how in ({}, {"measured": False}, {"measured": False, "quality": 0.3})
    ]
    assert (looks[0] != looks[1]).any()
    assert (looks[1] != looks[2]).any()


def test_a_ring_is_as_closed_as_its_target_is_held_well():
    picture = grey_picture()
    coloured = []
    for quality in (0.55, 0.75, 1.0):
        drawn = draw(picture, [make_target(100.0, 120.0, measured=False, quality=quality)])
        near = np.abs(drawn[108:133, 88:113].astype(int) - track_colour(1)).sum(axis=2)
        coloured.append(int((near < 60).sum()))
    assert coloured[0] < 0.7 * coloured[2]
    assert coloured[0] < coloured[1] < coloured[2]


def test_a_name_that_somebody_gave_is_written_and_one_made_of_the_words_is_not():
    picture = grey_picture()
    plain = draw(picture, [make_target(100.0, 120.0, query_name="mug")])
    of_words = draw(picture, [make_target(100.0, 120.0, query_name="the_red_mug")])
    given = draw(picture, [make_target(100.0, 120.0, query_name="left hand")])
    assert (plain == of_words).all()
    assert (plain != given).any()


def test_depth_and_age_are_written():
    picture = grey_picture()
    plain = draw(picture, [make_target(100.0, 120.0)])
    deep = draw(picture, [make_target(100.0, 120.0, point_m=(0.1, 0.2, 1.5))])
    old = draw(picture, [make_target(100.0, 120.0, age_s=2.0)])
    unknown = draw(picture, [make_target(100.0, 120.0, point_m=(math.nan,) * 3)])
    assert (plain != deep).any()
    assert (plain != old).any()
    assert (plain == unknown).all()


def test_names_of_neighbours_do_not_cover_each_other():
    picture = grey_picture()
    both = draw(picture, [make_target(100.0, 120.0), make_target(104.0, 122.0, track_id=2)])
    shown = (both != picture).any(axis=2)
    alone = (draw(picture, [make_target(100.0, 120.0)]) != picture).any(axis=2)
    # A second plate of text lies below the first instead of upon it.
    assert shown.sum() > 1.6 * alone.sum()


@pytest.mark.parametrize(("u", "v"), [(0, 0), (319, 239), (-50, 400), (319, 0), (1e4, -1e4)])
def test_a_target_at_or_beyond_the_edge_does_not_raise(u, v):
    draw(grey_picture(), [make_target(float(u), float(v), label="a very long label " * 5)])


def test_a_tiny_picture_and_foreign_letters_do_not_raise():
    draw(grey_picture(8, 8), [make_target(3.0, 3.0, label="rote Tasse \u676f")], caption="x" * 300)


def test_caption_is_written_at_the_lower_edge():
    picture = grey_picture()
    drawn = draw(picture, [], caption="Track the red mug.")
    assert (drawn[-30:] != picture[-30:]).any()
    assert (drawn[:180] == picture[:180]).all()


def test_a_trail_follows_its_target_and_ends_with_it():
    trails = Trails(duration_s=1.0)
    for index in range(40):
        trails.add([make_target(10.0 + 5 * index, 60.0)], index * 50_000_000)
    (line,) = trails.lines.values()
    assert line[-1] == (205.0, 60.0)
    assert len(line) == 21  # one second at 20 Hz, both ends
    picture = grey_picture()
    drawn = draw(picture, [], trails=trails.lines)
    assert changed_near(picture, drawn, 150, 60)
    assert not changed_near(picture, drawn, 30, 60)
    trails.add([], 2_000_000_000)
    assert trails.lines == {}


def test_a_trail_begins_anew_when_time_runs_backwards():
    trails = Trails()
    trails.add([make_target(10.0, 60.0)], 5_000_000_000)
    trails.add([make_target(90.0, 60.0)], 0)
    assert trails.lines == {(1, 1): [(90.0, 60.0)]}


def test_neighbouring_ids_have_colours_apart():
    colours = np.array([track_colour(track_id) for track_id in range(1, 9)])
    apart = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 999 * np.eye(8, dtype=int)
    assert apart.min() > 60
