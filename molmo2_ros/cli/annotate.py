"""Writing what was found into a copy of the video or picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.frame import Frame
from molmo2_ros.cli.carried import Carried, targets_on_pictures
from molmo2_ros.cli.findings import Result
from molmo2_ros.cli.stream import Opener, frames_of
from molmo2_ros.errors import ConfigError
from molmo2_ros.overlay import Trails, draw
from molmo2_ros.prompt.query import question_text

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv"})
STILL_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


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
    caption = question_text(result.query)
    drawn = [
        draw(frame.image, targets, caption=caption)
        for frame, targets in zip(frames, targets_on_pictures(frames, result), strict=True)
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
    carried = Carried(result)
    trails = Trails()
    caption = question_text(result.query)
    with _VideoFile(path, rate_hz) as video:
        for frame in frames_of(open_frames, "drawing"):
            targets = carried.move_to(frame)
            trails.add(targets, frame.stamp_ns)
            video.write(draw(frame.image, targets, trails=trails.lines, caption=caption))


def _annotate_last(open_frames: Opener, result: Result, path: Path) -> None:
    carried = Carried(result)
    picture: npt.NDArray[np.uint8] | None = None
    for frame in frames_of(open_frames, "drawing"):
        targets = carried.move_to(frame)
        if targets or picture is None:
            picture = draw(frame.image, targets, caption=question_text(result.query))
    assert picture is not None  # the source gave frames when it was asked about
    _write_still(path, picture)


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


def _write_still(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise ConfigError(f"--out {path} cannot be written; check that the folder is writable")
