"""Which frames of a video are read, against transformers' video processor and the released rule.

The processor in transformers lays its frames over the video without ever taking the last one. The
released models were trained with the last frame added. So ours are compared with what it takes of
the rest of the video.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Molmo2VideoProcessor
from transformers.video_utils import VideoMetadata

from molmo2_ros.camera.clip import Sampling, choose_stamps, stamp_text

RELEASED = Sampling(fps=2.0, max_frames=384)


@pytest.fixture(scope="module")
def processor():
    return Molmo2VideoProcessor(max_fps=2, num_frames=384)


def ours(num_frames, fps, sampling=RELEASED):
    return choose_stamps([round(index * 1e9 / fps) for index in range(num_frames)], sampling)


def theirs(processor, num_frames, fps, most):
    video = VideoMetadata(total_num_frames=num_frames, fps=fps)
    return processor.sample_frames(video, num_frames=most).tolist()


@given(frames_a_half=st.integers(2, 30), halves=st.integers(1, 383))
def test_two_frames_a_second_are_theirs_and_the_last(processor, frames_a_half, halves):
    num_frames, fps = frames_a_half * halves, 2.0 * frames_a_half
    grid = theirs(processor, num_frames, fps, most=384)

    assert len(grid) == halves
    assert ours(num_frames, fps) == [*grid, num_frames - 1]


@settings(max_examples=40)
@given(fps=st.integers(4, 60), seconds=st.floats(193, 1200))
def test_above_384_frames_they_lie_evenly_from_the_first_to_the_last(processor, fps, seconds):
    num_frames = int(seconds * fps)
    chosen = ours(num_frames, fps)
    # All but the last: even steps over the frames before it. They round down, we to the nearest.
    even = theirs(processor, num_frames - 1, fps, most=383)[:383]

    assert len(chosen) == 384
    assert (chosen[0], chosen[-1]) == (0, num_frames - 1)
    assert set(np.subtract(chosen[:-1], even)) <= {0, 1}


@given(fps=st.floats(4, 60), seconds=st.floats(0.1, 400))
def test_any_video_is_read_by_the_released_rule(fps, seconds):
    """2 a second and the last, or as many as the model reads from the first to the last."""
    last = max(1, int(seconds * fps))
    last_s = last / fps
    times_s = np.array(ours(last + 1, fps)) / fps
    grid_s = [*np.arange(0, last_s, 0.5), last_s]
    if len(grid_s) > 384:
        grid_s = np.linspace(0, last_s, 384)
    elif stamp_text(times_s[-1]) == stamp_text(grid_s[-2]):
        grid_s.pop(-2)  # prints the last one's stamp
    half_a_frame_s = 0.5 / fps + 2e-9

    assert len(times_s) == len(grid_s)
    assert times_s[-1] == pytest.approx(last_s)
    assert np.abs(times_s[:-1] - grid_s[:-1]).max(initial=0) <= half_a_frame_s


@settings(max_examples=40)
@given(fps=st.integers(16, 60), seconds=st.floats(2, 190), answer_fps=st.sampled_from([1.0, 2.0]))
def test_tracks_are_read_as_densely_as_fits(fps, seconds, answer_fps):
    sampling = Sampling(fps=10.0, max_frames=384, answer_fps=answer_fps)
    last_s = int(seconds * fps) / fps
    times_s = np.array(ours(int(seconds * fps) + 1, fps, sampling)) / fps
    # The densest multiple of the answers' rate whose grid, with the last frame, is not too long.
    rates = answer_fps * np.arange(round(10 / answer_fps), 0, -1)
    rate = next(rate for rate in rates if math.ceil(round(last_s * rate, 6)) + 1 <= 384)

    assert times_s[0] == 0
    assert times_s[-1] == pytest.approx(last_s)
    assert np.diff(times_s[:-1]).max(initial=0) <= 1 / rate + 1 / fps
    assert np.diff(times_s[:-1]).min(initial=1) >= 1 / rate - 1 / fps - 1e-9
