"""Targets as markers and as a point; as detections they are in test/nodes/test_detections.py."""

import dataclasses

import pytest
from visualization_msgs.msg import ImageMarker, Marker

from molmo2_ros.overlay import track_colour
from molmo2_ros.ros import markers
from molmo2_ros.tracking.target import Target

STAMP_NS = 5_000_000_000


def target(**changes):
    known = Target(
        query_id=2,
        query_name="red_mug",
        label="red mug",
        track_id=7,
        stamp_ns=STAMP_NS,
        u=163.25,
        v=96.5,
        point_m=(0.02, -0.05, 0.71),
        age_s=0.25,
        quality=0.9,
        confidence=0.75,
        measured=True,
    )
    return dataclasses.replace(known, **changes)


def test_image_marker_has_a_dot_a_target_in_the_colour_of_the_overlay():
    marker = markers.image_marker([target(), target(track_id=8, u=5.0)], STAMP_NS, "camera")

    assert (marker.type, marker.action) == (ImageMarker.POINTS, ImageMarker.ADD)
    assert [(p.x, p.y) for p in marker.points] == [(163.25, 96.5), (5.0, 96.5)]
    colour = marker.outline_colors[0]
    expected = [c / 255 for c in track_colour(7)]
    assert [colour.r, colour.g, colour.b] == pytest.approx(expected, abs=1e-6)
    assert markers.image_marker([], STAMP_NS, "camera").action == ImageMarker.REMOVE


def test_marker_array_begins_anew_and_shows_only_what_has_metres():
    array = markers.marker_array([target(), target(point_m=None)], STAMP_NS, "camera").markers

    assert [m.action for m in array] == [Marker.DELETEALL, Marker.ADD, Marker.ADD]
    assert {m.header.frame_id for m in array} == {"camera"}
    ball, name = array[1:]
    assert (ball.pose.position.x, ball.pose.position.z) == (0.02, 0.71)
    assert name.text == "red mug 7"
    # y points down: the name stands above the ball.
    assert name.pose.position.y < ball.pose.position.y
    assert ball.ns != name.ns


def test_the_best_target_is_the_surest_in_metres_of_the_first_query():
    others = [
        target(query_id=1, point_m=None, confidence=1.0),
        target(query_id=2, track_id=1, confidence=0.9, quality=0.5),
        target(query_id=2, track_id=2, confidence=0.6, quality=0.9),
        target(query_id=3, confidence=1.0, quality=1.0),
    ]

    assert markers.best_target(others).track_id == 2
    assert markers.best_target(others[:1]) is None
    unsure = [target(track_id=1, confidence=float("nan")), target(track_id=2, confidence=0.1)]
    assert markers.best_target(unsure).track_id == 2


def test_the_target_message_speaks_in_the_cameras_frame():
    message = markers.target_message(target(), STAMP_NS, "camera")

    assert (message.header.frame_id, message.header.stamp.sec) == ("camera", 5)
    assert (message.point.x, message.point.y, message.point.z) == (0.02, -0.05, 0.71)
