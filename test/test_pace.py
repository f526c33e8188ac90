"""What takes far longer than the answers before is told, a slow model at its own speed is not."""

import time

import pytest

from molmo2_ros import pace as module
from molmo2_ros.pace import Pace


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test moves on."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def answer(pace, advance, seconds):
    pace.began()
    advance(seconds)
    pace.ended()


# usual seconds, seconds of the one that runs, whether it is told
@pytest.mark.parametrize(
    ("usual_s", "running_s", "is_slow"),
    [
        (0.05, 0.9, False),  # a second is nothing to speak of
        (0.05, 1.1, True),
        (3.0, 8.9, False),  # a large model on a small device
        (3.0, 9.1, True),
        (None, 19.0, False),  # it compiles
        (None, 21.0, True),
    ],
)
def test_only_what_is_slower_than_usual_is_slow(clock, usual_s, running_s, is_slow):
    pace = Pace()
    for _ in range(5 if usual_s else 0):
        answer(pace, clock, usual_s)

    pace.began()
    clock(running_s)

    assert bool(pace.warning) == is_slow
    assert pace.running_s == pytest.approx(running_s)
    pace.ended()
    assert (pace.warning, pace.running_s) == ("", 0.0)


def test_one_long_answer_does_not_make_long_ones_usual(clock):
    pace = Pace()
    for seconds in (0.1, 0.1, 30.0, 0.1, 0.1):
        answer(pace, clock, seconds)

    assert pace.usual_s == pytest.approx(0.1)
    pace.began()
    clock(1.5)
    assert "written for 1.5 s, the last ones took 0.1 s" in pace.warning


def test_time_between_answers_is_nobodys(clock):
    pace = Pace()
    pace.ended()
    clock(50.0)

    assert (pace.usual_s, pace.running_s, pace.warning) == (0.0, 0.0, "")
    assert time.monotonic() == 150.0
