"""The simulated camera: truth that agrees with the picture, for ever and reproducibly."""

import json

import numpy as np
import pytest

from molmo2_ros.simulation.source import TableSource

SIZE = {"width": 80, "height": 60}


@pytest.fixture(scope="module")
def story():
    """Twelve seconds, a frame each half second."""
    source = TableSource(seed=1, rate_hz=2.0, **SIZE)
    return source, [source.read_table() for _ in range(24)]


def test_first_frame_shows_what_the_documentation_asks_for(story):
    first = story[1][0]
    visible = {thing.name for thing in first.truth if thing.visible_fraction > 0.5}
    assert {"red mug", "blue mug", "lemon"} <= visible


def test_point_of_each_visible_object_lies_on_its_mask(story):
    for table in story[1]:
        for thing in table.truth:
            covered = int((table.instances == thing.id).sum())
            if thing.point_px is None:
                assert covered < 6
                assert thing.point_m is None
                assert thing.visible_fraction == 0
            else:
                column, row = thing.point_px
                assert table.instances[row, column] == thing.id


def test_point_in_metres_projects_to_the_point_in_pixels(story):
    for table in story[1]:
        fx, _, cx, _, fy, cy, *_ = table.frame.camera.k
        for thing in table.truth:
            if thing.point_m is None:
                continue
            x, y, z = thing.point_m
            column, row = thing.point_px
            assert z == pytest.approx(table.frame.depth_m[row, column])
            assert (fx * x / z + cx, fy * y / z + cy) == pytest.approx((column, row), abs=1e-3)


def test_objects_stay_in_view(story):
    source, tables = story
    assert sum(thing.visible_fraction > 0.1 for thing in tables[-1].truth) >= 4
    assert len(source.objects) == len(tables[-1].truth) == 7


def test_stamps_are_even_and_start_at_zero(story):
    stamps = [table.frame.stamp_ns for table in story[1]]
    assert stamps[:3] == [0, 500_000_000, 1_000_000_000]


def test_truth_is_json(story):
    listed = json.loads(story[1][0].truth_json())
    assert [thing["id"] for thing in listed] == [1, 2, 3, 4, 5, 6, 7]
    assert set(listed[0]) == {"id", "name", "point_px", "point_m", "visible_fraction"}


def test_truth_belongs_to_the_frame_read_last():
    source = TableSource(seed=2, **SIZE)
    assert source.truth() == []
    source.read()
    assert [thing["name"] for thing in source.truth()][:2] == ["red mug", "lemon"]
    source.close()


def test_same_seed_shows_the_same_frames():
    first, second = (TableSource(seed=3, rate_hz=1.0, **SIZE) for _ in range(2))
    for _ in range(4):
        one, two = first.read(), second.read()
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.depth_m, two.depth_m)


@pytest.mark.parametrize("arguments", [{"width": 8}, {"rate_hz": 0.0}])
def test_senseless_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        TableSource(**arguments)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_jumps_before_the_hand_comes(seed):
    source = TableSource(seed=seed, width=64, height=48)
    before = {}
    for _ in range(4):
        source.read()
        seen = [thing for thing in source.truth() if thing["visible_fraction"] > 0.5]
        now = {thing["id"]: np.array(thing["point_px"]) for thing in seen}
        moved = [np.linalg.norm(now[i] - before[i]) for i in now.keys() & before.keys()]
        assert max(moved, default=0) < 2.5  # of 64 pixels: the camera sways slowly
        before = now
    assert len(before) >= 4
