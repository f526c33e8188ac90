"""Old points carried to now through the frames between."""

import numpy as np
import pytest

from molmo2_ros.tracking.grey import GreyFrame
from molmo2_ros.tracking.replay import Start, replay

SECOND = 1_000_000_000


def test_points_of_different_frames_arrive_together(make_stream, pan):
    stream = make_stream(pan(vx=120, vy=30))
    frames = [GreyFrame.of(stream.frame(index)) for index in range(9)]
    starts = [
        Start(stamp_ns=frames[5].stamp_ns, u=300.0, v=200.0),
        Start(stamp_ns=frames[0].stamp_ns, u=250.0, v=240.0),
        Start(stamp_ns=frames[8].stamp_ns, u=200.0, v=100.0),
    ]
    order, patches = replay(starts, frames)
    assert sorted(order) == [0, 1, 2]
    now_s = frames[-1].stamp_ns / SECOND
    for index, place in zip(order, patches.points_N2, strict=True):
        start = starts[index]
        (truth,) = stream.moved((start.u, start.v), start.stamp_ns / SECOND, now_s)
        assert np.linalg.norm(place - truth) < 0.5


def test_a_point_whose_frame_is_not_buffered_is_left_out(make_stream, pan):
    stream = make_stream(pan())
    frames = [GreyFrame.of(stream.frame(index)) for index in (10, 11)]
    starts = [
        Start(stamp_ns=0, u=300.0, v=200.0),
        # 30 ms from the first frame: that one stands for it.
        Start(stamp_ns=frames[0].stamp_ns - 30_000_000, u=300.0, v=200.0),
    ]
    order, patches = replay(starts, frames)
    assert order == [1]
    assert patches.points_N2[0] == pytest.approx([300, 200], abs=0.2)


def test_nothing_to_carry_gives_nothing(make_stream, pan):
    frames = [GreyFrame.of(make_stream(pan()).frame(0))]
    for starts, seen in (([], frames), ([Start(stamp_ns=0, u=1.0, v=1.0)], [])):
        order, patches = replay(starts, seen)
        assert order == []
        assert len(patches) == 0
