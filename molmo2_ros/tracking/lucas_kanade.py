"""Features followed from one picture to the next, and back for proof.

Letters: N points, K features round each.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.tracking.motion import F32, Bool

U8 = npt.NDArray[np.uint8]

WINDOW = 11  # pixels; 15 costs 3.5 times as much at no gain (measured, VGA)
LEVELS = 3
END_PX = 0.02  # a feature that moves by less from step to step has arrived
RETURN_PX = 1.0  # a feature must come back this near to where it started


def follow(before: U8, after: U8, features_NK2: F32, alive_NK: Bool) -> tuple[F32, Bool]:
    """Pyramidal Lucas-Kanade there and back.

    Args:
        before: grey picture.
        after: one of the same size and exposure.
        features_NK2: pixels.
        alive_NK: those to follow.

    Returns:
        the new places, and which of them are to be believed: features that came back and are
        still inside.
    """
    moved_NK2 = features_NK2.copy()
    found_NK = np.zeros_like(alive_NK)
    start = np.ascontiguousarray(features_NK2[alive_NK])
    if not len(start):
        return moved_NK2, found_NK
    there, there_ok = _lucas_kanade(before, after, start)
    back, back_ok = _lucas_kanade(after, before, there)
    height, width = after.shape
    inside = ((there >= 0) & (there <= (width - 1, height - 1))).all(axis=1)
    returned = np.linalg.norm(back - start, axis=1) < RETURN_PX
    moved_NK2[alive_NK] = there
    found_NK[alive_NK] = there_ok & back_ok & returned & inside
    return moved_NK2, found_NK


def _lucas_kanade(before: U8, after: U8, points: F32) -> tuple[F32, Bool]:
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        points,
        points.copy(),
        winSize=(WINDOW, WINDOW),
        maxLevel=LEVELS,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, END_PX),
    )
    return np.asarray(moved, np.float32), status.reshape(-1).astype(np.bool_)
