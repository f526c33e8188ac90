"""Plays a frame source at its pace and gives each frame a true stamp."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from molmo2_ros.camera.frame import CameraModel, Frame
from molmo2_ros.camera.sources import FrameSource
from molmo2_ros.camera.stamp import NS_PER_S


class Playback:
    """Reads a source in real time.

    A file's or the table's frame is stamped with the start of the pass plus its own time. A file
    that falls behind skips up to a second of frames to keep its pace; the table, which is computed,
    slows down instead, and its stamps stay those of the real moment. A device stamps itself.
    The source is opened when its first frame is wanted, and anew after `close`.

    Args:
        open_source: opens the source from its start.
        now_ns: the node's clock.
        wait_s: sleeps for so many seconds, False when the node is closing.
        rate_hz: 0 for the source's own rate.
        is_device: frames carry the clock's time already and come when they come.
        can_skip: reading a frame is cheap, so late ones may be left out.
    """

    def __init__(
        self,
        open_source: Callable[[], FrameSource],
        *,
        now_ns: Callable[[], int],
        wait_s: Callable[[float], bool],
        rate_hz: float,
        is_device: bool,
        can_skip: bool,
    ) -> None:
        self._open = open_source
        self._now_ns = now_ns
        self._wait_s = wait_s
        self._rate_hz = rate_hz
        self._is_device = is_device
        self._can_skip = can_skip
        self.source: FrameSource | None = None
        self._source_rate_hz = 0.0
        self._start_ns: int | None = None
        self._index = 0
        self.num_skipped = 0
        self.num_passes = 0

    @property
    def rate_hz(self) -> float:
        """Frames a second that playback aims at; 0 while the source has never told its own."""
        return self._rate_hz or self._source_rate_hz

    def open(self) -> FrameSource:
        """Open the source at its start, unless it is open.

        Raises:
            ImageError: it cannot be opened.
            ConfigError: the simulated table cannot be had.
        """
        if self.source is None:
            self.source = self._open()
            self._source_rate_hz = self.source.rate_hz
            self._start_ns, self._index = None, 0
        return self.source

    def next_frame(self, *, loop: bool) -> Frame | None:
        """Wait for the moment of the next frame and return it, stamped.

        Args:
            loop: begin again at the source's end.

        Returns:
            the frame, or None at the end or when the node is closing.

        Raises:
            ImageError: the source cannot be opened, or failed.
        """
        skipped = 0
        while True:
            frame = self.open().read()
            if frame is None:
                if not loop or not self._rewind():
                    return None
                continue
            if self._is_device:
                return frame
            stamp_ns, late_s = self._due(frame)
            self._index += 1
            if late_s < 0.0 and not self._wait_s(-late_s):
                return None
            if late_s > 1.0 / self.rate_hz:
                if self._can_skip and skipped < self.rate_hz:
                    skipped += 1
                    self.num_skipped += 1
                    continue
                # What is computed, or never catches up, is stamped when it is ready.
                assert self._start_ns is not None
                self._start_ns += round(late_s * NS_PER_S)
                stamp_ns += round(late_s * NS_PER_S)
            return dataclasses.replace(frame, stamp_ns=stamp_ns)

    def _due(self, frame: Frame) -> tuple[int, float]:
        """The stamp of a frame of a file or the table, and by how many seconds it is late."""
        media_ns = frame.stamp_ns
        if self._rate_hz:
            media_ns = round(self._index * NS_PER_S / self._rate_hz)
        now_ns = self._now_ns()
        if self._start_ns is None:
            self._start_ns = now_ns - media_ns
        stamp_ns = self._start_ns + media_ns
        return stamp_ns, (now_ns - stamp_ns) / NS_PER_S

    def _rewind(self) -> bool:
        if self._index == 0:
            return False  # an empty source would turn for ever
        self.close()
        self.num_passes += 1
        return self._wait_s(1.0 / self.rate_hz)

    def close(self) -> None:
        """Release the file or device; whoever wants another frame begins again."""
        if self.source is not None:
            self.source.close()
            self.source = None


def camera_from_fov(width: int, height: int, horizontal_fov_deg: float) -> CameraModel | None:
    """Pinhole optics with square pixels and the principal point in the middle.

    Args:
        width: pixels.
        height: pixels.
        horizontal_fov_deg: 0 for unknown.

    Returns:
        the model, None where the field of view is unknown. Example: 640 px and 90 degrees give a
        focal length of 320 px.
    """
    if horizontal_fov_deg <= 0.0:
        return None
    focal_px = width / 2.0 / math.tan(math.radians(horizontal_fov_deg) / 2.0)
    k = (focal_px, 0.0, width / 2.0, 0.0, focal_px, height / 2.0, 0.0, 0.0, 1.0)
    return CameraModel(width=width, height=height, k=k, d=(0.0,) * 5)
