"""Corrections as points and as JSON: read, and refused."""

import json

import pytest
from geometry_msgs.msg import PointStamped

from molmo2_ros.camera.stamp import stamp_json
from molmo2_ros.corrections import correction_from_json
from molmo2_ros.errors import DataError, QueryError
from molmo2_ros.ros import images
from molmo2_ros.ros.correction_messages import correction_from_point
from molmo2_ros.training.logs.topics import read_correction

STAMP_NS = 1_700_000_000_250_000_000


def point(x, y, z=0.0, frame_id="camera"):
    message = PointStamped(header=images.header(STAMP_NS, frame_id))
    message.point.x, message.point.y, message.point.z = float(x), float(y), float(z)
    return message


def test_what_the_recorder_writes_is_what_training_reads():
    there = correction_from_point(point(12.5, 34), "  red   mug ")
    gone = correction_from_point(point(0, 0, -1), "dog")

    read = read_correction(there.as_json(), "a message")
    assert (read.words, read.stamp_ns, read.frame_id) == ("red mug", STAMP_NS, "camera")
    assert (read.u, read.v) == (12.5, 34.0)
    read = read_correction(gone.as_json(), "a message")
    assert (read.words, read.u, read.v) == ("dog", None, None)


def test_json_says_the_same_as_a_point():
    text = json.dumps({"query": "red mug", "u": 12.5, "v": 34, "frame_id": "camera",
                       "stamp": stamp_json(STAMP_NS)})  # fmt: skip

    assert correction_from_json(text) == correction_from_point(point(12.5, 34), "red mug")
    short = correction_from_json('{"query": "dog", "visible": false}')
    assert (short.stamp_ns, short.frame_id, short.visible) == (0, "", False)


@pytest.mark.parametrize(
    ("message", "query", "error", "words"),
    [
        (point(1, 2), " ", QueryError, "set the recorder's parameter correction_query"),
        (point(1, 2, 0.7), "mug", DataError, "z = 0.7, expected 0 .* or -1"),
        (point(-3, 2), "mug", DataError, "at -3, 2, expected pixels"),
        (point(float("nan"), 2), "mug", DataError, "at nan, 2, expected pixels"),
    ],
)
def test_points_that_are_no_corrections_are_refused(message, query, error, words):
    with pytest.raises(error, match=words):
        correction_from_point(message, query)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '{"query": "mug"}', '{"query": "mug", "u": "left", "v": 2}',
        '{"query": 3, "u": 1, "v": 2}', '{"query": "mug", "u": 1, "v": 2, "z": 0}',
        '{"query": "mug", "visible": "no"}', '{"query": "mug", "u": 1, "v": 2, "stamp": 3}',
    ],
)  # fmt: skip
def test_text_that_is_no_correction_is_refused_with_an_example(text):
    with pytest.raises(DataError, match=r'cannot be read .* expected \{"query": "red mug"'):
        correction_from_json(text)
