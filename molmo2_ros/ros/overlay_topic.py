"""The overlay: camera frames with the targets drawn on them, cheap enough for camera rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros import overlay
from molmo2_ros.camera.encodings import encode_jpeg
from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.ros import images
from molmo2_ros.ros.parameters import GroundingParameters
from molmo2_ros.ros.topics import Publisher
from molmo2_ros.tracking.target import Target

Picture = npt.NDArray[np.uint8]
_CREDIBLE_NS = 10 * NS_PER_S  # an older frame is of a recording, or of another clock


class OverlayTopic:
    """Draws and publishes, from one thread.

    Its pictures are kept and drawn on again: memory that is new for each of them costs twice what
    drawing and compressing do.

    Args:
        now_ns: tells the time, for the latency that is shown.
        publisher: of CompressedImage.
    """

    def __init__(self, now_ns: Callable[[], int], publisher: Publisher) -> None:
        self._now_ns = now_ns
        self._publisher = publisher
        self._trails = overlay.Trails()
        self._picture: Picture = np.zeros((0, 0, 3), np.uint8)
        self._scratch = self._picture

    @property
    def is_wanted(self) -> bool:
        """Whether anybody looks."""
        return bool(self._publisher.get_subscription_count())

    def publish(
        self,
        frame: Frame,
        targets: Sequence[Target],
        captions: Sequence[str],
        parameters: GroundingParameters,
    ) -> None:
        """Show one camera frame, upright, with where everything is.

        Args:
            frame: of the camera.
            targets: on this frame, in its pixels.
            captions: what cannot be shown as points.
            parameters: how large and how good.
        """
        self._fill(frame.upright, parameters.overlay_width)
        shown = [_shown_at(target, frame, self._picture) for target in targets]
        self._trails.add(shown, frame.stamp_ns)
        caption = "   ".join([*captions, *self._latency(frame)])
        overlay.paint(self._picture, shown, trails=self._trails.lines, caption=caption)
        jpeg = encode_jpeg(self._picture, parameters.overlay_quality, scratch=self._scratch)
        self._publisher.publish(images.compressed_message(jpeg, frame.stamp_ns, frame.frame_id))

    def _fill(self, image: Picture, wanted_width: int) -> None:
        """Bring an image to the size that comes nearest to a width by a whole factor."""
        height, width = image.shape[:2]
        larger = max(1, -(-wanted_width // width))
        smaller = max(1, width // wanted_width) if wanted_width else 1
        size = (larger * width // smaller, larger * height // smaller)
        if self._picture.shape[:2] != size[::-1]:
            self._picture = np.zeros((size[1], size[0], 3), np.uint8)
            self._scratch = np.zeros_like(self._picture)
        if larger == smaller:
            np.copyto(self._picture, image)
            return
        method = cv2.INTER_LINEAR if larger > 1 else cv2.INTER_AREA
        cv2.resize(image, size, dst=self._picture, interpolation=method)

    def _latency(self, frame: Frame) -> list[str]:
        """How long ago the camera saw this, where its clock is ours."""
        late_ns = self._now_ns() - frame.stamp_ns
        return [f"{late_ns / 1e6:.0f} ms"] if 0 <= late_ns < _CREDIBLE_NS else []


def _shown_at(target: Target, frame: Frame, picture: Picture) -> Target:
    """A target in the pixels of a picture that shows the frame upright and in another size."""
    height, width = picture.shape[:2]
    x, y = frame.to_upright((target.u + 0.5) / frame.width, (target.v + 0.5) / frame.height)
    return replace(target, u=x * width - 0.5, v=y * height - 0.5)
