"""A Rerun recording of what was asked: frames, points and answers, each at its time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import rerun as rr
from rerun import blueprint as rrb

from molmo2_ros.answers.answer import Answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.cli.carried import Carried, targets_on_pictures
from molmo2_ros.cli.findings import Result
from molmo2_ros.cli.stream import Opener, frames_of
from molmo2_ros.errors import ConfigError
from molmo2_ros.overlay import Trails, track_colour
from molmo2_ros.prompt.query import QueryKind
from molmo2_ros.tracking.target import Target

SUFFIX = ".rrd"
_NS = 1_000_000_000
_JPEG_QUALITY = 90
_POINT = rr.Radius.ui_points(6.0)
_TRAIL = rr.Radius.ui_points(1.5)


def check_recording(path: Path) -> None:
    """Refuse a place that cannot be written before any work is done.

    Raises:
        ConfigError: another ending, or a folder that does not exist or is not writable.
    """
    if path.suffix.lower() != SUFFIX:
        raise ConfigError(f"--rerun {path} ends in {path.suffix!r}, expected {SUFFIX}; rename it")
    if not path.parent.is_dir():
        raise ConfigError(f"--rerun {path}: the folder {path.parent} does not exist; make it first")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(
            f"--rerun {path} is a folder, or lies in one that is not writable; name a new file "
            "where you may write"
        )


def record_pictures(frames: Sequence[Frame], result: Result, path: Path) -> None:
    """Write pictures with their points, on the timeline `picture` (from 1).

    Args:
        frames: the pictures.
        result: what was found in them.
        path: of the recording.

    Raises:
        ConfigError: the file cannot be written.
    """
    with _recording(result, path, "picture") as recording:
        shown = zip(frames, targets_on_pictures(frames, result), strict=True)
        for number, (frame, targets) in enumerate(shown, 1):
            recording.set_time("picture", sequence=number)
            _log_frame(recording, frame, targets)
        together = len(result.answers) == 1
        for number, answer in enumerate(result.answers, 1):
            recording.set_time("picture", sequence=len(frames) if together else number)
            _log_answer(recording, answer, result)


def record_stream(open_frames: Opener, result: Result, path: Path) -> None:
    """Write a video on the timeline `video` (seconds from its start).

    Every frame shows the targets, carried by flow between answers, with how sure the flow is of
    each; an answer stands at the newest frame that it is about.

    Args:
        open_frames: opens the video once more.
        result: what was found in it.
        path: of the recording.

    Raises:
        ConfigError: the file cannot be written.
    """
    carried, trails = Carried(result), Trails()
    with _recording(result, path, "video") as recording:
        for answer in result.answers:
            recording.set_time("video", duration=answer.stamps_ns[-1] / _NS)
            _log_answer(recording, answer, result)
        for frame in frames_of(open_frames, "recording"):
            targets = carried.move_to(frame)
            trails.add(targets, frame.stamp_ns)
            recording.set_time("video", duration=frame.stamp_ns / _NS)
            _log_frame(recording, frame, targets)
            recording.log(
                "camera/trails",
                rr.LineStrips2D(
                    list(trails.lines.values()),
                    colors=[track_colour(track_id) for _, track_id in trails.lines],
                    radii=_TRAIL,
                ),
            )
            _log_quality(recording, targets)


@contextmanager
def _recording(result: Result, path: Path, timeline: str) -> Iterator[rr.RecordingStream]:
    """A recording that is whole once the block is left, with the question and how to show it."""
    recording = rr.RecordingStream("molmo2_ros")
    # When it was written is of no interest, only when it was seen.
    recording.set_log_tick_enabled(False)
    recording.set_log_time_enabled(False)
    try:
        recording.save(path, default_blueprint=_blueprint(timeline))
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"--rerun {path} cannot be written ({error}); check that the folder is writable"
        ) from error
    with recording:
        recording.log(
            "question", rr.TextDocument(_about(result), media_type="text/markdown"), static=True
        )
        yield recording


def _blueprint(timeline: str) -> rrb.Blueprint:
    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Spatial2DView(origin="camera", name="camera"),
            rrb.Vertical(
                rrb.TextDocumentView(origin="question", name="question"),
                rrb.TextLogView(origin="answers", name="answers"),
                rrb.TimeSeriesView(origin="plots", name="number and quality of points"),
                row_shares=[1, 2, 2],
            ),
            column_shares=[2, 1],
        ),
        rrb.TimePanel(timeline=timeline),
        collapse_panels=True,
    )


def _about(result: Result) -> str:
    """What was asked, of which model and about what. Words of others are quoted, not markdown."""
    rows = [("question", result.question), ("engine", result.engine)]
    rows += [("file", name) for name in result.files]
    return "\n".join(f"- {name}: `{_on_one_line(text)}`" for name, text in rows)


def _on_one_line(text: str) -> str:
    """Text that cannot leave the quotes of markdown round it."""
    return " ".join(text.replace("`", "'").split())


def _log_frame(recording: rr.RecordingStream, frame: Frame, targets: Sequence[Target]) -> None:
    bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    recording.log("camera", rr.EncodedImage(contents=jpeg.tobytes(), media_type="image/jpeg"))
    recording.log(
        "camera/points",
        rr.Points2D(
            [(target.u, target.v) for target in targets],
            colors=[track_colour(target.track_id) for target in targets],
            labels=[f"{target.label} {target.track_id}" for target in targets],
            radii=_POINT,
        ),
    )
    recording.log("plots/points", rr.Scalars(len(targets)))


def _log_quality(recording: rr.RecordingStream, targets: Iterable[Target]) -> None:
    for target in targets:
        recording.log(f"plots/quality/{target.track_id}", rr.Scalars(target.quality))


def _log_answer(recording: rr.RecordingStream, answer: Answer, result: Result) -> None:
    if result.query.kind is QueryKind.COUNT and answer.count is not None:
        recording.log("plots/count", rr.Scalars(answer.count))
    recording.log("answers", rr.TextLog(answer.text, level=rr.TextLogLevel.INFO))
    for problem in answer.problems:
        recording.log("answers", rr.TextLog(problem, level=rr.TextLogLevel.WARN))
