"""The arm: its kinematics against finite differences, and drives that keep their limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmo2_ros.simulation.arm import (
    ACCELERATION_LIMIT,
    HOME,
    LIMITS,
    NUM_JOINTS,
    VELOCITY_LIMIT,
    Arm,
    Drives,
    pitch,
)

ARM = Arm()
shares = st.lists(st.floats(0, 1), min_size=NUM_JOINTS, max_size=NUM_JOINTS)
commands = st.lists(
    st.lists(st.floats(-20, 20), min_size=NUM_JOINTS, max_size=NUM_JOINTS), min_size=1, max_size=5
)


def angles_of(share):
    return LIMITS[:, 0] + np.array(share) * (LIMITS[:, 1] - LIMITS[:, 0])


def test_stretched_out_the_tip_is_where_the_links_add_up_to():
    # 0.40 + 0.38 + 0.20 ahead, on shoulders 0.11 + 0.08 high.
    assert ARM.tip(np.zeros(4)) == pytest.approx([0.98, 0, 0.19])
    assert ARM.finger(np.zeros(4)) == pytest.approx([1, 0, 0])


def test_turned_left_and_elbow_down_the_forearm_hangs():
    angles = np.array([np.pi / 2, 0, -np.pi / 2, 0])
    assert ARM.tip(angles) == pytest.approx([0, 0.40, 0.19 - 0.58])
    assert pitch(angles) == pytest.approx(-np.pi / 2)


@given(shares)
@settings(deadline=None, max_examples=50)
def test_jacobian_equals_finite_differences(share):
    angles, step = angles_of(share), 1e-6
    columns = [
        (ARM.tip(angles + step * joint) - ARM.tip(angles - step * joint)) / (2 * step)
        for joint in np.eye(NUM_JOINTS)
    ]
    assert ARM.jacobian(angles) == pytest.approx(np.stack(columns, axis=1), abs=1e-6)


@given(shares, commands, st.sampled_from([0.001, 0.004, 0.02]))
@settings(deadline=None, max_examples=30)
def test_no_command_makes_a_drive_break_its_limits(share, sequence, step_s):
    drives = Drives(angles_of(share))
    for command in sequence:
        for _ in range(80):
            before = drives.velocities
            drives.advance(np.array(command), step_s)
            assert np.abs(drives.velocities).max() <= VELOCITY_LIMIT + 1e-9
            change = np.abs(drives.velocities - before).max()
            assert change <= ACCELERATION_LIMIT * step_s + 1e-9
            assert np.all(drives.angles >= LIMITS[:, 0] - 1e-9)
            assert np.all(drives.angles <= LIMITS[:, 1] + 1e-9)


def test_a_drive_reaches_what_it_is_told_and_the_end_of_its_range():
    drives = Drives(HOME)
    for _ in range(100):
        drives.advance(np.array([0.5, 0, 0, 0]), 0.01)
    assert drives.velocities == pytest.approx([0.5, 0, 0, 0])
    # 1 s of 0.5 rad/s, less the 0.083 s that it takes to get there at 6 rad/s^2.
    assert drives.angles[0] - HOME[0] == pytest.approx(0.5 - 0.5**2 / 12, abs=0.005)
    for _ in range(1000):
        drives.advance(np.array([9.0, 0, 0, 0]), 0.01)
    assert drives.angles[0] == pytest.approx(LIMITS[0, 1], abs=1e-3)
    assert drives.velocities[0] == pytest.approx(0, abs=1e-2)
