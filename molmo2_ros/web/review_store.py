"""Corrections of a page without ROS on disk: their pictures, and a line for each."""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path

from molmo2_ros.camera.encodings import encode_jpeg
from molmo2_ros.camera.frame import Frame
from molmo2_ros.corrections import Review
from molmo2_ros.errors import DataError

FILE = "corrections.jsonl"
PICTURES = "pictures"
_MAX_RECENT = 45  # frames in memory that a person may still stop at: three seconds at 15 Hz
_QUALITY = 92


class ReviewStore:
    """A folder: `corrections.jsonl` in the form of ~/corrections, and `pictures/STAMP_NS.jpg`.

    A line is on disk once `write` returns.

    Args:
        folder: made where it is missing; what is in it stays.

    Raises:
        DataError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # guards _recent
        self._recent: deque[Frame] = deque(maxlen=_MAX_RECENT)
        try:
            (folder / PICTURES).mkdir(parents=True, exist_ok=True)
            self._lines = (folder / FILE).open("a", encoding="utf-8")
        except OSError as error:
            raise _failed(folder, error) from error

    def remember(self, frame: Frame) -> None:
        """A frame that somebody may correct within the next seconds."""
        with self._lock:  # guards _recent
            self._recent.append(frame)

    def keep(self, stamp_ns: int) -> bool:
        """Write a picture down; False where it is forgotten already.

        Raises:
            DataError: the disk cannot be written.
        """
        path = self._folder / PICTURES / f"{stamp_ns}.jpg"
        if path.exists():
            return True
        with self._lock:  # guards _recent
            frame = next((f for f in self._recent if f.stamp_ns == stamp_ns), None)
        if frame is None:
            return False
        try:
            path.write_bytes(encode_jpeg(frame.image, _QUALITY))
        except OSError as error:
            raise _failed(self._folder, error) from error
        return True

    def write(self, review: Review) -> None:
        """One review: its lines, and its picture where that is not there yet.

        Raises:
            DataError: the picture is forgotten, or the disk cannot be written.
        """
        if not self.keep(review.stamp_ns):
            raise DataError(
                f"the picture of {review.stamp_ns} ns is not remembered any more; stop the "
                "picture before correcting it"
            )
        try:
            for correction in review.corrections():
                self._lines.write(correction.as_json() + "\n")
            self._lines.flush()
            os.fsync(self._lines.fileno())
        except OSError as error:
            raise _failed(self._folder, error) from error

    def close(self) -> None:
        """Let the file go."""
        self._lines.close()


def _failed(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"corrections cannot be written to {folder} ({error.strerror}); check the disk, or choose "
        "another folder"
    )
