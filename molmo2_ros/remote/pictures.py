"""Frames as they travel: JPEG in base64, made once in a frame's life."""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict

import cv2

from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ImageError
from molmo2_ros.prompt.query import Detail
from molmo2_ros.prompt.resize import resize_bilinear


class PictureCache:
    """JPEG pictures by frame.

    Frames of a clip are sent as the square that the model makes of them anyway (378 pixels in every
    released Molmo2): by the model's own resizing, so that the server's leaves them as they are, and
    a tenth of a camera's bytes. Smaller frames go whole, and so do still images, as the model cuts
    tiles from them.

    Args:
        quality: of JPEG, 1 to 100.
        frame_size: pixels, side of the square; 0 sends frames of a clip whole, too.
        max_bytes: of base64 text kept; the least recently used goes first.
    """

    def __init__(self, *, quality: int, frame_size: int, max_bytes: int = 64 << 20) -> None:
        self._quality = quality
        self._frame_size = frame_size
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # guards all below
        self._kept: OrderedDict[tuple[Frame, Detail], bytes] = OrderedDict()
        self._num_bytes = 0
        self.num_encoded = 0
        self.num_hits = 0

    def picture(self, frame: Frame, detail: Detail) -> bytes:
        """A frame as base64 text of a JPEG.

        Args:
            frame: the picture.
            detail: CROPS for a still image.
        """
        key = (frame, detail)
        with self._lock:  # guards what is kept
            known = self._kept.get(key)
            if known is not None:
                self.num_hits += 1
                self._kept.move_to_end(key)
                return known
        picture = base64.b64encode(self._jpeg(frame, detail))
        with self._lock:  # guards what is kept
            self.num_encoded += 1
            if key not in self._kept:
                self._kept[key] = picture
                self._num_bytes += len(picture)
            while self._num_bytes > self._max_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._num_bytes -= len(dropped)
        return picture

    def __contains__(self, key: tuple[Frame, Detail]) -> bool:
        with self._lock:  # guards what is kept
            return key in self._kept

    def _jpeg(self, frame: Frame, detail: Detail) -> bytes:
        image = frame.upright
        size = self._frame_size
        if size and detail is Detail.FRAMES and frame.width * frame.height > size * size:
            image = resize_bilinear(image, size, size)
        options = [cv2.IMWRITE_JPEG_QUALITY, self._quality]
        is_done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        if not is_done:
            raise ImageError(
                f"a frame of {frame.width} x {frame.height} pixels cannot be made a JPEG, expected "
                "at most 65500 a side; let the camera give smaller images"
            )
        return data.tobytes()
