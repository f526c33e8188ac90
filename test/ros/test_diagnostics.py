"""Problems are counted and told with their cure, and a flood of them makes few log lines."""

import logging
import math
import time

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from molmo2_ros.errors import ImageError, QueryError
from molmo2_ros.ros.diagnostics import ProblemLog, RateMeter, RosLogHandler, status


class Pen:
    """A logger that keeps what is written, level by level."""

    def __init__(self):
        self.lines = []

    def error(self, text):
        self.lines.append(("error", text))

    def warning(self, text):
        self.lines.append(("warning", text))

    def info(self, text):
        self.lines.append(("info", text))


def test_a_flood_of_one_problem_makes_one_line_and_all_are_counted():
    pen = Pen()
    problems = ProblemLog(pen)

    for _ in range(1000):
        problems.report("camera", ImageError("step is 7,\n expected 960"))
    problems.report("query", QueryError("query is empty"))

    assert pen.lines == [
        ("error", "camera: step is 7, expected 960"),
        ("error", "query: query is empty"),
    ]
    assert problems.counts == {"ImageError": 1000, "QueryError": 1}


def test_a_problem_stays_until_it_is_cleared_and_a_long_one_is_cut():
    problems = ProblemLog(Pen())
    problems.report("engine", ImageError("x" * 1000))

    assert problems.standing("engine") == "x" * 397 + "..."
    assert problems.recent("engine") == problems.standing("engine")
    assert problems.recent("camera") == ""
    problems.clear("engine")
    assert problems.standing("engine") == ""


def test_different_problems_of_one_place_are_all_logged():
    pen = Pen()
    problems = ProblemLog(pen)

    problems.report("camera", ImageError("unknown image encoding 'a'"))
    problems.report("camera", ImageError("image is 0x0 pixels"))

    assert len(pen.lines) == 2


@pytest.mark.parametrize(
    ("given", "level", "message"),
    [
        ({}, DiagnosticStatus.OK, "ok"),
        ({"message": "playing"}, DiagnosticStatus.OK, "playing"),
        ({"warning": "slow", "message": "playing"}, DiagnosticStatus.WARN, "slow"),
        ({"warning": "slow", "error": "broken"}, DiagnosticStatus.ERROR, "broken"),
    ],
)
def test_an_error_outranks_a_warning(given, level, message):
    line = status("camera", "", {"rate_hz": 4.98765, "frames": 12}, **given)

    assert (line.level, line.message) == (level, message)
    assert [(entry.key, entry.value) for entry in line.values] == [
        ("rate_hz", "4.99"),
        ("frames", "12"),
    ]


def test_a_meter_without_events_reads_zero_and_counts_all():
    meter = RateMeter()
    assert (meter.rate_hz, meter.count) == (0.0, 0)

    meter.tick()
    meter.tick()

    assert meter.count == 2
    assert meter.rate_hz > 0


def test_log_records_of_the_rooms_keep_their_level_and_their_traceback():
    pen = Pen()
    log = logging.Logger("molmo2_ros.somewhere")
    log.addHandler(RosLogHandler(pen))

    log.debug("nothing")
    log.info("loaded %s", "nano")
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        log.exception("it failed")

    assert [level for level, _ in pen.lines] == ["info", "error"]
    assert pen.lines[0][1] == "loaded nano"
    assert "RuntimeError: broken" in pen.lines[1][1]


# seconds between the events before, seconds since the last one, whether they have stopped
@pytest.mark.parametrize(
    ("period_s", "since_s", "is_stale"),
    [(0.03, 0.9, False), (0.03, 1.1, True), (2.0, 7.9, False), (2.0, 8.1, True)],
)
def test_events_have_stopped_when_they_stay_away_for_longer_than_usual(
    monkeypatch, period_s, since_s, is_stale
):
    now = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    meter = RateMeter()
    assert (meter.age_s, meter.is_stale) == (math.inf, False)  # they never came
    for _ in range(20):
        now[0] += period_s
        meter.tick()

    now[0] += since_s

    assert meter.age_s == pytest.approx(since_s)
    assert meter.is_stale == is_stale
    meter.tick()
    assert not meter.is_stale
