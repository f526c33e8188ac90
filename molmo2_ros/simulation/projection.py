"""Where things fall in pictures drawn by GL: matrices on columns (x, y, z, 1), float64 [4, 4].

Rows of a picture go down, as everywhere here: GL's y is our v, and the first row read is the top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molmo2_ros.simulation.view import Intrinsics
from molmo2_ros.simulation.world import CameraPose, Item

Matrix = npt.NDArray[np.float64]

_NEAR_M, _FAR_M = 0.02, 200.0
_LAMP_NEAR_M = 0.05
_LAMP_REACH = 0.84  # tangent of the widest angle to the lamp's axis at which shadows are cast
_MARGIN = 0.01  # of the lamp's picture round what casts shadows, so that its border is lit


@dataclass(frozen=True, slots=True)
class LampView:
    """The picture that the lamp has of what casts shadows."""

    clip_from_world: Matrix
    #: A point's depth in 0..1 is depth[0] + depth[1] / its metres along the lamp's axis.
    depth: tuple[float, float]


def world_from_item(item: Item) -> Matrix:
    """Shape to world."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = item.rotation, item.position
    return matrix


def optical_from_world(camera: CameraPose) -> Matrix:
    """World to the camera's optical frame."""
    return _inverse(camera.rotation, camera.position)


def clip_from_optical(intrinsics: Intrinsics, times: int = 1) -> Matrix:
    """The pinhole camera; with `times`, of a picture so many times as wide and high about it."""
    i = intrinsics
    x, y = 2 * i.fx / (times * i.width), 2 * i.fy / (times * i.height)
    return _perspective((-1 / x, 1 / x), (-1 / y, 1 / y), _NEAR_M, _FAR_M)


def lamp_view(lamp: npt.NDArray[np.float64], items: Sequence[Item]) -> LampView:
    """The narrowest picture from the lamp that holds the items, or most of those close to it.

    Args:
        lamp: [3] metres, above the table.
        items: those not present are left out.
    """
    forward = -lamp / np.linalg.norm(lamp)
    right = np.cross(forward, np.eye(3)[np.abs(forward).argmin()])
    right /= np.linalg.norm(right)
    from_lamp = np.stack([right, np.cross(forward, right), forward], axis=1)
    corners = [
        item.shape.corners @ item.rotation.T + item.position for item in items if item.present
    ]
    x, y, z = ((np.concatenate([np.zeros((1, 3)), *corners]) - lamp) @ from_lamp).T
    near, far = max(float(z.min()), _LAMP_NEAR_M), float(z.max()) + _MARGIN
    z = np.maximum(z, _LAMP_NEAR_M)
    projection = _perspective(_span(x / z), _span(y / z), near, far)
    depth = 0.5 + 0.5 * projection[2, 2], 0.5 * projection[2, 3]
    return LampView(projection @ _inverse(from_lamp, lamp), depth)


def _span(tangents: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(tangents.min()) - _MARGIN, float(tangents.max()) + _MARGIN
    return max(low, -_LAMP_REACH), min(high, _LAMP_REACH)


def _perspective(
    across: tuple[float, float], along: tuple[float, float], near: float, far: float
) -> Matrix:
    """A camera that sees x / z and y / z between bounds, and z between near and far."""
    (left, right), (top, bottom) = across, along
    return np.array(
        [
            [2 / (right - left), 0, -(right + left) / (right - left), 0],
            [0, 2 / (bottom - top), -(bottom + top) / (bottom - top), 0],
            [0, 0, (far + near) / (far - near), -2 * far * near / (far - near)],
            [0, 0, 1, 0],
        ]
    )


def _inverse(rotation: npt.NDArray[np.float64], position: npt.NDArray[np.float64]) -> Matrix:
    """World to a frame that stands at `position`, turned by `rotation`."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation.T, -rotation.T @ position
    return matrix
