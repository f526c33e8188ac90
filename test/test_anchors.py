"""A track from a point on one frame goes on while the clip slides past that frame."""

import numpy as np
import pytest

from molmo2_ros.anchors import MAX_PLACES, Anchors, places_of
from molmo2_ros.camera.clip import Clip
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import QueryError
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.tracking.target import Target

NS = 1_000_000_000
TEXTURE = np.random.default_rng(0).integers(0, 255, (120, 240), np.uint8).repeat(2, 0).repeat(2, 1)


def frame(time_s):
    """A picture that moves to the left by four pixels a second."""
    left = round(4 * time_s)
    window = TEXTURE[:, left : left + 320]
    return Frame(image=np.stack([window] * 3, axis=2).copy(), stamp_ns=round(time_s * NS))


def clip(first_s, last_s, fps=8):
    count = round((last_s - first_s) * fps) + 1
    return Clip(tuple(frame(first_s + index / fps) for index in range(count)))


def clicked(time_s, x=0.5, y=0.5):
    seconds, rest = divmod(round(time_s * NS), NS)
    return parse_query(f"here=track[from {x} {y} on {seconds}.{rest:09d}]: mug")


def start_of(anchors, query, shown):
    seed = anchors.asked(query, 7, shown).seed
    assert seed.stamp_ns is None
    return round(seed.time_s, 3), round(seed.x, 3), round(seed.y, 3)


def test_the_point_itself_is_given_while_its_frame_is_in_the_clip():
    anchors = Anchors()
    assert start_of(anchors, clicked(2.0), clip(0, 4)) == (2.0, 0.5, 0.5)
    # Between two frames of the clip: the nearer one.
    assert start_of(anchors, clicked(2.05), clip(0, 4))[0] == 2.0
    assert start_of(anchors, clicked(2.10), clip(0, 4))[0] == 2.125


def test_an_answer_needs_frames_after_the_point():
    assert start_of(Anchors(), clicked(4.0), clip(0, 4))[0] == 3.875
    assert start_of(Anchors(), clicked(4.5), clip(0, 4))[0] == 3.875
    assert start_of(Anchors(), clicked(0.0), clip(0, 0))[0] == 0.0


def test_afterwards_the_oldest_answered_point_in_the_clip_is_given():
    anchors = Anchors()
    anchors.learn(7, [(3 * NS, 0.3, 0.3), (NS, 0.1, 0.1), (5 * NS, 0.5, 0.6)])
    assert start_of(anchors, clicked(0.5, 0.9), clip(0, 4)) == (0.5, 0.9, 0.5)
    assert start_of(anchors, clicked(0.5, 0.9), clip(1, 5)) == (0.0, 0.1, 0.1)
    assert start_of(anchors, clicked(0.5, 0.9), clip(2, 6)) == (1.0, 0.3, 0.3)


def test_flow_carries_the_point_on_where_the_model_answers_nothing():
    anchors = Anchors()
    query = clicked(0.5, 0.5)
    assert start_of(anchors, query, clip(0, 4)) == (0.5, 0.5, 0.5)
    time_s, x, y = start_of(anchors, query, clip(1, 5))
    # 3.5 s at four pixels a second are 14 of 320.
    assert (time_s, y) == (3.0, pytest.approx(0.5, abs=0.005))
    assert x == pytest.approx(0.5 - 14 / 320, abs=0.005)


def test_what_was_not_seen_for_a_whole_clip_is_lost():
    with pytest.raises(QueryError, match="no point left to track it from; point at it again"):
        Anchors().asked(clicked(0.5), 7, clip(1, 5))


def test_a_frame_just_before_the_clip_is_as_good_as_its_first():
    assert start_of(Anchors(), clicked(0.9), clip(1, 5)) == (0.0, 0.5, 0.5)


def test_other_queries_stay_as_they_are():
    anchors = Anchors()
    for text in ("track: mug", "track[from 0.2 0.3 at 1.5]: mug", "point: mug"):
        assert anchors.asked(parse_query(text), 1, clip(0, 1)) == parse_query(text)


def test_places_are_those_of_one_thing_and_few():
    rows = [
        Target(
            query_id=7, query_name="here", label="mug", track_id=track, stamp_ns=stamp, u=u, v=59.5,
            point_m=None, age_s=0.0, quality=1.0, confidence=1.0, measured=True,
        )
        for track, stamp, u in ((2, 1, 31.5), (1, 1, 159.5), (1, 2, 400.0), (1, 3, 79.5))
    ]  # fmt: skip
    assert list(places_of(rows, 320, 120)) == [(1, 0.5, 0.5), (3, 0.25, 0.5)]
    assert list(places_of([], 320, 120)) == []
    anchors = Anchors()
    anchors.learn(7, [(number, 0.1, 0.1) for number in range(10 * MAX_PLACES)])
    anchors.learn(8, [(1, 0.1, 0.1)])
    assert len(anchors._places[7]) == MAX_PLACES
    anchors.keep({8})
    assert set(anchors._places) == {8}
