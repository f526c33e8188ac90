"""The one motion that most of a point's features agree on.

Letters: N points, K features round each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Complex = npt.NDArray[np.complex128]

AGREE_PX = 2.0  # motions that differ less belong to one group before the similarity is fitted
RESIDUAL_PX = 1.0  # and after
MIN_FEATURES = 4  # fewer do not carry a point
MAX_TURN = 0.3  # change of scale or rotation (radians) in one step that no camera exceeds


def nearness(features_NK2: F32, points_N2: F64, radius_px: float) -> F64:
    """Gaussian weights: a feature at the radius counts a tenth of one at the point."""
    square_NK = ((features_NK2 - points_N2[:, None]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-2.3 * square_NK / radius_px**2), np.float64)


def largest_group(motion_NK2: F32, found_NK: Bool, weight_NK: F64) -> Bool:
    """For each point the features that move with the best supported one."""
    x_NK, y_NK = motion_NK2[..., 0], motion_NK2[..., 1]
    x_NKK, y_NKK = (along[:, :, None] - along[:, None] for along in (x_NK, y_NK))
    near_NKK = (
        (x_NKK * x_NKK + y_NKK * y_NKK < AGREE_PX**2) & found_NK[:, None] & found_NK[:, :, None]
    )
    support_NK = (near_NKK * weight_NK[:, None]).sum(axis=2)
    leader_N = support_NK.argmax(axis=1)
    return np.asarray(near_NKK[np.arange(len(leader_N)), leader_N])


def fit_similarity(
    points_N2: F64, start_NK2: F32, end_NK2: F32, found_NK: Bool, agreed_NK: Bool, weight_NK: F64
) -> tuple[Complex, F64, Bool]:
    """Weighted similarity of each group, twice: the second time on all that fit the first.

    Args:
        points_N2: where the points stood, pixels.
        start_NK2: where the features stood, pixels.
        end_NK2: where they went.
        found_NK: features to be believed.
        agreed_NK: the group to begin with.
        weight_NK: of each feature.

    Returns:
        scale and rotation [N] as complex numbers, the points' new places [N, 2], and the features
        that fit the motion [N, K].
    """
    start_NK = start_NK2[..., 0] + 1j * start_NK2[..., 1].astype(np.float64)
    end_NK = end_NK2[..., 0] + 1j * end_NK2[..., 1].astype(np.float64)
    point_N = points_N2[:, 0] + 1j * points_N2[:, 1]
    turn_N = np.ones(len(points_N2), np.complex128)
    place_N = point_N
    for _ in range(2):
        share_NK = weight_NK * agreed_NK
        total_N = np.maximum(share_NK.sum(axis=1), 1e-9)
        middle_N = (share_NK * start_NK).sum(axis=1) / total_N
        end_middle_N = (share_NK * end_NK).sum(axis=1) / total_N
        centred_NK = start_NK - middle_N[:, None]
        spread_N = (share_NK * np.abs(centred_NK) ** 2).sum(axis=1)
        turn_N = (share_NK * centred_NK.conj() * (end_NK - end_middle_N[:, None])).sum(axis=1)
        turn_N = turn_N / np.maximum(spread_N, 1e-9)
        # Few or crowded features say nothing about rotation: their mean motion carries the point.
        plain_N = (
            (agreed_NK.sum(axis=1) < MIN_FEATURES)
            | (spread_N < 4.0 * total_N)
            | (np.abs(turn_N - 1.0) > MAX_TURN)
        )
        turn_N = np.where(plain_N, 1.0 + 0j, turn_N)
        place_N = end_middle_N + turn_N * (point_N - middle_N)
        expected_NK = end_middle_N[:, None] + turn_N[:, None] * centred_NK
        agreed_NK = found_NK & (np.abs(expected_NK - end_NK) < RESIDUAL_PX)
    place_N = np.where(agreed_NK.any(axis=1), place_N, point_N)
    return turn_N, np.stack([place_N.real, place_N.imag], axis=1), agreed_NK
