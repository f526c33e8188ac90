"""Writing what was found into a copy of the video or picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.frame import Frame
from molmo2_ros.cli.findings import Finding, Result
from molmo2_ros.cli.stream import Opener, frames_of
from molmo2_ros.errors import ConfigError
from molmo2_ros.overlay import Trails, draw
from molmo2_ros.prompt.query import question_text
from molmo2_ros.tracking.flow import QUALITY_FLOOR, Patches, carry, no_patches, seed
from molmo2_ros.tracking.grey import GreyFrame
from molmo2_ros.tracking.target import Target

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv"})
STILL_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_NS = 1_000_000_000


def check_output(path: Path) -> None:
    """Refuse a place that cannot be written before any work is done.

    Raises:
        ConfigError: an unknown ending, or a folder that does not exist.
    """
    if path.suffix.lower() not in VIDEO_SUFFIXES | STILL_SUFFIXES:
        raise ConfigError(
            f"--out {path} ends in {path.suffix!r}, expected one of "
            f"{', '.join(sorted(VIDEO_SUFFIXES | STILL_SUFFIXES))}; rename it"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: the folder {path.parent} does not exist; make it first")


def annotate_pictures(frames: Sequence[Frame], result: Result, path: Path) -> None:
    """Write pictures with their points: one file each, numbered if there are several.

    Raises:
        ConfigError: the file cannot be written.
    """
    by_image: dict[int, list[Finding]] = defaultdict(list)
    for finding in result.findings:
        by_image[finding.image or 1].append(finding)
    drawn = [
        draw(
            frame.image,
            [_target(finding, result, frame.stamp_ns) for finding in by_image[number]],
            caption=question_text(result.query),
        )
        for number, frame in enumerate(frames, 1)
    ]
    if path.suffix.lower() in VIDEO_SUFFIXES:
        with _VideoFile(path, 1.0) as video:
            for picture in drawn:
                video.write(picture)
        return
    for number, picture in enumerate(drawn, 1):
        numbered = path if len(drawn) == 1 else path.with_stem(f"{path.stem}-{number}")
        _write_still(numbered, picture)


def annotate_stream(open_frames: Opener, result: Result, path: Path) -> None:
    """Write a video in which every frame shows the targets, carried by flow between answers.

    Args:
        open_frames: opens the video once more.
        result: what was found in it.
        path: a video; a still gets the last frame that has a point.

    Raises:
        ConfigError: the file cannot be written.
    """
    source = open_frames()
    rate_hz = source.rate_hz
    source.close()
    if path.suffix.lower() in STILL_SUFFIXES:
        _annotate_last(open_frames, result, path)
        return
    carried = _Carried(result)
    trails = Trails()
    caption = question_text(result.query)
    with _VideoFile(path, rate_hz) as video:
        for frame in frames_of(open_frames, "drawing"):
            targets = carried.move_to(frame)
            trails.add(targets, frame.stamp_ns)
            video.write(draw(frame.image, targets, trails=trails.lines, caption=caption))


def _annotate_last(open_frames: Opener, result: Result, path: Path) -> None:
    carried = _Carried(result)
    picture: npt.NDArray[np.uint8] | None = None
    for frame in frames_of(open_frames, "drawing"):
        targets = carried.move_to(frame)
        if targets or picture is None:
            picture = draw(frame.image, targets, caption=question_text(result.query))
    assert picture is not None  # the source gave frames when it was asked about
    _write_still(path, picture)


class _Carried:
    """Findings on every frame: put where they were found, carried by flow in between."""

    def __init__(self, result: Result) -> None:
        self._result = result
        self._adds = result.query.over_clip  # each thing is found once, on a frame of its own
        self._by_stamp: dict[int, list[Finding]] = {
            # An answer without a point ends what was carried.
            answer.stamps_ns[-1]: []
            for answer in result.answers
            if not answer.points
        }
        for finding in result.findings:
            self._by_stamp.setdefault(finding.stamp_ns, []).append(finding)
        self._shown: list[Finding] = []  # a row of _patches each
        self._patches = no_patches()
        self._before: GreyFrame | None = None

    def move_to(self, frame: Frame) -> list[Target]:
        """Targets on the next frame."""
        grey = GreyFrame.of(frame)
        found = self._by_stamp.get(frame.stamp_ns)
        if found is not None and not self._adds:
            self._shown, self._patches = [], no_patches()
        elif self._before is not None and self._before.grey.shape == grey.grey.shape:
            self._patches = carry(self._patches, self._before, grey)
        else:
            self._shown, self._patches = [], no_patches()
        if found:
            places = np.array([(finding.u, finding.v) for finding in found])
            self._shown = [*self._shown, *found]
            self._patches = Patches.joined(self._patches, seed(grey, grey.to_grey(places)))
        self._before = grey
        places = grey.to_camera(self._patches.points_N2)
        inside = ((places >= 0) & (places <= (grey.width - 1, grey.height - 1))).all(axis=1)
        kept = np.flatnonzero(inside)
        self._shown = [self._shown[row] for row in kept]
        self._patches = self._patches.take(kept)
        return [
            _target(finding, self._result, frame.stamp_ns, place, quality)
            for finding, place, quality in zip(
                self._shown, places[kept], self._patches.quality_N, strict=True
            )
            if quality >= QUALITY_FLOOR
        ]


class _VideoFile:
    """A video being written; its size is that of the first picture."""

    def __init__(self, path: Path, rate_hz: float) -> None:
        self._path = path
        self._rate_hz = rate_hz
        self._size = (0, 0)
        self._writer: Any = None

    def __enter__(self) -> _VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, picture: npt.NDArray[np.uint8]) -> None:
        """Add a frame, uint8 [H, W, 3] RGB."""
        if self._writer is None:
            # Encoders want even sizes.
            self._size = (picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2)
            codec = "MJPG" if self._path.suffix.lower() == ".avi" else "mp4v"
            self._writer = cv2.VideoWriter(
                str(self._path),
                cv2.VideoWriter_fourcc(*codec),  # type: ignore[attr-defined]
                self._rate_hz,
                self._size,
            )
            if not self._writer.isOpened():
                raise ConfigError(
                    f"--out {self._path} cannot be written as {codec} video; check that the folder "
                    "is writable, or name an .avi"
                )
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if (bgr.shape[1], bgr.shape[0]) != self._size:
            bgr = cv2.resize(bgr, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(bgr)


def _target(
    finding: Finding,
    result: Result,
    stamp_ns: int,
    place: npt.NDArray[np.float64] | None = None,
    quality: float = 1.0,
) -> Target:
    u, v = (finding.u, finding.v) if place is None else place
    return Target(
        query_id=1,
        query_name=result.query.name,
        label=finding.label,
        track_id=finding.track_id,
        stamp_ns=stamp_ns,
        u=float(u),
        v=float(v),
        point_m=None,
        age_s=(stamp_ns - finding.stamp_ns) / _NS,
        quality=float(quality),
        confidence=finding.confidence,
        measured=stamp_ns == finding.stamp_ns,
    )


def _write_still(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise ConfigError(f"--out {path} cannot be written; check that the folder is writable")
