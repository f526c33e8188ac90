"""What is remembered of a target, and where it should be after a while out of sight."""

import math

import numpy as np
import pytest

from molmo2_ros.tracking.grey import GreyFrame
from molmo2_ros.tracking.looks import MAX_SIGHTS
from molmo2_ros.tracking.scene import SceneMotion
from molmo2_ros.tracking.track import COAST_S, Track

SECOND = 1_000_000_000
FRAME = SECOND // 30


def looks(level):
    return np.full((25, 3), level, np.float32)


def track_on(path, **facts):
    return Track(query_id=1, track_id=1, path=path, **facts)


def test_the_last_sights_count_and_one_that_is_answered_again_counts_once():
    track = track_on({0: (0.0, 0.0)})
    assert np.isnan(track.colour).all()
    for _ in range(9):  # an answer arrives in nine parts
        track.show({0: looks(200.0)})
    for stamp in range(1, 4):
        track.show({stamp: looks(100.0)})
    assert track.colour == pytest.approx([100.0] * 3)
    for stamp in range(4, 4 + MAX_SIGHTS):
        track.show({stamp: looks(50.0)})
    assert list(track.sights) == list(range(4, 4 + MAX_SIGHTS))
    track.show({})
    assert track.colour == pytest.approx([50.0] * 3)


def test_a_lost_target_goes_on_at_its_speed_and_slows_down():
    # 90 px/s to the right, and lost at (30, 0).
    path = {index * FRAME: (3.0 * index, 0.0) for index in range(11)}
    expected = track_on(path).expected(True, SceneMotion())
    assert expected.seen_ns == 10 * FRAME
    assert expected.at(10 * FRAME) == pytest.approx(30)
    soon, later = (expected.at(10 * FRAME + round(s * SECOND)).real - 30 for s in (0.1, 20.0))
    assert soon == pytest.approx(90 * COAST_S * (1 - math.exp(-0.1 / COAST_S)), rel=0.01)
    assert later == pytest.approx(90 * COAST_S, rel=0.01)
    assert expected.away_s(10 * FRAME + SECOND) == 1.0
    assert expected.away_s(0) == 0.0  # an answer about the time before


def test_a_path_of_one_place_tells_no_speed():
    expected = track_on({0: (30.0, 40.0)}).expected(True, SceneMotion())
    assert expected.at(SECOND) == pytest.approx(30 + 40j)


def test_a_carried_target_is_sought_where_it_was_confirmed():
    path = {index * FRAME: (3.0 * index, 0.0) for index in range(11)}
    track = track_on(path, confirmed_ns=2 * FRAME)
    assert track.expected(False, SceneMotion()).at(9 * FRAME) == pytest.approx(6.0)


def test_what_stands_still_goes_along_with_the_picture(make_stream, pan):
    stream = make_stream(pan(vx=-120, vy=40))
    frames = [GreyFrame.of(stream.frame(index)) for index in range(31)]
    scene = SceneMotion()
    scene.follow(frames, frames[-1].stamp_ns)
    # It was seen for the first ten frames, a second before the last.
    path = {
        frame.stamp_ns: tuple(stream.moved((300, 240), 0, frame.stamp_ns / SECOND)[0])
        for frame in frames[:10]
    }
    expected = track_on(path).expected(True, scene)
    (u, v) = stream.moved((300, 240), 0, frames[-1].stamp_ns / SECOND)[0]
    assert expected.at(frames[-1].stamp_ns) == pytest.approx(complex(u, v), abs=2.0)


def test_an_old_path_is_forgotten():
    track = track_on({0: (0.0, 0.0), 5: (1.0, 0.0), 9: (2.0, 0.0)})
    track.forget_before(5)
    assert track.path == {5: (1.0, 0.0), 9: (2.0, 0.0)}
    assert track.last_ns == 9
