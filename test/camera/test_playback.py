"""Sources are played at their pace: true stamps, skipped or slowed where a machine is too slow."""

import threading
import time

import numpy as np
import pytest

from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.playback import Playback, camera_from_fov
from molmo2_ros.camera.stamp import NS_PER_S

RATE_HZ = 50.0


class Pictures:
    """A source of grey pictures at 50 Hz; reading one takes `cost_s`."""

    def __init__(self, num_frames=5, cost_s=0.0):
        self.rate_hz = RATE_HZ
        self.was_closed = False
        self._left = list(range(num_frames))
        self._cost_s = cost_s

    def read(self):
        if not self._left:
            return None
        time.sleep(self._cost_s)
        index = self._left.pop(0)
        image = np.full((2, 2, 3), index, np.uint8)
        return Frame(image=image, stamp_ns=round(index * NS_PER_S / self.rate_hz))

    def close(self):
        self.was_closed = True


def player(closing=None, **changes):
    closing = closing or threading.Event()
    arguments = {
        "open_source": Pictures,
        "now_ns": time.time_ns,
        "wait_s": lambda seconds: not closing.wait(seconds),
        "rate_hz": 0.0,
        "is_device": False,
        "can_skip": True,
    }
    return Playback(**{**arguments, **changes})


def played(playback, num_frames, loop=False):
    """Index and stamp of the next frames; none may leave before its time."""
    frames = []
    for _ in range(num_frames):
        frame = playback.next_frame(loop=loop)
        assert time.time_ns() >= frame.stamp_ns
        frames.append((int(frame.image[0, 0, 0]), frame.stamp_ns))
    return frames


def test_frames_keep_the_times_of_the_file_and_end():
    playback = player(can_skip=False, open_source=lambda: Pictures(num_frames=3))

    frames = played(playback, 3)

    assert [index for index, _ in frames] == [0, 1, 2]
    assert playback.next_frame(loop=False) is None


@pytest.mark.parametrize("rate_hz", [0.0, 20.0])
def test_stamps_are_the_start_of_the_pass_plus_the_own_time_or_that_of_the_given_rate(rate_hz):
    playback = player(rate_hz=rate_hz, open_source=lambda: Pictures(num_frames=100))

    frames = played(playback, 4)

    start_ns = frames[0][1]
    for index, stamp_ns in frames:
        expected_ns = index * NS_PER_S / (rate_hz or RATE_HZ)
        assert stamp_ns - start_ns == pytest.approx(expected_ns, abs=1)


def test_a_loop_starts_a_new_pass_after_the_old_one():
    sources = []

    def open_source():
        sources.append(Pictures(num_frames=2))
        return sources[-1]

    playback = player(open_source=open_source, can_skip=False)

    frames = played(playback, 5, loop=True)

    assert [index for index, _ in frames] == [0, 1, 0, 1, 0]
    stamps = [stamp_ns for _, stamp_ns in frames]
    assert stamps == sorted(set(stamps))
    assert playback.num_passes == 2
    assert [source.was_closed for source in sources] == [True, True, False]


def test_a_file_that_is_always_read_too_slowly_still_shows_a_frame_now_and_then():
    playback = player(open_source=lambda: Pictures(num_frames=200, cost_s=1.5 / RATE_HZ))

    frames = played(playback, 3)

    indices = [index for index, _ in frames]
    assert indices == sorted(set(indices))
    # A second of frames is skipped in the hope to catch up, not more.
    assert all(gap <= RATE_HZ + 1 for gap in np.diff(indices))
    assert playback.num_skipped == indices[-1] - 2


def test_frames_that_are_over_are_left_out_after_a_pause():
    playback = player(open_source=lambda: Pictures(num_frames=200))
    first = played(playback, 1)[0]
    time.sleep(10 / RATE_HZ)

    later = played(playback, 1)[0]

    # Ten periods passed: what was due in them is gone, but for the one that is just due.
    assert later[0] >= 9
    assert playback.num_skipped == later[0] - 1
    assert later[1] - first[1] == pytest.approx(later[0] * NS_PER_S / RATE_HZ, abs=1)


def test_a_computed_source_that_is_too_slow_shows_all_and_stamps_each_when_it_is_ready():
    playback = player(
        open_source=lambda: Pictures(num_frames=4, cost_s=3 / RATE_HZ), can_skip=False
    )

    for index in range(4):
        before_ns = time.time_ns()
        frame = playback.next_frame(loop=False)
        assert int(frame.image[0, 0, 0]) == index
        assert before_ns <= frame.stamp_ns <= time.time_ns()
    assert playback.num_skipped == 0


def test_an_empty_source_ends_instead_of_turning_for_ever():
    assert player(open_source=lambda: Pictures(num_frames=0)).next_frame(loop=True) is None


def test_closing_ends_the_wait_for_the_next_frame():
    closing = threading.Event()
    playback = player(closing, rate_hz=0.001)
    playback.next_frame(loop=False)
    closing.set()

    assert playback.next_frame(loop=False) is None


def test_a_field_of_view_gives_the_focal_length():
    camera = camera_from_fov(640, 480, 90.0)

    # Half of 640 over the tangent of 45 degrees.
    assert camera.k[0] == pytest.approx(320.0)
    assert camera.k[2] == 320.0
    assert camera_from_fov(640, 480, 0.0) is None
