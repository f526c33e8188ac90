"""Which frames a clip takes, by hand-worked tables and for any times."""

import threading

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from molmo2_ros.camera.clip import (
    Clip,
    ClipBuffer,
    PushResult,
    Sampling,
    sample_clip,
    stamp_text,
)
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ImageError

PIXEL = np.zeros((1, 1, 3), np.uint8)


def frames_at(*times_s, start_ns=0):
    return [Frame(image=PIXEL, stamp_ns=start_ns + round(time * 1e9)) for time in times_s]


def every(period_s, num, start_ns=0):
    return frames_at(*(period_s * index for index in range(num)), start_ns=start_ns)


def chosen(frames, sampling, **options):
    return [round(time_s, 3) for time_s in sample_clip(frames, sampling, **options).times_s]


def test_clip_tells_its_times():
    clip = Clip(tuple(frames_at(0, 0.5, 1.25, start_ns=10)))

    assert clip.stamps_ns == (10, 500_000_010, 1_250_000_010)
    assert clip.times_s == (0.0, 0.5, 1.25)
    assert len(clip) == len(list(clip)) == 3


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ((), "clip has no frame"),
        ((0, 1, 1), "frame 2 of the clip"),
        ((1, 0), "frame 1 of the clip"),
    ],
)
def test_clip_without_frames_or_order_is_refused(times, words):
    with pytest.raises(ImageError, match=words):
        Clip(tuple(frames_at(*times)))


@pytest.mark.parametrize(
    ("frames", "sampling", "expected"),
    [
        # 30 Hz for 2.1 s at 2 fps: the grid, and the newest
        (every(1 / 30, 64), Sampling(), [0, 0.5, 1, 1.5, 2, 2.1]),
        # the newest falls on the grid
        (every(0.1, 11), Sampling(), [0, 0.5, 1]),
        # as near before as after: the earlier
        (every(0.2, 7), Sampling(), [0, 0.4, 1, 1.2]),
        # a camera slower than the grid
        (every(0.8, 4), Sampling(), [0, 0.8, 1.6, 2.4]),
        # a gap in the stream
        (frames_at(0, 0.1, 3.0, 3.1), Sampling(), [0, 0.1, 3.0, 3.1]),
        (frames_at(0), Sampling(), [0]),
        # above max_frames: even, first and last included
        (every(0.1, 101), Sampling(max_frames=5), [0, 2.5, 5, 7.5, 10]),
        (every(0.1, 101), Sampling(max_frames=2), [0, 10]),
        (every(0.1, 101), Sampling(max_frames=1), [0]),
        # only the newest seconds; times count from the first frame taken
        (every(0.1, 101), Sampling(max_clip_s=1.0), [0, 0.5, 1]),
        # tracking: 8 fps over 1 s
        (
            every(0.025, 41),
            Sampling(fps=8, answer_fps=2),
            [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1],
        ),
        # tracking, too long for 8 fps within 9 frames: 4 fps, a multiple of 2
        (
            every(0.025, 81),
            Sampling(fps=8, answer_fps=2, max_frames=9),
            [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2],
        ),
        # tracking, too long even for the answers' rate: the newest of it
        (
            every(0.1, 101),
            Sampling(fps=8, answer_fps=1, max_frames=4),
            [0, 1, 2, 3],
        ),
    ],
)
def test_frames_are_chosen_by_time(frames, sampling, expected):
    assert chosen(frames, sampling) == expected


def test_the_newest_frame_replaces_one_that_prints_the_same_stamp():
    # at 1.0 s (on the grid) and 1.02 s (newest) both print 1.0
    assert chosen(frames_at(0, 0.5, 1.0, 1.02), Sampling()) == [0, 0.5, 1.02]
    # two frames in all
    assert sample_clip(frames_at(0, 0.04), Sampling()).stamps_ns == (40_000_000,)


def test_a_window_that_slides_chooses_the_same_frames_again():
    frames = every(1 / 15, 300, start_ns=1_764_000_000_123_456_789)
    sampling = Sampling(max_clip_s=4.0)

    seen = set()
    new = []
    for end in range(150, 300, 8):
        clip = sample_clip(frames[:end], sampling, grid_origin_ns=0)
        new.append(len(set(clip.stamps_ns) - seen))
        seen |= set(clip.stamps_ns)

    # Steps of 0.53 s: one frame of the grid now and then two, and the newest. Nothing else.
    assert max(new[1:]) <= 3
    assert sum(new[1:]) <= 2.2 * len(new)


@given(
    gaps=st.one_of(
        st.lists(st.integers(1, 2_000_000_000), min_size=1, max_size=60),
        st.lists(st.integers(10_000_000, 150_000_000), min_size=30, max_size=60),
    ),
    fps=st.sampled_from([1.0, 2.0, 3.0, 8.0, 10.0]),
    max_frames=st.integers(1, 20),
    max_clip_s=st.one_of(st.none(), st.floats(0.01, 30)),
    answer_fps=st.sampled_from([None, 1.0]),
    origin_ns=st.one_of(st.none(), st.integers(-(10**18), 2 * 10**18)),
)
def test_every_clip_ends_with_the_newest_frame_and_prints_every_stamp_once(
    gaps, fps, max_frames, max_clip_s, answer_fps, origin_ns
):
    stamps = (1_700_000_000_000_000_000 + np.cumsum(gaps)).tolist()
    frames = [Frame(image=PIXEL, stamp_ns=stamp) for stamp in stamps]
    sampling = Sampling(
        fps=fps, max_frames=max_frames, max_clip_s=max_clip_s, answer_fps=answer_fps
    )
    origin = stamps[-1] - 10**9 if origin_ns is None else origin_ns
    for options in ({}, {"grid_origin_ns": origin}):
        clip = sample_clip(frames, sampling, **options)

        assert clip.frames[-1] is frames[-1]
        assert len(clip) <= max_frames
        printed = [stamp_text(time_s) for time_s in clip.times_s]
        assert len(set(printed)) == len(printed)
        if max_clip_s is not None:
            assert clip.times_s[-1] <= max_clip_s + 1e-6


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fps": 0}, "sampling at 0 fps"),
        ({"fps": 15}, "sampling at 15 fps, expected above 0 and at most 10"),
        ({"fps": float("nan")}, "sampling at nan fps"),
        ({"max_frames": 0}, "max_frames is 0"),
        ({"max_clip_s": 0}, "max_clip_s is 0"),
        ({"max_clip_s": float("nan")}, "max_clip_s is nan"),
        ({"fps": 1, "answer_fps": 2}, "answers at 2 fps from frames at 1 fps"),
        ({"answer_fps": 0}, "answers at 0 fps"),
    ],
)
def test_sampling_out_of_range_is_refused(values, words):
    with pytest.raises(ImageError, match=words):
        Sampling(**values)


def test_nothing_to_sample_is_refused():
    with pytest.raises(ImageError, match="no frame to choose from"):
        ClipBuffer(1.0, 10).sample(Sampling())


def test_buffer_drops_the_oldest_beyond_its_duration_and_number():
    buffer = ClipBuffer(duration_s=1.0, max_frames=100)
    for frame in every(0.1, 21):
        assert buffer.push(frame) is PushResult.ADDED
    assert [frame.stamp_ns for frame in buffer.frames()][::10] == [1_000_000_000, 2_000_000_000]

    few = ClipBuffer(duration_s=100.0, max_frames=3)
    for frame in every(0.1, 9):
        few.push(frame)
    assert [frame.stamp_ns for frame in few.frames()] == [600_000_000, 700_000_000, 800_000_000]


def test_buffer_leaves_a_repeated_stamp_out_and_starts_anew_when_time_runs_backwards(caplog):
    buffer = ClipBuffer(duration_s=10.0, max_frames=100)
    first, second = frames_at(5.0, 5.1)
    buffer.push(first)
    buffer.push(second)

    assert buffer.push(frames_at(5.1)[0]) is PushResult.REPEATED
    assert buffer.newest is second
    with caplog.at_level("INFO"):
        assert buffer.push(frames_at(0.0)[0]) is PushResult.RESET
    assert "ran backwards by 5.100 s" in caplog.text
    assert [frame.stamp_ns for frame in buffer.frames()] == [0]


def test_empty_buffer_has_no_newest_frame():
    buffer = ClipBuffer(duration_s=1.0, max_frames=10)
    assert buffer.newest is None
    buffer.push(frames_at(1.0)[0])
    assert len(buffer) == 1
    buffer.clear()
    assert buffer.newest is None


@given(
    seed=st.integers(0, 2**32 - 1),
    slowest_ns=st.integers(6_000_000, 125_000_000),  # a frame for each point of the 8 fps grid
    start_ns=st.integers(0, 2 * 10**18),
    fps=st.sampled_from([1.0, 2.0, 4.0, 8.0]),
)
def test_thinned_buffer_samples_the_same_frames_as_a_full_one(seed, slowest_ns, start_ns, fps):
    gaps = np.random.default_rng(seed).integers(5_000_000, slowest_ns, 100)
    thin = ClipBuffer(duration_s=4.0, max_frames=10_000, keep_fps=8.0)
    full = ClipBuffer(duration_s=4.0, max_frames=10_000)
    for stamp in (start_ns + np.cumsum(gaps)).tolist():
        frame = Frame(image=PIXEL, stamp_ns=stamp)
        thin.push(frame)
        full.push(frame)

    # At the window's edges alone they may differ: what lay before decides on a point's nearest
    # frame there, and the first frame's time on which of the newest ones print the same stamp.
    sampling = Sampling(fps=fps, max_clip_s=3.5)
    ours, theirs = thin.sample(sampling).stamps_ns, full.sample(sampling).stamps_ns
    # At 8 fps chosen frames lie so close that two can print the same stamp, counted from the first.
    assume(fps < 8.0 or ours[0] == theirs[0])
    oldest_ns = max(theirs[-1] - 3_300_000_000, full.frames()[0].stamp_ns + 125_000_000)
    inside = range(oldest_ns, theirs[-1] - 125_000_000)
    assert [t for t in ours if t in inside] == [t for t in theirs if t in inside]
    assert ours[-1] == theirs[-1]
    assert len(thin) <= 4 * 8 + 3


def foreseen(frames, sampling, num_frames, period_s=0.1, duration_s=5.0):
    buffer = ClipBuffer(duration_s, 1000)
    for frame in frames:
        buffer.push(frame)
    return [round(f.stamp_ns / 1e9, 3) for f in buffer.foresee(sampling, num_frames, period_s)]


@pytest.mark.parametrize(
    ("num", "sampling", "num_frames", "expected"),
    [
        # no further frame: the present clip
        (14, Sampling(), 0, [0, 0.5, 1, 1.3]),
        # 1.3 will not be the newest, and is not on the grid
        (14, Sampling(), 1, [0, 0.5, 1]),
        # 1.5 is on the grid for good
        (16, Sampling(), 3, [0, 0.5, 1, 1.5]),
        # what is about the newest frame alone reads none of today's later on
        (16, Sampling(max_frames=1), 0, [1.5]),
        (16, Sampling(max_frames=1), 1, []),
        # the window moves on: at 2.5 s it begins with 1.5
        (16, Sampling(max_clip_s=1.0), 10, [1.5]),
        (16, Sampling(max_clip_s=1.0), 11, []),
        # the buffer holds five seconds, whatever the clip
        (16, Sampling(), 50, [1.5]),
        (16, Sampling(), 51, []),
        # a track that becomes too long for 4 fps in 6 frames is read at 2
        (10, Sampling(fps=4, answer_fps=2, max_frames=6), 1, [0, 0.2, 0.5, 0.7]),
        (10, Sampling(fps=4, answer_fps=2, max_frames=6), 7, [0, 0.5]),
        (0, Sampling(), 0, []),
    ],
)
def test_frames_that_a_later_clip_reads_are_foreseen(num, sampling, num_frames, expected):
    assert foreseen(every(0.1, num), sampling, num_frames) == expected


def test_stamps_a_nanosecond_apart_are_not_foreseen_by_the_million():
    assert foreseen(every(0.1, 16), Sampling(), 1_000_000_000, period_s=1e-9) == []


@given(
    period_ns=st.integers(20_000_000, 400_000_000),
    start_ns=st.integers(0, 2 * 10**18),
    num_before=st.integers(1, 120),
    num_after=st.integers(0, 120),
    fps=st.sampled_from([1.0, 2.0, 4.0, 8.0]),
    max_frames=st.sampled_from([1, 8, 384]),
    answer_fps=st.sampled_from([None, 1.0]),
)
def test_of_a_steady_camera_exactly_the_frames_that_are_read_later_are_foreseen(
    period_ns, start_ns, num_before, num_after, fps, max_frames, answer_fps
):
    sampling = Sampling(fps=fps, max_frames=max_frames, max_clip_s=3.4, answer_fps=answer_fps)
    buffer = ClipBuffer(5.0, 10_000)
    frames = [
        Frame(image=PIXEL, stamp_ns=start_ns + index * period_ns)
        for index in range(num_before + num_after)
    ]
    for frame in frames[:num_before]:
        buffer.push(frame)
    expected = buffer.foresee(sampling, num_after, period_ns / 1e9)
    for frame in frames[num_before:]:
        buffer.push(frame)
    read = buffer.sample(sampling).frames
    assert list(expected) == [frame for frame in read if frame in frames[:num_before]]


@pytest.mark.parametrize("values", [(0, 10, None), (1, 0, None), (1, 10, 0), (float("nan"), 1, 1)])
def test_buffer_of_no_size_is_refused(values):
    with pytest.raises(ImageError, match="expected values above 0"):
        ClipBuffer(*values)


def test_one_thread_pushes_while_another_samples():
    buffer = ClipBuffer(duration_s=2.0, max_frames=50)
    buffer.push(frames_at(0)[0])
    done = threading.Event()
    failures = []

    def sample():
        while not done.is_set():
            try:
                buffer.sample(Sampling())
            except Exception as error:
                failures.append(error)
                return

    worker = threading.Thread(target=sample)
    worker.start()
    for frame in every(0.01, 2000)[1:]:
        buffer.push(frame)
    done.set()
    worker.join()

    assert failures == []
