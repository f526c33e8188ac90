"""The last seconds of a camera in grey, so that an answer about the past can be carried to now."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.frame import Frame

_SAME_EXPOSURE = 0.01  # gains nearer to 1 are left alone
_THUMBNAIL = (32, 24)  # width, height
COLOUR_PX = 4  # pixels of the grey picture along a side of one colour
MAX_WIDTH = 960  # pixels; flow on wider images costs time and gains nothing


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GreyFrame:
    """A camera frame as optical flow reads it.

    Pixel u of the camera stands at (u + 0.5) / divisor - 0.5 here.
    """

    stamp_ns: int
    grey: npt.NDArray[np.uint8]  # [H / divisor, W / divisor]
    divisor: int  # whole number by which the camera's image was shrunk
    width: int  # pixels of the camera's image
    height: int
    thumbnail: npt.NDArray[np.float32]  # [24, 32] grey levels, for comparing whole pictures
    colours: npt.NDArray[np.uint8]  # [h / COLOUR_PX, w / COLOUR_PX, 3] RGB, means over squares

    @classmethod
    def of(cls, frame: Frame) -> GreyFrame:
        """Shrink and grey a frame (0.3 ms at VGA)."""
        divisor = -(-frame.width // MAX_WIDTH)
        grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        if divisor > 1:
            size = (max(1, frame.width // divisor), max(1, frame.height // divisor))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        colours = _colours(frame.image, COLOUR_PX * divisor)
        return cls(
            stamp_ns=frame.stamp_ns,
            grey=np.asarray(grey, np.uint8),
            divisor=divisor,
            width=frame.width,
            height=frame.height,
            thumbnail=_thumbnail(colours),
            colours=colours,
        )

    def gain_over(self, other: GreyFrame) -> float:
        """Exposure relative to another picture of about the same view.

        The median over the thumbnails, which a moving thing does not sway.
        """
        ratios = ((self.thumbnail + 1) / (other.thumbnail + 1)).ravel()
        middle = ratios.size // 2  # the thumbnail has an even number of pixels
        return float(np.partition(ratios, (middle - 1, middle))[middle - 1 : middle + 1].mean())

    def exposed_as(self, other: GreyFrame) -> npt.NDArray[np.uint8]:
        """This picture at the exposure of another.

        Lucas-Kanade takes brightness for constant: one step of automatic exposure would shift every
        point.
        """
        gain = self.gain_over(other)
        if abs(gain - 1) < _SAME_EXPOSURE:
            return self.grey
        return np.asarray(cv2.convertScaleAbs(self.grey, alpha=1 / gain), np.uint8)

    def to_colours(self, grey_px: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Pixels of this image to places in `colours`, [..., 2]."""
        return np.asarray((grey_px + 0.5) / COLOUR_PX - 0.5)

    def to_grey(self, camera_px: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Camera pixels to pixels of this image, [..., 2]."""
        return np.asarray((camera_px + 0.5) / self.divisor - 0.5)

    def to_camera(self, grey_px: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Pixels of this image to camera pixels, [..., 2]."""
        return np.asarray((grey_px + 0.5) * self.divisor - 0.5)


def _colours(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Mean colour of each square of the picture; a rest at the right and lower edge is left out."""
    rows, columns = max(1, image.shape[0] // side), max(1, image.shape[1] // side)
    part = image[: rows * side, : columns * side]
    if side % 2 == 0:  # halving first takes half the time and differs by a level at most
        half = (max(1, part.shape[1] // 2), max(1, part.shape[0] // 2))
        part = np.asarray(cv2.resize(part, half, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def _thumbnail(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Means that are not rounded to whole levels: exposure creeps by less than that in a frame."""
    grey = cv2.cvtColor(colours.astype(np.float32), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, _THUMBNAIL, interpolation=cv2.INTER_AREA), np.float32)


class GreyBuffer:
    """Frames in time order, bounded in time and number.

    Args:
        duration_s: how far back answers may speak.
        max_frames: bound on memory (0.3 MB a frame at VGA).
    """

    def __init__(self, duration_s: float = 4.0, max_frames: int = 256) -> None:
        self._duration_ns = round(duration_s * 1e9)
        self._max_frames = max_frames
        self._frames: list[GreyFrame] = []
        self._exposures: dict[int, float] = {}  # by stamp

    def push(self, frame: GreyFrame) -> bool:
        """Add the newest frame.

        Returns:
            False if everything before it had to go: time ran backwards or the size changed.
        """
        newest = self.newest
        continues = newest is None or (
            frame.stamp_ns > newest.stamp_ns
            and (frame.width, frame.height) == (newest.width, newest.height)
        )
        exposure = 1.0
        if not continues:
            self._frames.clear()
        elif newest is not None:
            exposure = self._exposures[newest.stamp_ns] * frame.gain_over(newest)
        self._frames.append(frame)
        oldest_ns = frame.stamp_ns - self._duration_ns
        first = bisect_left(self._stamps(), oldest_ns)
        del self._frames[: max(first, len(self._frames) - self._max_frames)]
        self._exposures = {
            kept.stamp_ns: self._exposures[kept.stamp_ns] for kept in self._frames[:-1]
        }
        self._exposures[frame.stamp_ns] = exposure
        return continues

    def exposure(self, frame: GreyFrame) -> float:
        """Exposure of a frame that is kept, relative to the first that was pushed."""
        return self._exposures[frame.stamp_ns]

    @property
    def newest(self) -> GreyFrame | None:
        """The last frame pushed."""
        return self._frames[-1] if self._frames else None

    def _stamps(self) -> list[int]:
        return [frame.stamp_ns for frame in self._frames]

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[GreyFrame]:
        return iter(self._frames)
