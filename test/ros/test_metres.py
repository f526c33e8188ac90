"""Why points have no metres, as /diagnostics tells it: tallied over frames, with cause and cure."""

import re
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from molmo2_ros.camera.frame import CameraModel, Frame
from molmo2_ros.ros.metres import Metres, NoMetres, metres_status
from molmo2_ros.tracking.depth import Blank, lift
from molmo2_ros.tracking.target import Target

ROOT = Path(__file__).parents[2]
K = (500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0)
NO_DEPTH = NoMetres("no_depth", "no depth image has come; remap depth")


def make_frame(depth_m):
    return Frame(
        image=np.zeros((480, 640, 3), np.uint8),
        stamp_ns=0,
        depth_m=depth_m,
        camera=CameraModel(width=640, height=480, k=K),
    )


def target_at(frame, u):
    sighting = lift(frame, u, 240.0)
    return Target(
        query_id=1,
        query_name="mug",
        label="mug",
        track_id=round(u),
        stamp_ns=0,
        u=u,
        v=240.0,
        point_m=None if sighting is None else sighting.point_m,
        age_s=0.0,
        quality=1.0,
        confidence=0.9,
        measured=False,
    )


def depth_with_a_hole():
    """Two metres everywhere but in the right half."""
    depth_m = np.full((480, 640), 2.0, np.float32)
    depth_m[:, 320:] = np.nan
    return make_frame(depth_m)


def line_of(metres, **changes):
    wanted = {"is_wanted": True, "target_frame": "", "elsewhere": ""}
    line = metres_status("grounding", metres and metres.take(), **{**wanted, **changes})
    return line, {entry.key: entry.value for entry in line.values}


def test_points_with_metres_are_well():
    metres, frame = Metres(), depth_with_a_hole()
    metres.add(frame, [target_at(frame, 100.0), target_at(frame, 200.0)], [])

    line, values = line_of(metres)

    assert (line.name, line.level) == ("grounding: metres", DiagnosticStatus.OK)
    assert line.message == "2 of 2 points have metres"
    assert (values["cause"], values["points"], values["points_in_metres"]) == ("none", "2", "2")


def test_a_point_over_a_hole_is_told_and_warned_of_only_where_all_are():
    metres, frame = Metres(), depth_with_a_hole()
    metres.add(frame, [target_at(frame, 100.0), target_at(frame, 500.0)], [])
    line, values = line_of(metres)
    assert line.level == DiagnosticStatus.OK
    assert line.message.startswith("1 of 2 points have metres; of the others most: a hole in the")
    assert (values["cause"], values["points_hole"]) == ("hole", "1")

    metres.add(frame, [target_at(frame, 500.0)], [])
    line, _ = line_of(metres)
    assert line.level == DiagnosticStatus.WARN
    assert line.message.startswith("no point has metres: a hole in the depth image")


def test_a_camera_without_depth_is_told_of_and_no_warning():
    metres, frame = Metres(), make_frame(None)
    for _ in range(3):
        metres.add(frame, [], [NO_DEPTH, NoMetres("uncalibrated", "calibrate it")])

    line, values = line_of(metres)

    assert line.level == DiagnosticStatus.OK
    assert line.message == "off: no depth image has come; remap depth; calibrate it"
    assert values["cause"] == "no_depth, uncalibrated"
    assert values["frames_no_depth"] == "3"


def test_what_the_frame_lacks_is_told_without_any_point():
    metres = Metres()
    metres.add(make_frame(None), [], [NoMetres("depth_stopped", "start the camera again")])

    line, values = line_of(metres)

    assert line.level == DiagnosticStatus.WARN
    assert (line.message, values["cause"]) == ("start the camera again", "depth_stopped")


def test_a_single_frame_without_depth_is_counted_and_no_warning():
    metres, frame = Metres(), depth_with_a_hole()
    for obstacles in ([], [NO_DEPTH], []):
        metres.add(frame, [target_at(frame, 100.0)], obstacles)

    line, values = line_of(metres)

    assert line.level == DiagnosticStatus.OK
    assert (values["cause"], values["frames_no_depth"]) == ("none", "1")


def test_a_report_stands_until_frames_come():
    metres = Metres()
    metres.add(make_frame(None), [], [NO_DEPTH])
    assert line_of(metres)[1]["cause"] == "no_depth"
    assert line_of(metres)[1]["cause"] == "no_depth"

    metres.add(depth_with_a_hole(), [], [])
    assert line_of(metres)[1]["cause"] == "none"


@pytest.mark.parametrize(
    ("metres", "changes", "level", "message"),
    [
        (None, {}, DiagnosticStatus.OK, "not active"),
        (None, {"is_wanted": False}, DiagnosticStatus.OK, "off: use_depth is false"),
        (
            Metres(),
            {"target_frame": "base_link", "elsewhere": "no transform; publish it"},
            DiagnosticStatus.WARN,
            "no transform; publish it",
        ),
    ],
)
def test_states_of_the_node(metres, changes, level, message):
    line, _ = line_of(metres, **changes)

    assert (line.level, line.message) == (level, message)


def test_the_document_names_every_cause():
    room = ROOT / "molmo2_ros" / "ros"
    sources = "".join((room / name).read_text() for name in ("frames.py", "registration.py"))
    causes = set(re.findall(r'NoMetres\(\s*"(\w+)"', sources)) | {blank.value for blank in Blank}
    text = (ROOT / "docs" / "interfaces.md").read_text().split("| cause | of |")[1].split("\n\n")[0]

    first_column = " ".join(re.findall(r"^\| ([^|]+)", text, re.MULTILINE))
    named = set(re.findall(r"`(\w+)`", first_column))

    assert len(causes) > 14
    assert named == {*causes, "off", "no_transform"}
