"""The demonstration's spectator over DDS: what it tells of each answer, and which runs failed."""

import dataclasses
import math

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from std_msgs.msg import String

from molmo2_ros.answer_json import answer_payload, payload_json
from molmo2_ros.answers.answer import Answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.ros import images
from molmo2_ros.ros.clouds import points_cloud, tracks_cloud
from molmo2_ros.ros.demo import verdict
from molmo2_ros.ros.demo_watch import Watcher
from molmo2_ros.tracking.target import Target

STAMP_NS = 5_000_000_000
MUG = Target(
    query_id=2,
    query_name="red_mug",
    label="red mug",
    track_id=7,
    stamp_ns=STAMP_NS,
    u=163.3,
    v=95.6,
    point_m=(0.02, -0.05, 0.71),
    age_s=0.25,
    quality=0.9,
    confidence=0.75,
    measured=True,
    z_std_m=0.004,
)
FLAT_MUG = dataclasses.replace(MUG, point_m=None, z_std_m=math.nan)


def mugs(number):
    return [
        dataclasses.replace(FLAT_MUG, track_id=index, u=10.0 * index) for index in range(number)
    ]


FRAME = Frame(image=np.zeros((48, 64, 3), np.uint8), stamp_ns=STAMP_NS, frame_id="camera")


@pytest.fixture
def watcher(node_under_test, tmp_path):
    spectator = Watcher(tmp_path)
    node_under_test.spin(spectator.join)
    return spectator


def answer_message(question="point: the red mug", rows=(), **fields):
    answer = Answer(query=parse_query(question), stamps_ns=(STAMP_NS,), **{"text": "", **fields})
    told = answer_payload(answer, rows, 2, FRAME)
    return String(data=payload_json(told))


@pytest.mark.parametrize(
    ("answer", "targets", "line"),
    [
        ({}, [MUG], "point  the red mug       #7 (163, 96) px (0.02, -0.05, 0.71) m age 0.25 s"),
        ({}, [FLAT_MUG], "point  the red mug       #7 (163, 96) px age 0.25 s"),
        # Another query's target is not this one's.
        ({"none": True}, [dataclasses.replace(MUG, query_id=3)], "point  the red mug       none"),
        (
            {"question": "count: mugs", "count": 2},
            mugs(2),
            "count  mugs              2; #0 (0, 96) px age 0.25 s; #1 (10, 96) px age 0.25 s",
        ),
        (
            {},
            mugs(6),
            "point  the red mug       #0 (0, 96) px age 0.25 s; #1 (10, 96) px age 0.25 s; "
            "#2 (20, 96) px age 0.25 s; #3 (30, 96) px age 0.25 s; and 2 more",
        ),
        ({"rows": [MUG]}, [], "point  the red mug       #7 was at (163, 96) px"),
        (
            {"question": "ask: Is it open?", "text": "Yes,\n" + "very " * 20},
            [],
            f"ask    Is it open?       Yes, {'very ' * 11}...",
        ),
        (
            {"none": True, "problems": ("the answer was cut off",)},
            [],
            "point  the red mug       none; [the answer was cut off]",
        ),
    ],
)
def test_an_answer_is_told_in_one_line(node_under_test, watcher, capsys, answer, targets, line):
    node_under_test.send("grounding/answer", answer_message(**{**answer, "partial": True}))
    node_under_test.send("grounding/answer", answer_message(**answer))
    node_under_test.until(lambda: watcher.started_at is not None, "whole answer at the spectator")
    node_under_test.send("grounding/points", points_cloud(targets, STAMP_NS, "camera"))

    printed = []

    def is_told():
        printed.append(capsys.readouterr().out)
        return "".join(printed).count("\n") == 2

    node_under_test.until(is_told, "line")

    camera, told = "".join(printed).splitlines()
    assert camera.endswith(" s  the camera is up")  # else there were no points
    seconds, told = told.split(" s  ", 1)
    assert told == line
    assert float(seconds) >= 0
    assert watcher.summary.endswith(" 1 answers")


def messages():
    """One message of each kind that a whole run has."""
    black = np.zeros((48, 64, 3), np.uint8)
    return {
        "camera_info": images.camera_info_message(None, 64, 48, STAMP_NS, "camera"),
        "grounding/points": points_cloud([MUG], STAMP_NS, "camera"),
        "grounding/tracks": tracks_cloud([MUG], STAMP_NS, "camera"),
        "grounding/answer": answer_message(),
        "grounding/overlay/compressed": images.jpeg_message(black, STAMP_NS, "camera", 80),
    }


@pytest.mark.parametrize("missing", [None, *messages()])
def test_a_run_that_lacks_anything_ends_with_a_code_that_is_not_zero(
    node_under_test, watcher, capsys, tmp_path, missing
):
    sent = messages()
    sent.pop(missing, None)
    for topic, message in sent.items():
        node_under_test.send(topic, message)
    counted = [int(topic in sent) for topic in list(messages())[:4]]
    summary = "demo: {} frames, {} points messages, {} tracks messages, {} answers".format(*counted)
    node_under_test.until(lambda: watcher.summary == summary, summary)
    if missing != "grounding/overlay/compressed":
        node_under_test.until(lambda: (tmp_path / "demo.mp4").exists(), "film")
    node_under_test.stop()  # nothing comes any more, as at the end of a demonstration
    watcher.close()

    code = verdict(watcher, [""], was_interrupted=False)

    assert code == (0 if missing is None else 1)
    assert capsys.readouterr().out.endswith(f"{summary}\n")


def camera_status(message):
    line = DiagnosticStatus(name="camera: source", level=DiagnosticStatus.ERROR, message=message)
    return DiagnosticArray(status=[line])


def test_a_camera_that_shows_nothing_is_noticed_unless_it_has_shown_something(
    node_under_test, watcher
):
    node_under_test.send("/diagnostics", camera_status("it does not exist"))
    node_under_test.until(lambda: watcher.camera_problem, "problem")
    assert watcher.camera_problem == "the camera shows nothing: it does not exist"

    node_under_test.send("camera_info", messages()["camera_info"])
    node_under_test.until(lambda: " 1 frames" in watcher.summary, "frame")
    node_under_test.send("/diagnostics", camera_status("unplugged"))
    # The next message of another topic comes after it or not: either way it changes nothing.
    node_under_test.send("grounding/points", messages()["grounding/points"])
    node_under_test.until(lambda: " 1 points" in watcher.summary, "points")
    assert "unplugged" not in watcher.camera_problem
