"""Points of single frames become things: joined, carried between, and ended where they are gone."""

import numpy as np
import pytest

from benchmarks.recorded_bags import scene, square
from molmo2_ros.camera.frame import Frame
from molmo2_ros.training.logs.labellers import MadePoint
from molmo2_ros.training.logs.linking import link

SIZE = (320, 240)
STEP_PX = 6


def film(num):
    return [Frame(image=scene(n, SIZE, STEP_PX), stamp_ns=n * 100_000_000) for n in range(num)]


def at(frame, step, thing=None, confidence=0.9):
    """A labeller's point at the middle of the square as it is on step `step`."""
    left, top, side = square(step, SIZE, STEP_PX)
    return MadePoint(
        frame=frame, x=(left + side / 2) / SIZE[0], y=(top + side / 2) / SIZE[1],
        confidence=confidence, thing=thing,
    )  # fmt: skip


def elsewhere(frame):
    return MadePoint(frame=frame, x=0.8, y=0.85, confidence=0.6)


def test_points_of_one_thing_are_joined_and_others_are_another_thing():
    points = [at(n, n) for n in range(5)] + [elsewhere(n) for n in range(5)]

    things = link(film(5), points, looked=range(5))

    assert [[p.frame for p in thing] for thing in things] == [list(range(5))] * 2
    assert [p.x for p in things[0]] == pytest.approx([at(n, n).x for n in range(5)])
    assert not any(p.carried for thing in things for p in thing)


def test_flow_carries_a_thing_to_the_frames_that_the_labeller_was_not_shown():
    looked = [0, 3, 6]
    points = [at(index, step) for index, step in enumerate(looked)]

    (thing,) = link(film(8), points, looked=looked)

    assert [p.frame for p in thing] == list(range(8))
    assert [p.carried for p in thing] == [n not in looked for n in range(8)]
    for point in thing:
        true = at(0, point.frame)
        off_px = np.hypot((point.x - true.x) * SIZE[0], (point.y - true.y) * SIZE[1])
        assert off_px < 2.5
    assert thing[1].confidence <= 0.9


def test_a_thing_that_is_not_found_again_ends_where_it_was_last_found():
    points = [at(0, 0), at(1, 1)]

    (thing,) = link(film(6), points, looked=range(6))

    assert [p.frame for p in thing] == [0, 1]


def test_a_thing_that_is_missed_for_a_moment_goes_on():
    points = [at(n, n) for n in (0, 1, 3, 4)]

    (thing,) = link(film(5), points, looked=range(5), max_missed=1)

    assert [(p.frame, p.carried) for p in thing] == [
        (0, False), (1, False), (2, True), (3, False), (4, False),
    ]  # fmt: skip


def test_a_thing_that_is_missed_for_longer_is_another_thing():
    points = [at(n, n) for n in (0, 1, 4, 5)]

    things = link(film(6), points, looked=range(6), max_missed=1)

    assert [[p.frame for p in thing] for thing in things] == [[0, 1], [4, 5]]


def test_what_was_found_only_once_is_dropped_unless_the_clip_has_no_second_look():
    assert link(film(3), [at(1, 1)], looked=range(3)) == ()
    assert len(link(film(1), [at(0, 0)], looked=range(1))) == 1


def test_a_labeller_that_follows_things_is_believed_wherever_they_are():
    points = [at(0, 0, thing=7), MadePoint(frame=1, x=0.9, y=0.9, confidence=1.0, thing=7),
              at(1, 1, thing=8), at(2, 2, thing=8)]  # fmt: skip

    things = link(film(3), points, looked=range(3))

    assert [[p.frame for p in thing] for thing in things] == [[0, 1], [1, 2]]
    assert things[0][1].x == 0.9


def test_what_appears_far_from_where_a_thing_was_carried_is_another_thing():
    points = [at(0, 0), at(1, 1), elsewhere(2), elsewhere(3)]

    things = link(film(4), points, looked=range(4))

    assert [[p.frame for p in thing] for thing in things] == [[0, 1], [2, 3]]
