"""Frames with targets drawn on them, of a size that is wanted, in memory that is used again."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.camera.frame import Frame
from molmo2_ros.ros import images
from molmo2_ros.ros.overlay_topic import OverlayTopic
from molmo2_ros.ros.parameters import GroundingParameters
from molmo2_ros.tracking.target import Target

NOW_NS = 5_000_000_000_000


class Publisher:
    """Keeps what a topic would have carried."""

    def __init__(self):
        self.pictures = []

    def publish(self, message):
        self.pictures.append(images.rgb_of_compressed(message).astype(int))


@pytest.fixture
def topic():
    clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=NOW_NS))
    return OverlayTopic(lambda: clock.now().nanoseconds, Publisher())


def frame_of(width, height, stamp_ns=0, turns=0):
    image = np.full((height, width, 3), 90, np.uint8)
    image[height // 2 :, width // 2 :] = (200, 20, 20)
    return Frame(image=image, stamp_ns=stamp_ns, turns=turns)


def target_at(u, v):
    return Target(
        query_id=1,
        query_name="mug",
        label="mug",
        track_id=1,
        stamp_ns=0,
        u=u,
        v=v,
        point_m=None,
        age_s=0.0,
        quality=1.0,
        confidence=0.9,
        measured=True,
    )


def shown(topic, frame, targets=(), captions=(), **settings):
    """What is published of a frame."""
    topic.publish(frame, targets, captions, GroundingParameters(**settings))
    return topic._publisher.pictures[-1]


@pytest.mark.parametrize(
    ("size", "wanted", "expected"),
    [
        ((320, 240), 640, (640, 480)),
        ((640, 480), 640, (640, 480)),
        ((1280, 720), 640, (640, 360)),
        ((1920, 1080), 640, (640, 360)),
        ((1000, 600), 640, (1000, 600)),
        ((1280, 720), 1280, (1280, 720)),
        ((1280, 720), 0, (1280, 720)),
        ((100, 80), 640, (700, 560)),
    ],
)
def test_the_size_comes_nearest_to_the_wanted_one_by_a_whole_factor(topic, size, wanted, expected):
    picture = shown(topic, frame_of(*size), overlay_width=wanted)
    assert picture.shape[1::-1] == expected


@given(st.sampled_from([(320, 240), (640, 480), (1280, 720)]), st.integers(0, 3), st.data())
def test_a_target_is_drawn_where_the_upright_picture_shows_it(size, turns, data):
    clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0))
    topic = OverlayTopic(lambda: clock.now().nanoseconds, Publisher())
    width, height = size
    u = data.draw(st.integers(width // 4, 3 * width // 4))
    v = data.draw(st.integers(height // 4, 3 * height // 4))
    frame = frame_of(width, height, stamp_ns=1, turns=turns)
    without, drawn = shown(topic, frame), shown(topic, frame, [target_at(u, v)])
    x, y = frame.to_upright((u + 0.5) / width, (v + 0.5) / height)
    column, row = round(x * drawn.shape[1] - 0.5), round(y * drawn.shape[0] - 0.5)
    assert np.abs(drawn - without)[row, column].sum() > 100
    far = np.abs(drawn - without)[row, (column + drawn.shape[1] // 2) % drawn.shape[1]]
    assert far.sum() < 100


def test_pictures_that_were_published_before_are_not_drawn_on_again(topic):
    first = shown(topic, frame_of(640, 480, stamp_ns=1), [target_at(100, 100)])
    kept = first.copy()
    second = shown(topic, frame_of(640, 480, stamp_ns=2), [target_at(400, 300)])
    np.testing.assert_array_equal(first, kept)
    assert np.abs(second - first)[100, 100].sum() > 100


def test_the_time_since_the_camera_saw_it_is_told_where_the_clock_is_ours(topic):
    nothing = shown(topic, frame_of(640, 480, stamp_ns=NOW_NS + 1))  # of another clock
    recent = shown(topic, frame_of(640, 480, stamp_ns=NOW_NS - 23_000_000))
    assert np.abs(recent - nothing)[440:, :200].sum() > 1000
    assert np.abs(recent - nothing)[:440].sum() == 0
    old = shown(topic, frame_of(640, 480, stamp_ns=NOW_NS - 3_600_000_000_000))
    assert np.abs(old - nothing).sum() == 0
