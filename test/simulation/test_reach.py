"""The table with the arm: weight, belt and skin of things, and the truth about the fingertip."""

import numpy as np
import pytest

from molmo2_ros.errors import ConfigError
from molmo2_ros.simulation.arm import HOME, TIP_RADIUS_M
from molmo2_ros.simulation.arm_physics import COMMAND_LASTS_S
from molmo2_ros.simulation.physics import STEP_S
from molmo2_ros.simulation.reach import (
    CAMERA,
    ReachTable,
    camera_from_foot,
    named_object,
    surface_points,
)
from molmo2_ros.simulation.reach_camera import open_reach_camera
from molmo2_ros.simulation.reaching import Reacher
from molmo2_ros.simulation.world import World

SIZE = {"width": 80, "height": 60}


WORLD = World(4, variants=1)


def table_of(name, seed=4, **arguments):
    return ReachTable(seed, asked=named_object(name), world=WORLD, **SIZE, **arguments)


def place_of(table, j=0):
    table.pose()
    return table._scene.items[j].position.copy()


def reach(table, duration_s, deeper_m=0.0):
    """Touch the point that is seen first, whose true place is told at 10 Hz; the gaps at 50 Hz."""
    reacher, gaps = Reacher(*camera_from_foot()), []
    item = table._scene.items[0]
    first = np.array(table.look(0).truth[0].point_m)
    first *= 1 + deeper_m / np.linalg.norm(first)
    on_item = item.rotation.T @ (CAMERA.position + CAMERA.rotation @ first - item.position)
    for tick in range(round(duration_s / 0.02)):
        if tick % 5 == 0:
            table.pose()
            place = item.position + item.rotation @ on_item
            reacher.see(CAMERA.rotation.T @ (place - CAMERA.position), table.physics.time_s)
        reacher.feel(table.physics.drives.angles, table.physics.time_s)
        table.physics.command(reacher.command(table.physics.time_s))
        table.physics.advance(5)
        gaps.append(table.gap_m())
    return np.array(gaps)


@pytest.mark.parametrize("name", ["red mug", "lemon", "white bowl", "cone", "phone"])
@pytest.mark.parametrize("belt_speed", [0.0, 0.1])
def test_what_is_truly_shown_is_touched_and_not_pushed_away(name, belt_speed):
    table = table_of(name, belt_speed=belt_speed)
    before = place_of(table)
    gaps = reach(table, 3.0)
    assert gaps[-25:].max() < 0.02
    moved = place_of(table) - before
    # Started gently, the belt loses v / 2a of its time.
    assert moved[0] == pytest.approx(belt_speed * (3.0 - belt_speed), abs=0.02)
    assert abs(moved[1]) < 0.02


@pytest.mark.parametrize("name", ["red mug", "cone", "banana"])
def test_a_finger_that_presses_pushes_the_object_away_and_does_not_go_through_it(name):
    table = table_of(name)
    before = place_of(table)
    reach(table, 3.0, deeper_m=0.04)
    assert np.linalg.norm(place_of(table) - before) > 0.01


def test_only_the_asked_object_is_called_so():
    for seed in range(6):
        labels = [thing.label for thing in ReachTable(seed, world=WORLD, **SIZE).objects]
        assert labels.count(labels[0]) == 1
    assert table_of("red mug").objects[0].label == "red mug"


def test_an_object_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ConfigError, match="object 'unicorn' does not exist here, .* red mug, "):
        named_object("unicorn")


def test_the_belt_goes_to_and_fro_and_takes_the_object_along():
    table = table_of("blue can", belt_speed=-0.1)
    places = []
    for _ in range(22):
        table.physics.advance(125)
        places.append(place_of(table)[0])
    assert places[0] > 0.2
    assert min(places) == pytest.approx(-0.25, abs=0.03)
    assert places[-1] > 0.15


def test_the_drives_stop_when_commands_stop():
    table = table_of("red mug")
    table.physics.command(np.array([0.0, -1.0, 0.0, 0.0]))
    table.physics.advance(round((COMMAND_LASTS_S + 0.3) / STEP_S))
    angles = table.physics.drives.angles.copy()
    table.physics.advance(100)
    assert table.physics.drives.angles == pytest.approx(angles)
    # 1 rad/s for COMMAND_LASTS_S, give or take getting there and stopping.
    assert HOME[1] - angles[1] == pytest.approx(COMMAND_LASTS_S, abs=0.02)


def test_surface_points_lie_on_the_surface_and_nowhere_else():
    table = table_of("red can")
    points = surface_points(table._scene.items[0].shape)
    radius = np.linalg.norm(points[:, :2], axis=1)
    top = points[:, 2].max()
    on_side = (points[:, 2] > 0.02) & (points[:, 2] < top - 0.03)
    # A can's body, and a label 1 % wider.
    assert on_side.sum() > 300
    assert radius[on_side] == pytest.approx(0.036 * 1.2, rel=0.02)


def test_the_gap_is_the_air_between_tip_and_surface():
    table = table_of("red can")
    tip = table.physics.tip_in(0)
    nearest = np.linalg.norm(surface_points(table._scene.items[0].shape) - tip, axis=1).min()
    assert table.gap_m() == pytest.approx(nearest - TIP_RADIUS_M)
    assert table.gap_m() > 0.2


def test_the_finger_goes_into_a_bowl_as_far_as_its_drawn_bottom():
    table = table_of("white bowl")
    gaps = reach(table, 3.0)
    tip = table.physics.tip_in(0)
    # The wall is drawn at 0.07 to 0.09 m from the axis: the tip is inside and near the surface.
    assert np.linalg.norm(tip[:2]) < 0.06
    assert gaps[-1] < 0.005


def test_frames_show_the_arm_where_its_joints_are():
    table = table_of("red mug")
    before = table.look(0).frame.image
    reach(table, 2.0)
    after = table.look(1).frame.image
    assert (np.abs(before.astype(int) - after).max(axis=2) > 60).mean() > 0.005


def test_a_camera_in_real_time_stamps_what_it_shows_and_skips_a_pause():
    clock = [5_000_000_000]
    camera = open_reach_camera(
        "red mug",
        seed=1,
        belt_speed=0.0,
        renderer="rays",
        rate_hz=50.0,
        now_ns=lambda: clock[0],
        **SIZE,
    )
    camera.command(np.array([0.5, 0.0, 0.0, 0.0]))
    clock[0] += 80_000_000
    frame = camera.read()
    assert frame.stamp_ns == clock[0]
    angles, velocities, _ = camera.joints()
    assert velocities[0] == pytest.approx(6.0 * 0.08)
    clock[0] += 10_000_000_000
    camera.follow()
    assert camera._table.physics.time_s == pytest.approx(0.18, abs=STEP_S)
    assert {thing["name"] for thing in camera.truth()} >= {"red mug"}
