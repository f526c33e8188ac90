"""A camera on its side: the model sees the picture upright, points stay in the camera's pixels."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.asking import text_about
from molmo2_ros.camera.clip import Clip
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ImageError
from molmo2_ros.grounder import Grounder
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.simulation.source import TableSource

QUESTIONS = ("point: the red mug", "count: mugs", "track: the lemon")


@pytest.fixture(scope="module")
def engine():
    return load_engine(threads=1)


@pytest.fixture(scope="module")
def upright_frames():
    source = TableSource(seed=0, width=320, height=240, rate_hz=2.0)
    return [source.read() for _ in range(6)]


def on_its_side(frame, turns):
    """The frame as a camera gives it that must be turned clockwise so often to be upright."""
    return replace(frame, image=np.rot90(frame.image, turns).copy(), depth_m=None, turns=turns)


@given(st.integers(0, 3), st.integers(2, 9), st.integers(2, 9), st.data())
def test_places_of_the_upright_picture_are_those_of_the_image(turns, width, height, data):
    image = np.arange(width * height * 3).reshape(height, width, 3).astype(np.uint8)
    frame = Frame(image=image, stamp_ns=0, turns=turns)
    column, row = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    place = (column + 0.5) / width, (row + 0.5) / height
    x, y = frame.to_upright(*place)
    upright = frame.upright
    there = upright[int(y * upright.shape[0]), int(x * upright.shape[1])]
    np.testing.assert_array_equal(there, image[row, column])
    assert frame.from_upright(x, y) == pytest.approx(place)


def test_one_turn_is_clockwise():
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 0] = 255
    assert Frame(image=image, stamp_ns=0, turns=1).upright[0, 1, 0] == 255
    assert Frame(image=image, stamp_ns=0, turns=1).to_upright(0, 0) == (1, 0)


@pytest.mark.parametrize("turns", [-1, 4, 0.5])
def test_turns_that_are_none_are_refused(turns):
    with pytest.raises(ImageError, match="expected 0 to 3 quarter turns clockwise"):
        Frame(image=np.zeros((2, 2, 3), np.uint8), stamp_ns=0, turns=turns)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_camera_on_its_side_is_answered_as_an_upright_one(engine, upright_frames, turns):
    """Token for token, drafts of later clips included, with the points turned back."""
    straight, turned = Grounder(engine), Grounder(engine)
    num_accepted = num_points = 0
    for end in (3, 4, 5, 6):
        clip = Clip(tuple(upright_frames[end - 3 : end]))
        other = Clip(tuple(on_its_side(frame, turns) for frame in clip.frames))
        for question in QUESTIONS:
            query = parse_query(question)
            expected, answer = straight.answer(clip, query), turned.answer(other, query)
            assert answer.text == expected.text
            assert answer.problems == expected.problems
            for point, wanted in zip(answer.points, expected.points, strict=True):
                x, y = other.frames[-1].to_upright(point.x, point.y)
                assert (x, y) == pytest.approx((wanted.x, wanted.y))
            num_points += len(answer.points)
            num_accepted += answer.timing.num_accepted
            # What was carried by flow on the turned picture foresees as much, but for rounding.
            assert abs(answer.timing.num_accepted - expected.timing.num_accepted) <= 24
    assert num_points > 10
    assert num_accepted > 100


def test_a_start_point_of_a_track_turns_with_the_picture():
    frame = Frame(image=np.zeros((4, 6, 3), np.uint8), stamp_ns=0, turns=1)
    query = parse_query("track[from 0.2 0.3]: the lemon")
    assert '"0.0 1 700 200"' in text_about(query, [frame], are_images=False)
    upright = replace(frame, turns=0)
    assert '"0.0 1 200 300"' in text_about(query, [upright], are_images=False)
