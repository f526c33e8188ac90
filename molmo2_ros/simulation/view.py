"""What every renderer is given and gives: the camera's optics, and the picture with its truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.simulation.world import Item, Scene

# Surface codes; the parts of items follow from FIRST_PART on.
NOTHING, FLOOR, TABLE, TABLE_SIDE, WALL, FIRST_PART = range(6)
TABLE_THICKNESS_M = 0.04
TEXTURE_PERIOD_M = 0.6
GREY = 0.3  # where there is no surface
SIDE_SHADE = 0.8  # of the table's edge, against the mean of its top
SHADOW_OFFSET_M = 2e-3  # a point asks for its light from so far above its surface
SHADOW_SHARE = 0.9985  # of the way from the lamp: what stands nearer to the point is the point
SHININESS_LOG2, GLOSS = 5, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Intrinsics:
    """A pinhole camera; pixel (column, row) has its centre at (column + 0.5, row + 0.5)."""

    width: int
    height: int
    fx: float
    fy: float

    @classmethod
    def from_view(
        cls, width: int, height: int, fov_y_deg: float = 45.0, aspect: float | None = None
    ) -> Intrinsics:
        """A centred camera.

        Args:
            width: pixels.
            height: pixels.
            fov_y_deg: angle that the height spans.
            aspect: width / height of the view that is squashed into the picture, 4 / 3 for a VGA
                camera; None: square pixels.
        """
        fy = 0.5 * height / np.tan(np.radians(fov_y_deg) / 2)
        fx = fy if aspect is None else fy * width / (height * aspect)
        return cls(width=width, height=height, fx=float(fx), fy=float(fy))

    @property
    def k(self) -> tuple[float, ...]:
        """Row-major 3 x 3 as in sensor_msgs/CameraInfo, where pixel centres are integers."""
        cx, cy = self.width / 2 - 0.5, self.height / 2 - 0.5
        return (self.fx, 0.0, cx, 0.0, self.fy, cy, 0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A rendered picture with its ground truth."""

    #: uint8 [H, W, 3].
    rgb: npt.NDArray[np.uint8]
    #: uint8 [H, W]; 0: none, j: scene.objects[j - 1].
    instances: npt.NDArray[np.uint8]
    #: float32 [H, W] metres along the optical axis; 0: nothing there.
    depth_m: npt.NDArray[np.float32]
    #: float32 [J]; visible pixels / pixels if the object stood alone and the picture had no border.
    visible_fraction: npt.NDArray[np.float32]


class Surfaces:
    """What can be seen in a scene, under numbers.

    Attributes:
        drawn: objects first, then clutter, in the order of the codes.
        first_code: of each drawn item's parts.
        palette: float32 [C, 3] colour of every surface code; textured ones aside.
        owner: uint8 [C] instance number of every surface code, 0 for none.
    """

    def __init__(self, scene: Scene) -> None:
        self.drawn: list[Item] = [*scene.items, *scene.clutter]
        palettes = [np.full((FIRST_PART, 3), GREY, np.float32)]
        owners = [np.zeros(FIRST_PART, np.uint8)]
        self.first_code: list[int] = []
        code = FIRST_PART
        for j, item in enumerate(self.drawn):
            self.first_code.append(code)
            code += len(item.palette)
            palettes.append(item.palette)
            label = j + 1 if j < len(scene.items) else 0
            owners.append(np.full(len(item.palette), label, np.uint8))
        self.palette = np.concatenate(palettes).astype(np.float32, copy=False)
        self.palette[TABLE_SIDE] = np.array(cv2.mean(scene.room.table)[:3]) * (SIDE_SHADE / 255)
        self.owner = np.concatenate(owners)
