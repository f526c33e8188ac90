"""Which frames are encoded before a question asks for them, in simulated time."""

import numpy as np
import pytest

from molmo2_ros.answer_loop import Reads, frames_ahead
from molmo2_ros.camera.clip import ClipBuffer, Sampling
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import Detail
from molmo2_ros.scheduler import Demand, Outcome, Scheduler

PIXEL = np.zeros((1, 1, 3), np.uint8)
NEWEST = Reads(Sampling(fps=2.0, max_frames=1, max_clip_s=3.4), Detail.FRAMES)
CROPS = Reads(Sampling(fps=2.0, max_frames=1, max_clip_s=3.4), Detail.CROPS)
CLIP = Reads(Sampling(fps=2.0, max_frames=8, max_clip_s=3.4, answer_fps=2.0), Detail.FRAMES)
DENSE = Reads(Sampling(fps=8.0, max_frames=64, max_clip_s=4.0, answer_fps=2.0), Detail.FRAMES)


class Worker:
    """A camera, and a worker that answers what is due and else encodes ahead.

    Args:
        reads: of each question.
        rates_hz: of each question, None for as often as possible.
        camera_hz: frames a second.
        jitter_s: so much later than due a frame may come.
    """

    def __init__(self, reads, rates_hz, camera_hz, jitter_s=0.0):
        self.reads = dict(enumerate(reads))
        self.scheduler = Scheduler()
        self.clip = ClipBuffer(5.0, 128, keep_fps=8.0)
        self.encoded = set()
        self.num_frames = 0
        self.num_lacking = []  # of each answer, frames that it had to encode itself
        self.had_time = []  # before each answer: the one before it was over when it fell due
        self._camera_hz = camera_hz
        self._late_s = np.random.default_rng(7).uniform(0, jitter_s, 10_000)
        self.now_s = 0.013  # no question falls due just when a frame comes
        demands = {
            key: Demand(reads=self.reads[key], rate_hz=rate_hz)
            for key, rate_hz in enumerate(rates_hz)
        }
        self.scheduler.set_demands(demands, self.now_s)

    def run(self, until_s, answer_s=0.05, encode_s=0.005):
        has_time = False
        while self.now_s < until_s:
            keys = self.scheduler.next(self.now_s) if len(self.clip) else ()
            if keys:
                self.had_time.append(has_time)
                self._answer(keys, answer_s)
            elif self._encode_ahead():
                self._pass_s(encode_s)
            else:
                due_s = self.scheduler.wait_s(self.now_s)
                frame_s = self._next_frame_s - self.now_s
                self._pass_s((frame_s if due_s is None else min(due_s, frame_s)) + 1e-6)
            has_time = not keys

    def _answer(self, keys, answer_s):
        reads = self.reads[keys[0]]
        clip = self.clip.sample(reads.sampling)
        lacking = {(frame, reads.detail) for frame in clip} - self.encoded
        self.encoded |= lacking
        self.num_lacking.append(len(lacking))
        self.scheduler.asked(keys, clip.stamps_ns[-1], self.now_s)
        self._pass_s(answer_s)
        for key in keys:
            self.scheduler.ended(key, Outcome.ANSWERED, self.now_s)

    def _encode_ahead(self):
        upcoming = self.scheduler.upcoming(self.now_s)
        for ahead in frames_ahead(upcoming, self.reads, lambda _: self.clip):
            if ahead not in self.encoded:
                self.encoded.add(ahead)
                return True
        return False

    @property
    def _next_frame_s(self):
        return self.num_frames / self._camera_hz + self._late_s[self.num_frames]

    def _pass_s(self, seconds):
        self.now_s += seconds
        while self._next_frame_s <= self.now_s:
            frame = Frame(image=PIXEL, stamp_ns=round(self.num_frames / self._camera_hz * 1e9))
            self.num_frames += 1
            self.clip.push(frame)
            self.scheduler.frame_arrived("", frame.stamp_ns, self.now_s)


@pytest.mark.parametrize(
    ("reads", "rates_hz", "most_encoded"),
    # Of 600 frames in 20 s. A question about the newest frame needs one for each answer; those
    # about a clip the frames of the grid besides. A quarter more, since frames come early or late.
    [
        ([NEWEST], [1.0], 1.25 * 20),
        ([CROPS], [1.0], 1.25 * 20),
        ([CLIP], [1.0], 1.25 * (20 + 40)),
        ([DENSE], [0.5], 1.25 * (10 + 160)),
        ([NEWEST, CLIP], [3.0, 1.0], 1.25 * (60 + 20 + 40)),
        # In ten seconds the clip has moved on: only the last four before it are encoded.
        ([DENSE], [0.1], 1.25 * (2 + 2 * 32)),
    ],
    ids=["newest", "crops", "clip", "dense", "both", "rarely"],
)
@pytest.mark.parametrize("jitter_s", [0.0, 0.004])
def test_questions_find_their_frames_encoded_and_other_frames_are_not(
    reads, rates_hz, most_encoded, jitter_s
):
    worker = Worker(reads, rates_hz, camera_hz=30.0, jitter_s=jitter_s)
    worker.run(20.0)
    answers = list(zip(worker.num_lacking, worker.had_time, strict=True))[len(reads) :]
    found = [num_lacking == 0 for num_lacking, had_time in answers if had_time]
    assert len(found) >= 0.6 * len(answers)
    assert np.mean(found) >= 0.9
    assert len(worker.encoded) <= most_encoded


def test_a_question_about_every_frame_leaves_nothing_to_encode_ahead():
    worker = Worker([NEWEST], [None], camera_hz=10.0)
    worker.run(10.0)
    assert len(worker.num_lacking) >= 99
    assert len(worker.encoded) == sum(worker.num_lacking)


def test_nothing_is_encoded_for_nobody():
    worker = Worker([], [], camera_hz=30.0)
    worker.run(5.0)
    assert worker.num_frames >= 149
    assert not worker.encoded
