"""One camera picture and the optics that took it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import ImageError


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraModel:
    """Pinhole intrinsics with distortion.

    Source: sensor_msgs/CameraInfo; optical frame of REP 103 (x right, y down, z forward).
    """

    width: int  # pixels
    height: int  # pixels
    k: tuple[float, ...]  # 3x3 row-major [fx 0 cx 0 fy cy 0 0 1], pixels
    d: tuple[float, ...] = ()  # distortion coefficients in the order of distortion_model
    distortion_model: str = "plumb_bob"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One image with its time; equality is identity, so a frame can key a cache.

    Args:
        image: uint8 [H, W, 3], RGB; made read-only.
        stamp_ns: time of exposure, nanoseconds of the source's clock.
        frame_id: ROS frame of the camera's optical frame.
        depth_m: float32 [Hd, Wd], metres along the optical axis, 0 or NaN where unknown; registered
            to the colour camera, its size may differ from the image's.
        camera: intrinsics of the colour image, if known.

    Raises:
        ImageError: the image is not uint8 [H, W, 3] or is empty.
    """

    image: npt.NDArray[np.uint8]
    stamp_ns: int
    frame_id: str = ""
    depth_m: npt.NDArray[np.float32] | None = None
    camera: CameraModel | None = None

    def __post_init__(self) -> None:
        image = self.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ImageError(
                f"image is {image.dtype} {list(image.shape)}, expected non-empty uint8 [H, W, 3] "
                "RGB; convert it with molmo2_ros.camera.encodings"
            )
        image.flags.writeable = False

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.image.shape[0])
