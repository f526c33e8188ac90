"""From a pixel and a depth image to metres in the camera's optical frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.frame import CameraModel, Frame

WINDOW_SHARE = 0.012  # half the window's side as a share of the depth image's width
MIN_RADIUS_PX = 3
MIN_VALID = 0.2  # share of the window's pixels that must know their depth
MIN_SURFACE = 0.2  # share of the known pixels that make a surface rather than noise
GAP_SHARE = 0.03  # a step in depth larger than this share of it separates two surfaces
MIN_GAP_M = 0.015
MAX_UNDISTORTION_ERROR_PX = 2.0
MIN_STD_M = 0.001 / math.sqrt(12)  # what the millimetre steps of 16UC1 alone come to
FISHEYE = frozenset({"equidistant", "fisheye"})
# Numbers of coefficients that each model may have; sensor_msgs/distortion_models.hpp and OpenCV.
NUM_COEFFICIENTS = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
    "fisheye": (4,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A pixel lifted to space."""

    point_m: tuple[float, float, float]  # x right, y down, z forward (REP 103)
    z_std_m: float  # standard deviation of the depth on the surface, robust; never 0


class Blank(Enum):
    """Why a pixel of a frame with depth and optics has no place in space."""

    OUTSIDE = "outside"  # the depth image does not reach there
    HOLE = "hole"  # nothing round it is known
    SPARSE = "sparse"  # too little round it is known to tell a surface from noise
    RAY = "ray"  # its distortion cannot be undone


def lift(frame: Frame, u: float, v: float) -> Sighting | None:
    """Where the surface under a pixel is.

    The depth is the median of the nearest surface in a window round the pixel, so that neither a
    hole nor the background behind an object's edge moves the point.

    Args:
        frame: with depth in metres, registered to the image, and the image's intrinsics.
        u: pixels of the image.
        v: pixels of the image.

    Returns:
        None when it cannot be known: no depth image, no intrinsics, or as `why_blank` says.
    """
    if frame.depth_m is None or frame.camera is None:
        return None
    ray = pixel_ray(frame.camera, u, v, frame.width, frame.height)
    depth = surface_depth(frame.depth_m, u, v, frame.width, frame.height)
    if ray is None or isinstance(depth, Blank):
        return None
    z_m, z_std_m = depth
    return Sighting(point_m=(ray[0] * z_m, ray[1] * z_m, z_m), z_std_m=z_std_m)


def why_blank(frame: Frame, u: float, v: float) -> Blank | None:
    """Why `lift` gives nothing for a pixel of a frame that has depth and intrinsics.

    Returns:
        None where it gives something, or where the frame lacks one of the two.
    """
    if frame.depth_m is None or frame.camera is None:
        return None
    if pixel_ray(frame.camera, u, v, frame.width, frame.height) is None:
        return Blank.RAY
    depth = surface_depth(frame.depth_m, u, v, frame.width, frame.height)
    return depth if isinstance(depth, Blank) else None


def surface_depth(
    depth_m: npt.NDArray[np.float32], u: float, v: float, width: int, height: int
) -> tuple[float, float] | Blank:
    """Depth of the nearest surface round a pixel.

    Args:
        depth_m: [Hd, Wd] metres; 0, negative, NaN and inf are unknown. Another size than the image
            is taken as the same view, scaled.
        u: pixels of the image.
        v: pixels of the image.
        width: of the image, pixels.
        height: of the image, pixels.

    Returns:
        metres along the optical axis and their robust standard deviation, or why they are unknown.
        The window grows once to four times its area before giving up.
    """
    rows, columns = depth_m.shape
    column = (u + 0.5) * columns / width - 0.5
    row = (v + 0.5) * rows / height - 0.5
    if not (-0.5 <= column <= columns - 0.5 and -0.5 <= row <= rows - 0.5):
        return Blank.OUTSIDE
    radius = max(MIN_RADIUS_PX, round(WINDOW_SHARE * columns))
    blank = Blank.HOLE
    for reach in (radius, 2 * radius):
        top, left = max(0, round(row) - reach), max(0, round(column) - reach)
        window = depth_m[top : round(row) + reach + 1, left : round(column) + reach + 1]
        known = window[np.isfinite(window) & (window > 0)]
        if known.size >= max(5, MIN_VALID * window.size):
            return _nearest_surface(np.sort(known.astype(np.float64)))
        blank = Blank.SPARSE if known.size else Blank.HOLE
    return blank


def _nearest_surface(depths_m: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Median and standard deviation of the first group of sorted depths that is large enough."""
    steps = np.diff(depths_m) > np.maximum(MIN_GAP_M, GAP_SHARE * depths_m[:-1])
    ends = [0, *(np.flatnonzero(steps) + 1), depths_m.size]
    surfaces = [depths_m[first:last] for first, last in zip(ends, ends[1:], strict=False)]
    enough = MIN_SURFACE * depths_m.size
    surface = next((s for s in surfaces if s.size >= enough), max(surfaces, key=len))
    middle = _median(surface)
    return middle, max(MIN_STD_M, 1.4826 * _median(np.sort(np.abs(surface - middle))))


def _median(sorted_values: npt.NDArray[np.float64]) -> float:
    """As np.median, which takes longer than all the rest on so few values."""
    num = sorted_values.size
    return float(sorted_values[(num - 1) // 2] + sorted_values[num // 2]) / 2


def pixel_ray(
    camera: CameraModel, u: float, v: float, width: int, height: int
) -> tuple[float, float] | None:
    """Slopes x / z and y / z of the ray through a pixel, distortion removed.

    Args:
        camera: intrinsics for an image of camera.width x camera.height.
        u: pixels of the image at hand.
        v: pixels of the image at hand.
        width: of the image at hand; may differ from the calibrated one by scale.
        height: of the image at hand.

    Returns:
        None for an uncalibrated camera (fx or fy is 0), a distortion that `knows_distortion` does
        not know, or where the undistortion diverges.
    """
    if len(camera.k) != 9 or not (camera.k[0] > 0 and camera.k[4] > 0):
        return None
    if not knows_distortion(camera):
        return None
    matrix = np.array(camera.k, np.float64).reshape(3, 3)
    pixel = np.array([[[u, v]]], np.float64)
    if camera.width and camera.height:
        scale = (camera.width / width, camera.height / height)
        pixel = (pixel + 0.5) * scale - 0.5
    distortion = np.array(camera.d, np.float64)
    if not distortion.any():
        x, y = (pixel[0, 0] - matrix[:2, 2]) / (matrix[0, 0], matrix[1, 1])
    else:
        lens = cv2.fisheye if camera.distortion_model in FISHEYE else cv2
        x, y = lens.undistortPoints(pixel, matrix, distortion)[0, 0]
        ray = np.array([[[x, y, 1.0]]])
        # Beyond the lens's own field the iteration ends anywhere: only the way back shows it.
        back, _ = lens.projectPoints(ray, np.zeros(3), np.zeros(3), matrix, distortion)
        if not np.abs(back.reshape(2) - pixel[0, 0]).max() <= MAX_UNDISTORTION_ERROR_PX:
            return None
    return (float(x), float(y)) if math.isfinite(x) and math.isfinite(y) else None


def knows_distortion(camera: CameraModel) -> bool:
    """Whether the camera's distortion can be removed: none at all, or a known model's."""
    expected = NUM_COEFFICIENTS.get(camera.distortion_model, ())
    return not any(camera.d) or len(camera.d) in expected
