"""The controller: what it makes of sightings, and that the arm gets where they are."""

import numpy as np
import pytest

from molmo2_ros.simulation.arm import HOME, TIP_RADIUS_M, Arm, Drives
from molmo2_ros.simulation.reach import camera_from_foot
from molmo2_ros.simulation.reaching import Aim, Reacher

PLACE = np.array([0.45, 0.10, 0.05])
VELOCITY = np.array([0.08, -0.05, 0.0])
PERIOD_S = 0.02


def aim_along(velocity, duration_s=1.0, noise_m=0.0):
    """An aim that saw a target move at 10 Hz until `duration_s`."""
    aim, rng = Aim(), np.random.default_rng(0)
    for time_s in np.arange(0, duration_s + 1e-9, 0.1):
        aim.see(PLACE + velocity * time_s + rng.normal(0, noise_m, 3), time_s)
    return aim


def test_a_moving_target_is_carried_on_beyond_what_was_seen():
    place, velocity = aim_along(VELOCITY, noise_m=0.002).at(1.5)
    assert velocity == pytest.approx(VELOCITY, abs=0.01)
    assert place == pytest.approx(PLACE + 1.5 * VELOCITY, abs=0.01)


def test_another_point_of_the_same_thing_moves_the_place_and_not_the_velocity():
    aim = aim_along(VELOCITY)
    leap = np.array([0.0, 0.03, 0.02])
    aim.see(PLACE + VELOCITY * 1.1 + leap, 1.1)
    place, velocity = aim.at(1.1)
    assert place == pytest.approx(PLACE + VELOCITY * 1.1 + leap, abs=0.002)
    assert velocity == pytest.approx(VELOCITY, abs=0.005)


def test_what_turns_back_is_followed_after_a_few_sightings():
    aim = aim_along(VELOCITY)
    for k in range(1, 11):
        aim.see(PLACE + VELOCITY * (1.0 - 0.1 * k), 1.0 + 0.1 * k)
    assert aim.at(2.0)[0] == pytest.approx(PLACE, abs=0.01)
    assert aim.at(2.0)[1] == pytest.approx(-VELOCITY, abs=0.02)


def test_another_thing_is_believed_only_when_it_stays():
    aim, far = aim_along(np.zeros(3)), PLACE + (0, 0.2, 0)
    aim.see(far, 1.1)
    assert aim.at(1.1)[0] == pytest.approx(PLACE, abs=0.002)
    aim.see(PLACE, 1.2)
    assert aim.at(1.2)[0] == pytest.approx(PLACE, abs=0.002)
    for k in range(8):
        aim.see(far, 1.3 + 0.1 * k)
    assert aim.at(2.0)[0] == pytest.approx(far, abs=0.002)


def test_an_older_sighting_changes_nothing():
    aim = aim_along(np.zeros(3))
    aim.see(PLACE + 0.02, 0.5)
    assert aim.at(1.0)[0] == pytest.approx(PLACE)


class Robot:
    """Camera, controller and drives, without anything to collide with."""

    def __init__(self, delay_s=0.0):
        self.num_late = round(delay_s / PERIOD_S)
        self.felt = []
        self.position, self.rotation = camera_from_foot()
        self.reacher = Reacher(self.position, self.rotation)
        self.drives = Drives(HOME)
        self.arm = Arm()
        self.time_s = 0.0

    def show(self, place):
        """A sighting of a place in the foot's coordinates."""
        self.reacher.see(self.rotation.T @ (place - self.position), self.time_s)

    def step(self):
        self.felt.append((self.drives.angles, self.time_s))
        self.reacher.feel(*self.felt[max(0, len(self.felt) - 1 - self.num_late)])
        self.drives.advance(self.reacher.command(self.time_s), PERIOD_S)
        self.time_s += PERIOD_S

    @property
    def tip(self):
        return self.arm.tip(self.drives.angles)


@pytest.mark.parametrize("velocity", [(0, 0, 0), (0.08, -0.06, 0), (-0.04, 0.08, 0)])
@pytest.mark.parametrize("start", [(0.45, 0.1, 0.05), (0.5, -0.15, 0.12), (0.4, -0.05, 0.02)])
def test_the_tip_gets_to_a_true_target_and_stays(start, velocity):
    robot, velocity = Robot(), np.array(velocity)
    gaps = []
    for tick in range(170):
        place = np.array(start) + velocity * robot.time_s
        if tick % 5 == 0:
            robot.show(place)
        robot.step()
        gaps.append(np.linalg.norm(robot.tip - place) - TIP_RADIUS_M)
    assert max(gaps[-50:]) < 0.012
    assert robot.reacher.is_touching


def test_joints_that_are_felt_late_make_the_arm_slower_and_not_swing():
    robot = Robot(delay_s=0.3)
    apart = []
    for _ in range(500):
        robot.show(PLACE)
        robot.step()
        apart.append(np.linalg.norm(robot.tip - PLACE))
    assert min(apart) < TIP_RADIUS_M + 0.01
    assert max(apart[250:]) < 0.15


def test_the_finger_comes_steeply_and_from_before_the_surface():
    robot = Robot()
    heights = []
    for _ in range(200):
        robot.show(PLACE)
        robot.step()
        away = np.linalg.norm(robot.tip[:2] - PLACE[:2])
        if away > 0.10:
            heights.append(robot.tip[2])
    assert min(heights) > PLACE[2] + 0.08
    assert robot.arm.finger(robot.drives.angles)[2] == pytest.approx(
        -np.sin(np.radians(55)), abs=0.1
    )


def test_a_target_that_the_finger_hides_is_not_believed():
    robot = Robot()
    for _ in range(130):
        robot.show(PLACE)
        robot.step()
    # What the camera would say of the finger that lies before the target.
    toward_camera = (robot.position - PLACE) / np.linalg.norm(robot.position - PLACE)
    for _ in range(25):
        robot.show(PLACE + 0.03 * toward_camera)
        robot.step()
    assert robot.reacher.aim.at(robot.time_s)[0] == pytest.approx(PLACE, abs=0.004)


def test_without_a_target_the_arm_folds_up_again():
    robot = Robot()
    for _ in range(100):
        robot.show(PLACE)
        robot.step()
    assert np.abs(robot.drives.angles - HOME).max() > 0.5
    for _ in range(600):
        robot.step()
    assert robot.drives.angles == pytest.approx(HOME, abs=0.02)
    assert not robot.reacher.aim.is_known
