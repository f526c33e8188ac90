"""Frames from a file, a folder of pictures or a camera device, behind one small interface."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.encodings import read_encoded
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ImageError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
PICTURE_RATE_HZ = 2.0  # pictures have no time: at Molmo2's own rate none of them is left out
_DEVICE = re.compile(r"/dev/video\d+")


class FrameSource(Protocol):
    """Where frames come from."""

    @property
    def rate_hz(self) -> float:
        """Frames a second, as declared by the source."""
        ...

    def read(self) -> Frame | None:
        """The next frame; None at the end.

        A file's stamps are nanoseconds from its start, a device's are of the system clock.

        Raises:
            ImageError: the source broke while reading.
        """
        ...

    def close(self) -> None:
        """Let go of the file or device; may be called twice."""
        ...


def open_source(spec: str | Sequence[str], *, rate_hz: float | None = None) -> FrameSource:
    """Open a video file, a folder of pictures, pictures, or a V4L2 device (/dev/videoN).

    Args:
        spec: one path, or several pictures.
        rate_hz: for pictures, how many make a second; for a device, the rate to ask for; None for
            PICTURE_RATE_HZ and the device's own. A video file keeps its own times.

    Raises:
        ImageError: it does not exist, cannot be opened or holds no frame.
    """
    if rate_hz is not None and not 0 < rate_hz <= 1000:
        raise ImageError(f"rate is {rate_hz} Hz, expected above 0 and at most 1000")
    specs = [spec] if isinstance(spec, str) else list(spec)
    if not specs or not all(specs):
        raise ImageError("no file was named; give a video, pictures, a folder or /dev/videoN")
    if len(specs) == 1 and _DEVICE.fullmatch(specs[0]):
        return DeviceSource(specs[0], rate_hz=rate_hz)
    paths = [Path(name).expanduser() for name in specs]
    for path in paths:
        if not path.exists():
            raise ImageError(f"{path} does not exist; check the path")
    if len(paths) == 1 and paths[0].is_dir():
        return PictureSource(_pictures_in(paths[0]), rate_hz=rate_hz or PICTURE_RATE_HZ)
    if all(path.suffix.lower() in IMAGE_SUFFIXES for path in paths):
        return PictureSource(paths, rate_hz=rate_hz or PICTURE_RATE_HZ)
    if len(paths) == 1:
        return VideoSource(paths[0])
    odd = next(path for path in paths if path.suffix.lower() not in IMAGE_SUFFIXES)
    raise ImageError(
        f"{odd} is not a picture; several files must all be pictures, or give one video"
    )


def read_picture(path: str | Path) -> npt.NDArray[np.uint8]:
    """Read one picture file, upright by its EXIF.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        ImageError: it cannot be read or is no picture.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}; check the path") from error
    bgr = read_encoded(encoded, cv2.IMREAD_COLOR)
    if bgr is None:
        raise ImageError(
            f"{path} ({encoded.size} bytes) is not a picture that OpenCV reads, or was cut; fetch "
            "it again, or convert it to PNG or JPEG"
        )
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


class PictureSource:
    """Picture files, one after the other at a fixed rate."""

    def __init__(self, paths: Sequence[Path], *, rate_hz: float) -> None:
        self._paths = list(paths)
        self._rate_hz = rate_hz
        self._next = 0

    @property
    def rate_hz(self) -> float:
        """Pictures a second."""
        return self._rate_hz

    def __len__(self) -> int:
        return len(self._paths)

    def read(self) -> Frame | None:
        """The next picture, stamped from 0."""
        if self._next >= len(self._paths):
            return None
        image = read_picture(self._paths[self._next])
        stamp_ns = round(self._next * 1e9 / self._rate_hz)
        self._next += 1
        return Frame(image=image, stamp_ns=stamp_ns)

    def close(self) -> None:
        """Give no more pictures."""
        self._next = len(self._paths)


class VideoSource:
    """A video file, stamped with its own presentation times."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._capture: Any = cv2.VideoCapture(str(path))
        self._first: Any = None
        if self._capture.isOpened():
            _, self._first = self._capture.read()
        if self._first is None:
            self.close()
            size = path.stat().st_size
            raise ImageError(
                f"{path} ({size} bytes) cannot be opened as a video or holds no frame; check that "
                "the file is whole, or convert it: ffmpeg -i FILE -c:v libx264 out.mp4"
            )
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self._rate_hz = rate if 0 < rate <= 1000 else 30.0
        self._stamp_ns = -1

    @property
    def rate_hz(self) -> float:
        """Frames a second by the file's header, 30 where it has none."""
        return self._rate_hz

    @property
    def num_frames(self) -> int:
        """Frames by the file's header; 0 where it does not say."""
        return max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def read(self) -> Frame | None:
        """The next frame, stamped from the file's start; stamps always increase."""
        if self._first is not None:
            bgr, self._first = self._first, None
        else:
            ok, bgr = self._capture.read()
            if not ok:
                return None
        reported_ms = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
        self._stamp_ns = presentation_ns(reported_ms, self._stamp_ns, self._rate_hz)
        image = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
        return Frame(image=image, stamp_ns=self._stamp_ns)

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


def presentation_ns(reported_ms: float, before_ns: int, rate_hz: float) -> int:
    """When a frame of a file is shown; always later than the frame before.

    Some containers report no times, or the same one twice; then time goes on at the file's rate.

    Args:
        reported_ms: the container's time of the frame, from the file's start.
        before_ns: time of the frame before, -1 if there is none.
        rate_hz: of the file.
    """
    if math.isfinite(reported_ms) and (shown_ns := round(reported_ms * 1e6)) > before_ns:
        return shown_ns
    return before_ns + round(1e9 / rate_hz)


class DeviceSource:
    """A V4L2 camera, stamped with the system clock when a frame arrives."""

    def __init__(self, device: str, *, rate_hz: float | None = None) -> None:
        self._device = device
        if not Path(device).exists():
            raise ImageError(
                f"{device} does not exist; list the cameras with `ls /dev/video*`, and in a "
                "container pass the device in"
            )
        self._capture: Any = cv2.VideoCapture(device, cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise ImageError(
                f"{device} cannot be opened; check that no other program holds it and that you are "
                "in the group `video`"
            )
        if rate_hz is not None:
            self._capture.set(cv2.CAP_PROP_FPS, rate_hz)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest picture, not the oldest waiting
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self._rate_hz = rate if 0 < rate <= 1000 else 30.0

    @property
    def rate_hz(self) -> float:
        """Frames a second by the driver, 30 where it does not say."""
        return self._rate_hz

    def read(self) -> Frame | None:
        """The next frame; waits for it."""
        ok, bgr = self._capture.read()
        if not ok:
            raise ImageError(f"{self._device} gave no frame; check that the camera is plugged in")
        image = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
        return Frame(image=image, stamp_ns=time.time_ns())

    def close(self) -> None:
        """Release the device."""
        self._capture.release()


def _pictures_in(folder: Path) -> list[Path]:
    """Picture files of a folder, 2.png before 10.png."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise ImageError(
            f"{folder} holds no picture; expected files that end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )

    def natural(path: Path) -> list[tuple[int, int, str]]:
        parts = re.findall(r"\d+|\D+", path.name)
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]

    return sorted(paths, key=natural)
