"""Why points have no metres: each cause with its cure, tallied for /diagnostics."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus

from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ImageError
from molmo2_ros.ros.diagnostics import status
from molmo2_ros.tracking.depth import Blank, why_blank
from molmo2_ros.tracking.target import Target

BLANK_TEXTS = {
    Blank.OUTSIDE: "the depth image does not reach the point; choose a depth mode that covers the "
    "colour image",
    Blank.HOLE: "a hole in the depth image: shine, glass, darkness, or nearer or farther than the "
    "depth camera sees; light the object, move the camera, or raise its range",
    Blank.SPARSE: "under a fifth of the depths round the point are known; clean or fill the depth "
    "image in the camera's driver, or take a denser one",
    Blank.RAY: "the lens distortion cannot be undone at the point; calibrate the camera anew, with "
    "views of the board up to the picture's corners",
}

# Of a camera that has no depth or was never calibrated: no fault, and no warning.
ABSENT = frozenset({"no_camera_info", "uncalibrated", "no_depth"})


class NoMetres(ImageError):
    """No point of an image can have metres.

    Args:
        cause: short and always the same, for programs.
        text: what was met, what was expected, what to do.
    """

    def __init__(self, cause: str, text: str) -> None:
        super().__init__(text)
        self.cause = cause


@dataclass(slots=True, kw_only=True)
class Report:
    """How the points of some frames fared."""

    num_frames: int = 0
    num_points: int = 0
    num_in_metres: int = 0
    blanks: Counter[Blank] = field(default_factory=Counter)  # points of frames that could have them
    obstacles: Counter[str] = field(default_factory=Counter)  # frames that could not, by cause
    texts: dict[str, str] = field(default_factory=dict)  # the newest of each such cause


class Metres:
    """Tallies which points have metres, and why the others have not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._now = Report()
        self._last = Report()

    def add(self, frame: Frame, targets: Sequence[Target], obstacles: Sequence[NoMetres]) -> None:
        """Take note of a frame's points.

        Args:
            frame: the newest.
            targets: on it.
            obstacles: why none of them can have metres; empty where they can.
        """
        blanks = [why_blank(frame, t.u, t.v) for t in targets if t.point_m is None]
        with self._lock:  # guards the reports
            now = self._now
            now.num_frames += 1
            now.num_points += len(targets)
            now.num_in_metres += len(targets) - len(blanks)
            now.blanks.update(blank for blank in blanks if blank is not None)
            now.obstacles.update(obstacle.cause for obstacle in obstacles)
            now.texts.update({obstacle.cause: str(obstacle) for obstacle in obstacles})

    def take(self) -> Report:
        """What came since this was called last; the same again where no frame came."""
        with self._lock:  # guards the reports
            if self._now.num_frames:
                self._last, self._now = self._now, Report()
            return self._last


def metres_status(
    name: str, report: Report | None, *, is_wanted: bool, target_frame: str, elsewhere: str
) -> DiagnosticStatus:
    """The line on /diagnostics that says why points have no metres.

    Args:
        name: of the node.
        report: None unless the node is active.
        is_wanted: use_depth.
        target_frame: where ~/target is given, "" for the camera's own frame.
        elsewhere: why it could not be given there, "" where it could.
    """
    line, where = f"{name}: metres", target_frame or "the camera's"
    if not is_wanted:
        return status(line, where, {"cause": "off"}, message="off: use_depth is false")
    if report is None:
        return status(line, where, {}, message="not active")
    # What keeps few frames from having metres is usual, such as a depth image that got lost.
    causes = [c for c, num in report.obstacles.items() if 2 * num > report.num_frames]
    problems = [report.texts[cause] for cause in causes]
    message = f"{report.num_in_metres} of {report.num_points} points have metres"
    if "no_depth" in causes and ABSENT.issuperset(causes):
        message, problems = f"off: {'; '.join(problems)}", []
    if report.blanks and not causes:
        most = max(report.blanks, key=report.blanks.__getitem__)
        causes.append(most.value)
        message += f"; of the others most: {BLANK_TEXTS[most]}"
        if not report.num_in_metres:
            problems.append(f"no point has metres: {BLANK_TEXTS[most]}")
    if elsewhere:
        causes.append("no_transform")
        problems.append(elsewhere)
    values: dict[str, object] = {
        "cause": ", ".join(causes) or "none",
        "points": report.num_points,
        "points_in_metres": report.num_in_metres,
        **{f"points_{blank.value}": report.blanks[blank] for blank in Blank},
        **{f"frames_{cause}": num for cause, num in sorted(report.obstacles.items())},
    }
    return status(line, where, values, warning="; ".join(problems), message=message)
