"""Targets in another frame: the transform's mathematics, and what is given while none is known.

The wheels of ROS 2 lack tf2. What stands for its buffer is a table of transforms by stamp; the
messages are ROS 2's own.
"""

import math
import threading
import time

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rclpy.context import Context

from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import TransformError
from molmo2_ros.ros import images
from molmo2_ros.ros.diagnostics import ProblemLog
from molmo2_ros.ros.target_frame import TargetFrame, moved
from molmo2_ros.tracking.target import Target

NS = NS_PER_S
HALF = math.sqrt(0.5)
# A camera 1 m above base_link's origin that looks forward: its z is forward, its x right, its y
# down (REP 103), so that a point (x, y, z) is at (z, -x, 1 - y).
FORWARD = {"x": -0.5, "y": 0.5, "z": -0.5, "w": 0.5}


def transform(stamp_ns=0, rotation=None, translation=(0.0, 0.0, 0.0)):
    x, y, z = translation
    return TransformStamped(
        header=images.header(stamp_ns, "base_link"),
        child_frame_id="camera",
        transform=Transform(
            translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(**(rotation or {}))
        ),
    )


def target(point_m=(0.2, -0.1, 2.0), track_id=7):
    return Target(
        query_id=1,
        query_name="mug",
        label="mug",
        track_id=track_id,
        stamp_ns=NS,
        u=163.0,
        v=96.0,
        point_m=point_m,
        age_s=0.2,
        quality=0.9,
        confidence=0.8,
        measured=False,
    )


@pytest.mark.parametrize(
    ("rotation", "translation", "expected"),
    [
        ({}, (1.0, 2.0, 3.0), (1.2, 1.9, 5.0)),
        # A quarter turn about z takes x to y.
        ({"z": HALF, "w": HALF}, (0.0, 0.0, 0.0), (0.1, 0.2, 2.0)),
        # Half a turn about x turns y and z round.
        ({"x": 1.0, "w": 0.0}, (0.0, 0.0, 0.0), (0.2, 0.1, -2.0)),
        (FORWARD, (0.0, 0.0, 1.0), (2.0, -0.2, 1.1)),
        # A quaternion that is not quite of length 1 does not stretch.
        ({"w": 1.1}, (0.0, 0.0, 0.0), (0.2, -0.1, 2.0)),
    ],
)
def test_points_move_as_the_transform_says(rotation, translation, expected):
    (there,) = moved([target(), target(None)], transform(0, rotation, translation))

    assert there.point_m == pytest.approx(expected)
    assert (there.u, there.track_id, there.stamp_ns) == (163.0, 7, NS)


def test_any_rotation_keeps_lengths_and_angles():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4, 3))
    for _ in range(20):
        x, y, z, w = (q := rng.normal(size=4)) / np.linalg.norm(q)
        there = moved(
            [target(tuple(point)) for point in points],
            transform(0, {"x": x, "y": y, "z": z, "w": w}),
        )
        turned = np.array([each.point_m for each in there])
        assert turned @ turned.T == pytest.approx(points @ points.T)
        assert np.linalg.det(turned[:3]) == pytest.approx(np.linalg.det(points[:3]))


def test_a_rotation_that_is_none_is_refused():
    with pytest.raises(TransformError, match="quaternion of squared length 0, expected 1"):
        moved([target()], transform(0, {"w": 0.0}))


class Table:
    """Transforms by stamp; others are not known."""

    def __init__(self, *transforms):
        self.known = {images.stamp_ns_of(entry): entry for entry in transforms}
        self.is_open = True
        self.was_asked = threading.Event()

    def at(self, target_frame, source_frame, stamp_ns):
        entry = self.known.get(stamp_ns)
        self.was_asked.set()
        if entry is None or (entry.header.frame_id, entry.child_frame_id) != (
            target_frame,
            source_frame,
        ):
            raise TransformError(f"no transform at {stamp_ns}; publish it on /tf")
        return entry

    def close(self):
        self.is_open = False


class Silent:
    def error(self, text):
        pass


class Given:
    """What was published, in order."""

    def __init__(self):
        self._news = threading.Condition()
        self.messages = []

    def __call__(self, targets, stamp_ns, frame_id):
        with self._news:
            places = [None if t.point_m is None else tuple(t.point_m) for t in targets]
            self.messages.append((stamp_ns, frame_id, places))
            self._news.notify_all()

    def wait_for(self, number):
        with self._news:
            assert self._news.wait_for(lambda: len(self.messages) >= number, 20.0), self.messages
        return self.messages


@pytest.fixture
def problems():
    return ProblemLog(Silent())


@pytest.fixture
def given():
    return Given()


@pytest.fixture
def start(problems, given):
    """Starts a TargetFrame and ends it after the test."""
    started = []

    def make(frame_id, transforms):
        place = TargetFrame(
            frame_id, transforms, publish=given, problems=problems, context=Context()
        )
        place.start()
        started.append(place)
        return place

    yield make
    for place in started:
        place.stop()


@pytest.mark.parametrize("frame_id", ["", "camera"])
def test_the_cameras_own_frame_needs_no_transform_and_no_wait(start, given, frame_id):
    start(frame_id, None).put([target()], NS, "camera")

    assert given.messages == [(NS, "camera", [(0.2, -0.1, 2.0)])]


def test_each_image_is_moved_by_the_transform_of_its_own_stamp(start, given):
    table = Table(transform(NS), transform(2 * NS, None, (1.0, 0.0, 0.0)))
    place = start("base_link", table)

    for stamp_ns in (NS, 2 * NS):
        place.put([target()], stamp_ns, "camera")

    assert given.wait_for(2) == [
        (NS, "base_link", [pytest.approx((0.2, -0.1, 2.0))]),
        (2 * NS, "base_link", [pytest.approx((1.2, -0.1, 2.0))]),
    ]


def test_a_transform_that_comes_late_is_waited_for(start, given, problems):
    table = Table()
    place = start("base_link", table)
    place.put([target()], NS, "camera")
    place.put([target()], 2 * NS, "camera")
    assert table.was_asked.wait(20.0)

    table.known[2 * NS] = transform(2 * NS)
    table.known[NS] = transform(NS)

    assert [stamp_ns for stamp_ns, *_ in given.wait_for(2)] == [NS, 2 * NS]
    assert problems.counts == {}


def test_nothing_is_given_without_a_transform_at_the_stamp(start, given, problems):
    table = Table(transform(NS), transform(3 * NS))
    place = start("base_link", table)

    for stamp_ns in (NS, 2 * NS, 3 * NS):
        place.put([target()], stamp_ns, "camera")

    assert [stamp_ns for stamp_ns, *_ in given.wait_for(2)] == [NS, 3 * NS]
    assert problems.counts == {"TransformError": 1}


def test_the_cause_stands_while_transforms_are_missing_and_goes_with_them(start, given, problems):
    table = Table()
    place = start("base_link", table)
    place.put([target()], NS, "camera")
    end = time.monotonic() + 20.0
    while not problems.recent("target_frame"):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert f"no transform at {NS}; publish it on /tf" in problems.recent("target_frame")

    table.known[2 * NS] = transform(2 * NS)
    place.put([target()], 2 * NS, "camera")

    given.wait_for(1)
    assert problems.recent("target_frame") == ""


def test_images_without_metres_are_given_empty_without_asking(start, given, problems):
    start("base_link", Table()).put([target(None)], NS, "camera")

    assert given.wait_for(1) == [(NS, "base_link", [])]
    assert problems.counts == {}
