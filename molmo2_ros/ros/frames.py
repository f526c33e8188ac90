"""Puts image, camera_info and depth messages together into the frames that the rooms work on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from molmo2_ros.camera.frame import CameraModel, Frame
from molmo2_ros.errors import ImageError, Molmo2Error
from molmo2_ros.ros import compat, images
from molmo2_ros.ros.diagnostics import ProblemLog

T = TypeVar("T")
_NUM_DEPTH_KEPT = 8
_NUM_UNPAIRED_TOLD = 10  # images in a row without their depth; one or two are usual


class FrameAssembler:
    """Remembers the newest camera_info and depth, and completes each image with them.

    Callbacks store (`on_...`), one worker calls `frame_of`.

    Args:
        problems: takes note of depth and camera_info that cannot be used; the image still is.
    """

    def __init__(self, problems: ProblemLog) -> None:
        self._problems = problems
        self._bridge = compat.cv_bridge()
        self._num_unpaired = 0
        self._lock = threading.Lock()  # guards the three below
        self._info: CameraInfo | None = None
        self._depth_info: CameraInfo | None = None
        self._depths: deque[Image] = deque(maxlen=_NUM_DEPTH_KEPT)

    def on_camera_info(self, message: CameraInfo) -> None:
        """Keep the colour camera's optics."""
        with self._lock:  # guards the newest messages
            self._info = message

    def on_depth_info(self, message: CameraInfo) -> None:
        """Keep the depth image's optics, to see whether it is registered to the colour image."""
        with self._lock:  # guards the newest messages
            self._depth_info = message

    def on_depth(self, message: Image) -> None:
        """Keep a depth image until its colour image comes."""
        with self._lock:  # guards the newest messages
            self._depths.append(message)

    @property
    def has_depth(self) -> bool:
        """Whether any depth image came."""
        with self._lock:  # guards the newest messages
            return bool(self._depths)

    def frame_of(self, message: Image | CompressedImage, depth_tolerance_s: float) -> Frame:
        """Decode an image and add its optics and depth where they fit.

        Args:
            message: the image.
            depth_tolerance_s: largest difference between the two stamps.

        Raises:
            ImageError: the image itself cannot be read.
        """
        if isinstance(message, CompressedImage):
            image = images.rgb_of_compressed(message)
        else:
            image = images.rgb_of(message, self._bridge)
        height, width = image.shape[:2]
        camera = self._usable("camera_info", lambda: self._camera(width, height))
        depth_m = self._usable("depth", lambda: self._depth(message, camera, depth_tolerance_s))
        return Frame(
            image=image,
            stamp_ns=images.stamp_ns_of(message),
            frame_id=message.header.frame_id,
            depth_m=depth_m,
            camera=camera,
        )

    def _usable(self, place: str, read: Callable[[], T | None]) -> T | None:
        try:
            value = read()
        except Molmo2Error as error:
            self._problems.report(place, error)
            return None
        if value is not None:
            self._problems.clear(place)
        return value

    def _camera(self, width: int, height: int) -> CameraModel | None:
        with self._lock:  # guards the newest messages
            info = self._info
        if info is None:
            return None
        if (info.width, info.height) != (width, height):
            raise ImageError(
                f"camera_info is for {info.width}x{info.height}, the image has {width}x{height}: "
                "no points in metres; subscribe to the camera_info of this image topic"
            )
        return images.camera_model(info)

    def _depth(
        self, message: Image | CompressedImage, camera: CameraModel | None, tolerance_s: float
    ) -> npt.NDArray[np.float32] | None:
        stamp_ns = images.stamp_ns_of(message)
        with self._lock:  # guards the newest messages
            depths, info = list(self._depths), self._depth_info
        if not depths:
            return None
        nearest = min(depths, key=lambda depth: abs(images.stamp_ns_of(depth) - stamp_ns))
        apart_s = abs(images.stamp_ns_of(nearest) - stamp_ns) / images.NS_PER_S
        self._num_unpaired = self._num_unpaired + 1 if apart_s > tolerance_s else 0
        if 0 < self._num_unpaired < _NUM_UNPAIRED_TOLD:
            return None
        if self._num_unpaired:
            raise ImageError(
                f"the nearest depth image is {apart_s:.3f} s away from the image, expected at most "
                f"{tolerance_s} s; let the camera stamp both alike or raise depth_tolerance_s"
            )
        _check_registered(nearest, info, message.header.frame_id, camera)
        return images.depth_of(nearest)


def _check_registered(
    depth: Image, info: CameraInfo | None, frame_id: str, camera: CameraModel | None
) -> None:
    """Depth must be seen by the colour camera, or points would be lifted beside their objects."""
    cure = (
        "subscribe to the depth that is registered to colour, often called aligned_depth_to_color "
        "or depth_registered"
    )
    if depth.header.frame_id != frame_id:
        raise ImageError(
            f"depth is in frame {depth.header.frame_id!r}, the image in {frame_id!r}; {cure}"
        )
    depth_camera = images.camera_model(info) if info is not None else None
    if depth_camera is None or camera is None:
        return
    scale = depth_camera.width / camera.width
    expected_px, met_px = camera.k[0] * scale, depth_camera.k[0]
    if abs(met_px - expected_px) > 0.02 * expected_px:
        raise ImageError(
            f"depth/camera_info has a focal length of {met_px:.1f} px, expected {expected_px:.1f} "
            f"px as the colour image's; {cure}"
        )
