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
from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import ImageError
from molmo2_ros.ros import compat, images
from molmo2_ros.ros.diagnostics import ProblemLog
from molmo2_ros.ros.metres import ABSENT, NoMetres
from molmo2_ros.ros.registration import REGISTERED_CURE, check_registered
from molmo2_ros.tracking.depth import NUM_COEFFICIENTS, knows_distortion

T = TypeVar("T")
_NUM_DEPTH_KEPT = 8
_NUM_UNPAIRED_TOLD = 10  # images in a row without their depth; one or two are usual
_STOPPED_S = 1.0  # depth that is so much older than the image comes no more


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
        self.obstacles: list[NoMetres] = []  # why no point of the last frame can have metres
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

    def frame_of(
        self, message: Image | CompressedImage, depth_tolerance_s: float, rotation: int = 0
    ) -> Frame:
        """Decode an image and add its optics and depth where they fit; `obstacles` says why not.

        Args:
            message: the image.
            depth_tolerance_s: largest difference between the two stamps.
            rotation: degrees clockwise after which the picture is upright, a multiple of 90.

        Raises:
            ImageError: the image itself cannot be read.
        """
        if isinstance(message, CompressedImage):
            image = images.rgb_of_compressed(message)
        else:
            image = images.rgb_of(message, self._bridge)
        height, width = image.shape[:2]
        self.obstacles = []
        camera = self._usable("camera_info", lambda: self._camera(width, height))
        depth_m = self._usable(
            "depth", lambda: self._depth(message, (width, height), depth_tolerance_s)
        )
        return Frame(
            image=image,
            stamp_ns=images.stamp_ns_of(message),
            frame_id=message.header.frame_id,
            depth_m=depth_m,
            camera=camera,
            turns=rotation // 90 % 4,
        )

    def _usable(self, place: str, read: Callable[[], T]) -> T | None:
        try:
            value = read()
        except NoMetres as obstacle:
            self.obstacles.append(obstacle)
            is_usual = obstacle.cause == "depth_apart" and self._num_unpaired < _NUM_UNPAIRED_TOLD
            if obstacle.cause not in ABSENT and not is_usual:
                self._problems.report(place, obstacle)
            return None
        self._problems.clear(place)
        return value

    def _camera(self, width: int, height: int) -> CameraModel:
        with self._lock:  # guards the newest messages
            info = self._info
        if info is None:
            raise NoMetres(
                "no_camera_info",
                "no camera_info has come; remap camera_info to the topic beside the image's",
            )
        if (info.width, info.height) != (width, height):
            raise NoMetres(
                "camera_info_other_size",
                f"camera_info is for {info.width}x{info.height}, the image has {width}x{height}: "
                "no points in metres; subscribe to the camera_info of this image topic",
            )
        camera = images.camera_model(info)
        if camera is None:
            raise NoMetres(
                "uncalibrated",
                "camera_info has no focal length (k is zero), as of a camera that was never "
                "calibrated; calibrate it (camera_calibration) and let its driver load that",
            )
        if not knows_distortion(camera):
            expected = ", ".join(NUM_COEFFICIENTS)
            raise NoMetres(
                "distortion_unknown",
                f"camera_info has distortion_model {camera.distortion_model!r} with "
                f"{len(camera.d)} coefficients, expected one of {expected} with theirs; subscribe "
                "to the rectified image and its camera_info",
            )
        return camera

    def _depth(
        self, message: Image | CompressedImage, size: tuple[int, int], tolerance_s: float
    ) -> npt.NDArray[np.float32]:
        nearest = self._nearest_depth(images.stamp_ns_of(message), tolerance_s)
        with self._lock:  # guards the newest messages
            info, depth_info = self._info, self._depth_info
        if nearest.header.frame_id != message.header.frame_id:
            raise NoMetres(
                "depth_other_frame",
                f"depth is in frame {nearest.header.frame_id!r}, the image in "
                f"{message.header.frame_id!r}; {REGISTERED_CURE}",
            )
        check_registered(nearest, depth_info, info, size)
        try:
            return images.depth_of(nearest)
        except ImageError as error:
            raise NoMetres("depth_unreadable", f"depth image: {error}") from error

    def _nearest_depth(self, stamp_ns: int, tolerance_s: float) -> Image:
        with self._lock:  # guards the newest messages
            depths = list(self._depths)
        if not depths:
            raise NoMetres(
                "no_depth",
                "no depth image has come; remap depth to the depth that is registered to colour, "
                "or set use_depth to false where there is none",
            )
        nearest = min(depths, key=lambda depth: abs(images.stamp_ns_of(depth) - stamp_ns))
        late_s = (images.stamp_ns_of(nearest) - stamp_ns) / NS_PER_S
        if abs(late_s) <= tolerance_s:
            self._num_unpaired = 0
            return nearest
        self._num_unpaired += 1
        if late_s < -_STOPPED_S:
            raise NoMetres(
                "depth_stopped",
                f"the newest depth image is {-late_s:.1f} s older than the image: depth comes no "
                "more, or is stamped by another clock; look at the depth camera's driver",
            )
        raise NoMetres(
            "depth_apart",
            f"the nearest depth image is {abs(late_s):.3f} s away from the image, expected at most "
            f"{tolerance_s} s; let the camera stamp both alike or raise depth_tolerance_s",
        )
