"""What happens while an answer is being carried to now: frames come, queries are taken away."""

import pytest

from molmo2_ros.answers.answer import Answer, AnsweredPoint
from molmo2_ros.prompt.query import Query, QueryKind
from molmo2_ros.tracking import tracker as tracker_module
from molmo2_ros.tracking.tracker import Tracker

MUG = Query(name="mug", kind=QueryKind.POINT, words="the red mug")


def point_answer(frame, u, v):
    """The model points at one pixel of a frame."""
    x, y = (u + 0.5) / frame.width, (v + 0.5) / frame.height
    point = AnsweredPoint(object_id=1, time_s=0.0, x=x, y=y)
    return Answer(query=MUG, text="", stamps_ns=(frame.stamp_ns,), points=(point,))


@pytest.mark.parametrize("step", ["follow", "replay"])
def test_what_is_forgotten_while_its_answer_is_replayed_does_not_come_back(
    make_stream, pan, monkeypatch, step
):
    tracker = Tracker()
    frame = make_stream(pan()).frame(0)
    tracker.update(frame)
    tracker.measure(point_answer(frame, 200, 150), 1)
    place = (tracker._scene, "follow") if step == "follow" else (tracker_module, "replay")
    real = getattr(*place)

    def forget_and_go_on(*arguments):
        tracker.forget(2)  # as another thread does
        return real(*arguments)

    monkeypatch.setattr(*place, forget_and_go_on)
    assert tracker.measure(point_answer(frame, 400, 300), 2) == ()
    assert [t.query_id for t in tracker.targets()] == [1]

    monkeypatch.undo()
    tracker.measure(point_answer(frame, 400, 300), 2)
    assert [t.query_id for t in tracker.targets()] == [1, 2]


@pytest.mark.parametrize(
    ("num_at_first", "num_each_step", "waits_for"),
    [
        (8, 0, 0),  # nothing else comes
        (8, 1, None),  # as many as are followed: it must end all the same
        (3, 0, 0),
    ],
)
def test_frames_that_came_meanwhile_are_caught_up_with_while_others_come(
    make_stream, pan, monkeypatch, num_at_first, num_each_step, waits_for
):
    stream, tracker = make_stream(pan(60.0, 30.0)), Tracker()
    coming = iter([stream.frame(number) for number in range(1, 40)])
    first = stream.frame(0)
    tracker.update(first)
    replay, carry = tracker_module.replay, tracker_module.carry
    waits = []  # of each step behind the replay: whether a frame that came now would wait for it

    def come(number):
        monkeypatch.setattr(tracker_module, "carry", carry)
        for _ in range(number):
            tracker.update(next(coming))
        monkeypatch.setattr(tracker_module, "carry", carry_and_look)

    def replay_while_frames_come(*arguments):
        found = replay(*arguments)
        come(num_at_first)
        return found

    def carry_and_look(*arguments):
        waits.append(tracker._lock.locked())
        if not waits[-1]:
            come(num_each_step)
        return carry(*arguments)

    monkeypatch.setattr(tracker_module, "replay", replay_while_frames_come)
    tracker.measure(point_answer(first, 200, 150), 1)
    assert waits[:num_at_first] == [False] * num_at_first
    if waits_for is not None:
        assert waits[num_at_first:] == [True] * waits_for
    target = tracker.targets()[0]
    now_s = target.stamp_ns / 1e9
    place = tuple(stream.moved((200, 150), 0.0, now_s)[0])
    assert (target.u, target.v) == pytest.approx(place, abs=1.0)
