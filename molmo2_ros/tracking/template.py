"""The looks of a point: a small picture that turns and grows with it.

Letters: N points, P samples along a side.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
Complex = npt.NDArray[np.complex128]

TEMPLATE_SIDE = 15
TEMPLATE_STEP_PX = 2.0
NOISE_VARIANCE = 30.0  # grey levels squared; contrast below this says nothing about likeness
JUMP = (25.0, 75.0)  # grey levels: brighter or darker by the first is fine, by the second another


def sample_template(grey: npt.NDArray[np.uint8], points_N2: F64, turn_N: Complex) -> F32:
    """The picture round each point, turned and scaled with it, float32 [N, P, P]."""
    if not len(points_N2):
        return np.zeros((0, TEMPLATE_SIDE, TEMPLATE_SIDE), np.float32)
    line = (np.arange(TEMPLATE_SIDE) - TEMPLATE_SIDE // 2) * TEMPLATE_STEP_PX
    offsets_PP = line[None, :] + 1j * line[:, None]
    centres_N = points_N2[:, 0] + 1j * points_N2[:, 1]
    places_NPP = centres_N[:, None, None] + turn_N[:, None, None] * offsets_PP
    rows = places_NPP.reshape(-1, TEMPLATE_SIDE)
    sampled = cv2.remap(
        grey,
        rows.real.astype(np.float32),
        rows.imag.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(sampled, np.float32).reshape(-1, TEMPLATE_SIDE, TEMPLATE_SIDE)


def likeness(first_NPP: F32, second_NPP: F32, brighter_N: F64) -> F64:
    """How far two pictures of a point show the same: contrast and structure of SSIM, 0..1.

    A blank spot that stays blank is alike. A blank spot that gets texture is not, nor is one whose
    brightness jumps more than the whole picture's did.

    Args:
        first_NPP: grey levels.
        second_NPP: grey levels.
        brighter_N: by how much the whole second picture is brighter than the first.
    """
    first = first_NPP.reshape(len(first_NPP), -1).astype(np.float64)
    second = second_NPP.reshape(len(second_NPP), -1).astype(np.float64)
    mean_first, mean_second = first.mean(axis=1), second.mean(axis=1)
    covariance = ((first - mean_first[:, None]) * (second - mean_second[:, None])).mean(axis=1)
    contrast = first.var(axis=1) + second.var(axis=1)
    structure = (2 * covariance + NOISE_VARIANCE) / (contrast + NOISE_VARIANCE)
    jump = np.abs(mean_second - mean_first - brighter_N)
    unlike = np.clip((jump - JUMP[0]) / (JUMP[1] - JUMP[0]), 0, 1)
    return np.asarray(np.clip(structure, 0, 1) * (1 - unlike))
