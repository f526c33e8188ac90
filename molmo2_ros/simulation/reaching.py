"""The arm's controller: from places of a target, each with its time, to velocities of the joints.

Coordinates are those of the arm's foot, metres; times are seconds of one clock.
"""

from __future__ import annotations

import numpy as np

from molmo2_ros.simulation.arm import (
    F64,
    HOME,
    NUM_JOINTS,
    TIP_RADIUS_M,
    VELOCITY_LIMIT,
    Arm,
    pitch,
)

# How a target moves, and how far what is said of it can be trusted.
_NOISE_M = 0.004
_ACCELERATION = 0.04  # m/s^2, of things that stand or lie on a belt
_SPEED = 0.08  # m/s, as expected before anything was seen move
_UNLIKELY = 3.0  # standard deviations: another point of the same thing was named ...
_MOST_LEAPS = 3  # ... but so many in a row mean that it moves otherwise
_GATE_M = 0.06  # farther from where it was expected, it is another thing ...
_PATIENCE_S = 0.6  # ... unless it stays there so long
_FORGET_S = 4.0

_PITCH = np.radians(-55.0)  # of the finger when it touches
_HOVER_M = 0.07  # before the surface, until the finger points at the target
_ARCH, _HIGHEST_M = 0.5, 0.15  # farther off the line of approach, higher: over what stands there
_PRESS_M = 0.002  # of air that the touch leaves between tip and surface
_ALIGNED_M, _ASTRAY_M = 0.012, 0.025  # off the line of approach: go on, go back
_COAST_S = 2.5  # a touch may last so long without the target being seen
_HIDING_M = 0.02  # nearer to the line of sight the finger spoils what the camera says ...
_BEHIND_M = 0.04  # ... also a little behind: there a sighting may show the finger's own side

_GAIN = 6.0  # 1/s; less where the joints are felt late, or the arm would swing
_GAIN_TIMES_DELAY = 0.3
_REACH_SPEED, _TOUCH_SPEED = 0.6, 0.15  # m/s
_BRAKE = 1.5  # m/s^2
_DAMPING = 0.03
_PITCH_WEIGHT = 0.15  # metres that a radian of pitch counts


class Aim:
    """Where a target is and how it moves, from sightings that err: a constant-velocity filter.

    A new answer often names another point of the same thing. Such a leap moves the place and says
    nothing of the velocity.
    """

    def __init__(self) -> None:
        self.seen_s = -np.inf  # time of the newest sighting that was believed
        self._state = np.zeros((2, 3))  # place and velocity
        self._covariance = np.zeros((2, 2))  # the same for every axis
        self._time_s = 0.0
        self._doubts: list[float] = []  # times of sightings in a row that were not believed
        self._num_leaps = 0  # in a row

    @property
    def is_known(self) -> bool:
        """Something was seen."""
        return bool(np.isfinite(self.seen_s))

    def see(self, place: F64, time_s: float) -> None:
        """Take a sighting in; an old one is left out, one far off is believed if it stays there."""
        if self.is_known and time_s <= self._time_s:
            return
        if not self.is_known:
            self._begin(place, time_s)
            return
        expected, covariance = self._at(time_s)
        error = place - expected[0]
        spread_m = np.sqrt(covariance[0, 0] + _NOISE_M**2)
        if np.linalg.norm(error) > _GATE_M + 2 * spread_m:
            self._doubts.append(time_s)
            if time_s - self._doubts[0] > _PATIENCE_S:
                self._begin(place, time_s)
            return
        self._doubts.clear()
        is_leap = bool(np.linalg.norm(error) > _UNLIKELY * spread_m)
        self._num_leaps = self._num_leaps + 1 if is_leap else 0
        if self._num_leaps >= _MOST_LEAPS:
            self._begin(place, time_s)
            return
        if is_leap:
            covariance = np.diag([1.0, covariance[1, 1]])
        gain = covariance[:, 0] / (covariance[0, 0] + _NOISE_M**2)
        self._state = expected + np.outer(gain, error)
        self._covariance = covariance - np.outer(gain, covariance[0])
        self._time_s = self.seen_s = time_s

    def at(self, time_s: float) -> tuple[F64, F64]:
        """Place and velocity, [3] each, carried on to a time."""
        state, _ = self._at(time_s)
        return state[0], state[1]

    def _begin(self, place: F64, time_s: float) -> None:
        self._state = np.stack([place, np.zeros(3)])
        self._covariance = np.diag([_NOISE_M**2, _SPEED**2])
        self._time_s = self.seen_s = time_s
        self._doubts.clear()
        self._num_leaps = 0

    def _at(self, time_s: float) -> tuple[F64, F64]:
        t = time_s - self._time_s
        carry = np.array([[1.0, t], [0.0, 1.0]])
        drift = _ACCELERATION**2 * np.array([[t**4 / 4, t**3 / 2], [t**3 / 2, t**2]])
        return carry @ self._state, carry @ self._covariance @ carry.T + drift


class Reacher:
    """Moves the fingertip to the target and keeps it there; without one, folds the arm up.

    The finger comes to a point before the surface, then straight on along the way that it points.
    What the camera says while the finger is before the target is not believed.

    Args:
        camera_position: [3] of the optical centre.
        camera_rotation: [3, 3] foot from optical frame (REP 103).
    """

    def __init__(self, camera_position: F64, camera_rotation: F64) -> None:
        self._arm = Arm()
        self._camera = np.asarray(camera_position, np.float64)
        self._rotation = np.asarray(camera_rotation, np.float64)
        self._angles: F64 = HOME.copy()
        self._felt_s = -np.inf
        self.aim = Aim()
        self.is_touching = False  # on the last of the way, or there

    def feel(self, angles: F64, time_s: float) -> None:
        """Take in the joints' own angles, [4] radians, and when they were so."""
        self._angles, self._felt_s = np.asarray(angles, np.float64), time_s

    def see(self, point_m: F64, time_s: float) -> None:
        """Take in a target, [3] metres in the optical frame, and the time that it speaks of."""
        place = self._camera + self._rotation @ np.asarray(point_m, np.float64)
        if not (self.aim.is_known and self._is_hidden(place)):
            self.aim.see(place, time_s)

    def command(self, time_s: float) -> F64:
        """[4] rad/s, for the moment `time_s`."""
        delay_s = max(time_s - self._felt_s, 1e-3)
        gain = min(_GAIN, _GAIN_TIMES_DELAY / delay_s)
        unseen_s = time_s - self.aim.seen_s
        if unseen_s > _FORGET_S:
            self.aim, self.is_touching = Aim(), False
            home = np.clip(min(gain, 2.0) * (HOME - self._angles), -0.5, 0.5) * VELOCITY_LIMIT
            return np.asarray(home)
        place, velocity = self.aim.at(time_s)
        approach = self._approach(place, unseen_s < _COAST_S, gain)
        return self._joint_velocities(velocity + approach, gain)

    def _approach(self, place: F64, may_touch: bool, gain: float) -> F64:
        """[3] m/s of the tip relative to the target."""
        along = _way(place)
        offset = self._arm.tip(self._angles) - place
        astray = float(np.linalg.norm(offset - (offset @ along) * along))
        limit_m = _ASTRAY_M if self.is_touching else _ALIGNED_M
        self.is_touching = may_touch and astray < limit_m
        hover_m = min(_HOVER_M + _ARCH * astray, _HIGHEST_M)
        before = TIP_RADIUS_M + (_PRESS_M if self.is_touching else hover_m)
        missing = place - before * along - self._arm.tip(self._angles)
        left_m = float(np.linalg.norm(missing))
        top = _TOUCH_SPEED if self.is_touching else _REACH_SPEED
        speed = min(gain * left_m, top, np.sqrt(2 * _BRAKE * left_m))
        return np.asarray(missing * (speed / max(left_m, 1e-9)))

    def _joint_velocities(self, velocity: F64, gain: float) -> F64:
        """Damped least squares; the finger's pitch takes what freedom the tip leaves."""
        jacobian = np.zeros((4, NUM_JOINTS))
        jacobian[:3] = self._arm.jacobian(self._angles)
        jacobian[3, 1:] = _PITCH_WEIGHT
        turn = np.clip(min(gain, 2.0) * (_PITCH - pitch(self._angles)), -1.0, 1.0)
        wanted = np.append(velocity, _PITCH_WEIGHT * turn)
        square = jacobian @ jacobian.T + _DAMPING**2 * np.eye(4)
        rates = jacobian.T @ np.linalg.solve(square, wanted)
        # All joints together slower, so that the tip keeps its way.
        return np.asarray(rates / max(1.0, float(np.abs(rates).max()) / VELOCITY_LIMIT))

    def _is_hidden(self, place: F64) -> bool:
        """The finger comes near the line from camera to target, or what was seen may be itself."""
        tip = self._arm.tip(self._angles)
        finger = tip - np.outer(np.linspace(0.0, 0.18, 10), self._arm.finger(self._angles))
        sight = place - self._camera
        length = float(np.linalg.norm(sight))
        along = np.clip((finger - self._camera) @ sight / length, 0, length + _BEHIND_M)
        miss = finger - self._camera - np.outer(along / length, sight)
        return bool(np.linalg.norm(miss, axis=1).min() < _HIDING_M)


def _way(place: F64) -> F64:
    """[3] the unit vector along which the finger comes to a place: straight out, and down."""
    ahead = place[:2] / np.linalg.norm(place[:2])
    return np.append(np.cos(_PITCH) * ahead, np.sin(_PITCH))
