"""Media of an example as pictures: which moments are shown, and their pixels.

Frames are chosen by time, never by their number: a robot's camera stutters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.clip import stamp_text
from molmo2_ros.camera.encodings import read_encoded
from molmo2_ros.errors import DataError
from molmo2_ros.training.data.example import Media

USUAL_FPS = 2.0
MAX_TRACK_FPS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How densely a clip is shown.

    Args:
        fps: frames a second; for tracks the highest rate that is tried.
        max_frames: of a clip; a longer one is shown evenly, or, for tracks, its beginning.
        dense: as for tracks: as many frames a second as fit, a whole number of times `answer_fps`.
        answer_fps: of `dense`: the rate at which the answer is written.
    """

    fps: float = USUAL_FPS
    max_frames: int = 128
    dense: bool = False
    answer_fps: float = USUAL_FPS


def sample_times(duration_s: float, native_fps: float, sampling: Sampling) -> list[float]:
    """The moments of a clip that are shown, seconds from its beginning.

    Args:
        duration_s: time of its last frame; at least 0.
        native_fps: of the video.
        sampling: how densely.

    Returns:
        rising, the first 0; the clip's last frame is among them but where a track's clip is cut.

    Source: the authors' `TimeSampler`: 2 fps with the last frame added, evenly where that is too
        many; tracking takes the densest divisor of the video's rate that is a multiple of the
        answer's and at most 10 fps, or else the clip's beginning.
    """
    if sampling.dense:
        fps = _track_fps(duration_s, native_fps, sampling)
        times = [i / fps for i in range(int(duration_s * fps + 1e-6) + 1)]
        return times[: sampling.max_frames]
    times = [i / sampling.fps for i in range(int(duration_s * sampling.fps + 1e-6) + 1)]
    if duration_s - times[-1] > 0.05:  # nearer ones print the same stamp, or nearly
        times.append(duration_s)
    if len(times) > sampling.max_frames:
        return [float(t) for t in np.linspace(0, duration_s, sampling.max_frames)]
    return times


def _track_fps(duration_s: float, native_fps: float, sampling: Sampling) -> float:
    whole = max(round(native_fps), 1)
    answer = Fraction(sampling.answer_fps).limit_denominator(10)
    highest = min(sampling.fps if sampling.fps > USUAL_FPS else MAX_TRACK_FPS, MAX_TRACK_FPS)
    rates = [Fraction(whole, n) for n in range(1, 10 * whole + 1)]
    fit = [rate for rate in rates if rate <= highest and (rate / answer).denominator == 1]
    for rate in fit:  # the densest first
        if int(duration_s * float(rate) + 1e-6) + 1 <= sampling.max_frames:
            return float(rate)
    return float(fit[-1]) if fit else sampling.answer_fps


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedClip:
    """Frames of a clip."""

    frames: list[npt.NDArray[np.uint8]]  # [H, W, 3] RGB each
    times_s: list[float]  # from the clip's beginning, one a frame


def load_clip(folder: Path, media: Media, sampling: Sampling) -> LoadedClip:
    """Show a clip.

    Args:
        folder: of the data set; the media's paths are relative to it.
        media: a video, or frames with their times.
        sampling: how densely.

    Raises:
        DataError: a file is missing or broken, or the clip lies outside the video.
    """
    if media.video is not None:
        return _load_video(folder / media.video, media, sampling)
    start_s = media.times_s[0]
    at_s = [t - start_s for t in media.times_s]
    gaps = np.diff(at_s)
    native_fps = float(1 / np.median(gaps)) if len(gaps) else USUAL_FPS
    wanted = sample_times(at_s[-1], native_fps, sampling)
    nearest = sorted({int(np.argmin(np.abs(np.array(at_s) - t))) for t in wanted})
    chosen = [nearest[i] for i in with_own_stamps([at_s[i] for i in nearest])]
    return LoadedClip(
        frames=[load_picture(folder / media.frames[i]) for i in chosen],
        times_s=[at_s[i] for i in chosen],
    )


def with_own_stamps(times_s: Sequence[float]) -> list[int]:
    """Which of some rising times are shown: of those that print the same stamp the first.

    Worked example: a camera stutters, 0.0, 0.56 and 0.62 s: the last two print 0.6, so that no
    answer could tell them apart, and the first two are shown.
    """
    stamps = [stamp_text(time_s) for time_s in times_s]
    return [i for i, stamp in enumerate(stamps) if i == 0 or stamp != stamps[i - 1]]


def each_frame(folder: Path, media: Media) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
    """All frames of a clip, one at a time.

    Args:
        folder: of the data set.
        media: a video, or frames with their times.

    Yields:
        seconds from the clip's beginning, and uint8 [H, W, 3] RGB.

    Raises:
        DataError: as `load_clip`.
    """
    if media.video is None:
        for time_s, name in zip(media.times_s, media.frames, strict=True):
            yield time_s - media.times_s[0], load_picture(folder / name)
        return
    path = folder / media.video
    with _opened(path) as video:
        fps, first, last = _span(video, path, media)
        for number, image in enumerate(_frames(video, range(first, last + 1), path)):
            yield number / fps, image


def load_images(folder: Path, media: Media) -> list[npt.NDArray[np.uint8]]:
    """Still images, uint8 [H, W, 3] RGB each.

    Raises:
        DataError: a file is missing or broken.
    """
    return [load_picture(folder / path) for path in media.images]


def load_picture(path: Path) -> npt.NDArray[np.uint8]:
    """One picture, uint8 [H, W, 3] RGB.

    Raises:
        DataError: the file is missing or no picture.
    """
    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    image = read_encoded(content, cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(
            f"{path} is no picture that OpenCV reads, or is cut off; copy it anew, or leave its "
            "example out"
        )
    return np.ascontiguousarray(image[..., ::-1], np.uint8)


def _load_video(path: Path, media: Media, sampling: Sampling) -> LoadedClip:
    with _opened(path) as video:
        fps, first, last = _span(video, path, media)
        times = sample_times((last - first) / fps, fps, sampling)
        nearest = sorted({first + round(t * fps) for t in times})
        numbers = [nearest[i] for i in with_own_stamps([(n - first) / fps for n in nearest])]
        frames = list(_frames(video, numbers, path))
    return LoadedClip(frames=frames, times_s=[(number - first) / fps for number in numbers])


def _span(video: cv2.VideoCapture, path: Path, media: Media) -> tuple[float, int, int]:
    """Frames a second, and the numbers of the clip's first and last frame."""
    fps = video.get(cv2.CAP_PROP_FPS)
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    if not fps > 0 or count < 1:
        raise DataError(f"{path} has {count} frames at {fps} fps; it is broken, or no video")
    first, last = round(media.start_s * fps), count - 1
    if media.end_s is not None:
        last = min(last, round(media.end_s * fps))
    if first > last:
        raise DataError(
            f"{path} ends after {(count - 1) / fps:.2f} s, the clip begins at {media.start_s} s"
        )
    return fps, first, last


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    if not path.is_file():
        raise DataError(f"{path} is missing, expected a video")
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise DataError(f"{path} is no video that OpenCV reads")
        yield video
    finally:
        video.release()


def _frames(
    video: cv2.VideoCapture, numbers: Sequence[int], path: Path
) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames in rising order, read one after the other: seeking is not exact in every codec."""
    position = 0
    for number in numbers:
        while position < number:
            video.grab()
            position += 1
        done, image = video.read()
        position += 1
        if not done:
            raise DataError(f"{path} breaks off at frame {number}; copy it anew")
        yield np.ascontiguousarray(image[..., ::-1], np.uint8)
