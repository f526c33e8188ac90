"""Points gathered into objects on real frames, and which of them are still there."""

from dataclasses import replace

import numpy as np
import pytest

from molmo2_ros.answers.answer import read_answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import Query, QueryKind
from molmo2_ros.tracking.answered import answered_objects, present_objects

SECOND = 1_000_000_000
TRACK = Query(name="q", kind=QueryKind.TRACK, words="the mug")


def read(text, *times_s, query=TRACK, **options):
    frames = [
        Frame(image=np.zeros((48, 64, 3), np.uint8), stamp_ns=9 * SECOND + round(t * SECOND))
        for t in times_s
    ]
    return read_answer(query, text, frames, **options)


def present_ids(answer):
    return [
        entry.object_id for entry in present_objects(answer, answered_objects(answer, 640, 480))
    ]


def test_points_of_an_id_become_a_path_in_pixels():
    text = '<tracks coords="0.0 1 100 200;0.5 1 110 200 2 1000 1000">mug</tracks>'
    # The camera's frames are not exactly on the half second.
    first, second = answered_objects(read(text, 0, 0.47), 640, 480)
    assert first.path == {
        9 * SECOND: pytest.approx((64, 96)),
        round(9.47 * SECOND): pytest.approx((70.4, 96)),
    }
    assert first.points[9 * SECOND].x == 0.1
    # The right lower corner is the last pixel, not one beyond.
    assert second.path == {round(9.47 * SECOND): (639, 479)}
    assert second.last_ns == round(9.47 * SECOND)


def test_two_stamps_on_one_frame_keep_the_first():
    answer = read('<tracks coords="0.4 1 100 200;0.5 1 300 200">mug</tracks>', 0, 0.45)
    (entry,) = answered_objects(answer, 640, 480)
    assert list(entry.path.values()) == [pytest.approx((64, 96))]


def test_an_id_without_a_point_at_the_end_is_not_present():
    text = '<tracks coords="0.0 1 100 200 2 300 300;0.5 2 310 300">mug</tracks>'
    answer = read(text, 0, 0.5)
    assert present_ids(answer) == [2]
    for unfinished in ({"partial": True}, {"truncated": True}):
        assert present_ids(replace(answer, **unfinished)) == [1, 2]


def test_none_is_present_when_the_answer_ends_before_the_clip():
    text = '<tracks coords="0.0 1 100 200;0.5 1 110 200">mug</tracks>'
    assert present_ids(read(text, 0, 0.5, 1.0, 1.5)) == []
    # The newest frame lies between two points of the answer's grid: none was due for it.
    assert present_ids(read(text, 0, 0.5, 0.8)) == [1]
    slow = replace(TRACK, answer_fps=1.0)
    assert present_ids(read(text, 0, 0.5, 1.0, 1.4, query=slow)) == [1]


def test_points_are_present_on_whichever_frame_they_were_written():
    query = Query(name="q", kind=QueryKind.POINT, words="mugs")
    text = '<points coords="0.0 1 100 200;1.0 2 110 200">mugs</points>'
    assert present_ids(read(text, 0, 0.5, 1.0, 1.5, query=query)) == [1, 2]


def test_points_on_images_stand_on_their_image():
    query = Query(name="q", kind=QueryKind.POINT, words="mugs")
    answer = read('<points coords="2 1 100 200">mugs</points>', 0, 5, query=query, are_images=True)
    assert answered_objects(answer, 640, 480)[0].last_ns == 14 * SECOND
