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
        turns: quarter turns clockwise, 0 to 3, after which the picture of a camera that is mounted
            on its side or its head is upright. The model is shown `upright`; all else, points
            included, stays in the camera's own pixels.

    Raises:
        ImageError: the image is not uint8 [H, W, 3] or is empty, or there are no such turns.
    """

    image: npt.NDArray[np.uint8]
    stamp_ns: int
    frame_id: str = ""
    depth_m: npt.NDArray[np.float32] | None = None
    camera: CameraModel | None = None
    turns: int = 0

    def __post_init__(self) -> None:
        image = self.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ImageError(
                f"image is {image.dtype} {list(image.shape)}, expected non-empty uint8 [H, W, 3] "
                "RGB; convert it with molmo2_ros.camera.encodings"
            )
        if self.turns not in range(4):
            raise ImageError(f"turns is {self.turns!r}, expected 0 to 3 quarter turns clockwise")
        image.flags.writeable = False

    @property
    def num_bytes(self) -> int:
        """What the picture and its depth take of memory."""
        return self.image.nbytes + (0 if self.depth_m is None else self.depth_m.nbytes)

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.image.shape[0])

    @property
    def upright(self) -> npt.NDArray[np.uint8]:
        """The picture as the model is shown it, uint8 [H, W, 3] or [W, H, 3]."""
        if not self.turns:
            return self.image
        return np.ascontiguousarray(np.rot90(self.image, -self.turns))

    def to_upright(self, x: float, y: float) -> tuple[float, float]:
        """A place of the image as one of `upright`, both 0..1 of width and height.

        Worked example: the upper left corner (0, 0) comes to (1, 0) by one turn.
        """
        for _ in range(self.turns):
            x, y = 1 - y, x
        return x, y

    def from_upright(self, x: float, y: float) -> tuple[float, float]:
        """The inverse of `to_upright`."""
        for _ in range(self.turns):
            x, y = y, 1 - x
        return x, y
