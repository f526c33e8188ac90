"""Corrections as points and as JSON: read, and refused."""

import json

import pytest
from geometry_msgs.msg import PointStamped
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.camera.stamp import stamp_json
from molmo2_ros.corrections import (
    PictureName,
    Review,
    correction_from_json,
    keep_json,
    review_from_json,
)
from molmo2_ros.errors import DataError, QueryError
from molmo2_ros.ros import images
from molmo2_ros.ros.correction_messages import correction_from_point
from molmo2_ros.training.logs.spoken import standing
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
        "[" * 100_000, '{"query": "mug", "u": %s, "v": 2}' % ("9" * 400),
        '{"query": "\\ud800", "visible": false}',
        '{"query": "mug", "visible": "no"}', '{"query": "mug", "u": 1, "v": 2, "stamp": 3}',
    ],
)  # fmt: skip
def test_text_that_is_no_correction_is_refused_with_an_example(text):
    with pytest.raises(DataError, match=r'cannot be read .* expected \{"query": "red mug"'):
        correction_from_json(text)


def review(**changed):
    about = {"id": "web-1", "query": "mugs", "stamp_ns": STAMP_NS, "frame_id": "camera",
             "points_px": ((1.0, 2.0), (3.0, 4.0)), "source": "web"}  # fmt: skip
    return Review(**{**about, **changed})


def test_a_review_is_read_as_it_was_written():
    for written in (review(), review(points_px=()), review(points_px=(), retracted=True)):
        assert review_from_json(written.as_json()) == written
    picture = PictureName(stamp_ns=STAMP_NS, frame_id="camera")
    assert review_from_json(keep_json(picture)) == picture


def test_a_review_voids_what_was_said_and_names_every_place():
    void, *places = review().corrections()
    assert (void.visible, void.retracted) == (False, False)
    assert [(place.u, place.v, place.visible) for place in places] == [(1, 2, True), (3, 4, True)]
    assert {(c.source, c.review_id) for c in (void, *places)} == {("web", "web-1")}
    read = read_correction(places[0].as_json(), "a message")
    assert (read.words, read.u, read.v, read.retracted) == ("mugs", 1.0, 2.0, False)


def test_what_was_taken_back_is_no_label_not_even_that_nothing_is_there():
    said = [
        *review().corrections(),
        *review(query="dog", points_px=()).corrections(),
        *review(id="web-2", points_px=(), retracted=True).corrections(),
    ]
    left = standing(read_correction(one.as_json(), "a message") for one in said)
    assert [(one.words, one.u) for one in left] == [("dog", None)]


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"query": " "}, QueryError, "without words"),
        ({"points_px": ((-1.0, 2.0),)}, DataError, "at -1, 2, expected pixels"),
        ({"points_px": ((1.0, 2.0),) * 201}, DataError, "has 201 points, expected at most 200"),
        ({"retracted": True}, DataError, "none where it takes back"),
    ],
)
def test_reviews_that_are_none_are_refused(changed, error, words):
    with pytest.raises(error, match=words):
        review(**changed)


HALF_A_PAIR = (
    '{"id": "1", "query": "\\udc00", "stamp": {"sec": 1, "nanosec": 0}, "frame_id": "camera", '
    '"source": "web", "points": [{"u": 1, "v": 2}]}'
)


@given(
    st.text()
    | st.sampled_from(
        ['{"keep": {}}', "[" * 100_000, HALF_A_PAIR, '{"points": [{}]}', '{"points": 3}', "[1]"]
    )
)
def test_any_text_is_a_review_or_refused(text):
    with pytest.raises((DataError, QueryError), match="cannot be read|without words"):
        review_from_json(text)
