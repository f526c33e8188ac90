"""Points carried from frame to frame by the small features round them.

Letters: N points, K features round each, P samples along a side of a template. Functions on a
frame's grey picture count pixels of that picture (grey.py).

A point is not tracked itself: it may lie on a smooth spot. Up to K corners in a window round it are
tracked forward and back by pyramidal Lucas-Kanade; those that come back agree on one motion (the
largest group, near features count more), and a similarity fitted to them moves the point. Where
there is nothing to hold on to, the motion of the whole picture carries the point at low quality.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.tracking.grey import GreyFrame
from molmo2_ros.tracking.motion import (
    F32,
    F64,
    MIN_FEATURES,
    Bool,
    Complex,
    fit_similarity,
    largest_group,
    nearness,
)
from molmo2_ros.tracking.template import TEMPLATE_SIDE, likeness, sample_template

CELLS = 4  # a window is cut into CELLS x CELLS cells with at most one feature each: K = 16
CELL_PX = 10
RADIUS_PX = CELLS * CELL_PX // 2  # half a window
LK_WINDOW = 11  # pixels; 15 costs 3.5 times as much at no gain (measured, VGA)
LK_LEVELS = 3
CORNER_FLOOR = 1.2e-4  # of cv2.cornerMinEigenVal: noise of 4 grey levels gives 1e-4, edges more
RETURN_PX = 1.0  # a feature must come back this near to where it started
FULL_FEATURES = 6  # so many agreeing features give full quality
SCENE_QUALITY = 0.35  # quality of a point that the whole picture's motion carries
KEEP_LIKENESS = 0.6  # below this neither features nor template are renewed: it may be an occluder


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """N points on one frame with what is needed to find them in the next."""

    points_N2: F64  # grey pixels
    features_NK2: F32  # grey pixels
    alive_NK: Bool
    turn_N: Complex  # scale and rotation since the point was seeded
    template_NPP: F32  # grey levels as first seen, slowly renewed
    brightness_N: F64  # of the template's picture
    quality_N: F64  # 0..1

    def __len__(self) -> int:
        return len(self.points_N2)

    def take(self, rows: npt.NDArray[np.intp] | list[int]) -> Patches:
        """Some of the points."""
        index = np.asarray(rows, np.intp)
        return replace(
            self, **{field.name: getattr(self, field.name)[index] for field in fields(self)}
        )

    @staticmethod
    def joined(first: Patches, second: Patches) -> Patches:
        """The points of both, which stand on the same frame."""
        return Patches(
            **{
                field.name: np.concatenate(
                    [getattr(first, field.name), getattr(second, field.name)]
                )
                for field in fields(Patches)
            }
        )


def seed(frame: GreyFrame, points_N2: F64) -> Patches:
    """Choose features round points.

    Args:
        frame: the picture that the points speak of.
        points_N2: grey pixels, float64 [N, 2].
    """
    points_N2 = np.asarray(points_N2, np.float64).reshape(-1, 2)
    num = len(points_N2)
    turn_N = np.ones(num, np.complex128)
    features_NK2 = np.zeros((num, CELLS * CELLS, 2), np.float32)
    alive_NK = np.zeros((num, CELLS * CELLS), np.bool_)
    for row, point in enumerate(points_N2):
        features_NK2[row], alive_NK[row] = _corners(frame.grey, point)
    return Patches(
        points_N2=points_N2,
        features_NK2=features_NK2,
        alive_NK=alive_NK,
        turn_N=turn_N,
        template_NPP=sample_template(frame.grey, points_N2, turn_N),
        brightness_N=np.full(num, frame.brightness),
        quality_N=np.where(alive_NK.sum(axis=1) < MIN_FEATURES, SCENE_QUALITY, 1.0),
    )


def no_patches() -> Patches:
    """Nothing to carry."""
    return Patches(
        points_N2=np.zeros((0, 2)),
        features_NK2=np.zeros((0, CELLS * CELLS, 2), np.float32),
        alive_NK=np.zeros((0, CELLS * CELLS), np.bool_),
        turn_N=np.ones(0, np.complex128),
        template_NPP=np.zeros((0, TEMPLATE_SIDE, TEMPLATE_SIDE), np.float32),
        brightness_N=np.zeros(0),
        quality_N=np.zeros(0),
    )


def carry(patches: Patches, before: GreyFrame, after: GreyFrame) -> Patches:
    """Move points from one frame to a later one.

    Args:
        patches: points on `before`.
        before: the frame that they stand on.
        after: a frame of the same size.

    Returns:
        the points on `after`; their quality falls where features were lost, disagreed, or the
        picture round the point is no longer the one that was seeded.
    """
    if not len(patches):
        return patches
    exposed = after.exposed_as(before)
    moved_NK2, found_NK = _follow(before.grey, exposed, patches.features_NK2, patches.alive_NK)
    weight_NK = nearness(patches.features_NK2, patches.points_N2, RADIUS_PX)
    agreed_NK = largest_group(moved_NK2 - patches.features_NK2, found_NK, weight_NK)
    turn_N, points_N2, agreed_NK = fit_similarity(
        patches.points_N2, patches.features_NK2, moved_NK2, found_NK, agreed_NK, weight_NK
    )
    had_N = (weight_NK * patches.alive_NK).sum(axis=1)
    share_N = (weight_NK * agreed_NK).sum(axis=1) / np.maximum(had_N, 1e-9)
    num_N = agreed_NK.sum(axis=1)
    held_N = num_N >= MIN_FEATURES
    agreement_N = np.sqrt(share_N) * np.minimum(1.0, num_N / FULL_FEATURES)
    if not held_N.all():
        scene_turn, scene_N2, scene_share = _scene_motion(before.grey, exposed, patches.points_N2)
        points_N2 = np.where(held_N[:, None], points_N2, scene_N2)
        turn_N = np.where(held_N, turn_N, scene_turn)
        agreement_N = np.where(held_N, agreement_N, SCENE_QUALITY * scene_share)
        agreed_NK &= held_N[:, None]
    turn_N = patches.turn_N * turn_N
    return _settle(patches, after, points_N2, turn_N, moved_NK2, agreed_NK, agreement_N)


def _settle(
    patches: Patches,
    after: GreyFrame,
    points_N2: F64,
    turn_N: Complex,
    features_NK2: F32,
    alive_NK: Bool,
    agreement_N: F64,
) -> Patches:
    """Judge the new places by their looks, and renew features where they look right."""
    sampled_NPP = sample_template(after.grey, points_N2, turn_N)
    likeness_N = likeness(
        patches.template_NPP, sampled_NPP, after.brightness - patches.brightness_N
    )
    like_N = likeness_N > KEEP_LIKENESS
    features_NK2 = features_NK2.copy()
    for row in np.flatnonzero(like_N & (alive_NK.sum(axis=1) < CELLS * CELLS // 2)):
        corners_K2, corner_K = _corners(after.grey, points_N2[row])
        taken = _cells(features_NK2[row], points_N2[row])[alive_NK[row]]
        free_K = corner_K.copy()
        free_K[taken[taken >= 0]] = False
        # Cells number the slots only at seeding; afterwards any dead slot will do.
        slots = np.flatnonzero(~alive_NK[row])[: int(free_K.sum())]
        features_NK2[row, slots] = corners_K2[free_K][: len(slots)]
        alive_NK[row, slots] = True
    blend_N11 = np.where(like_N, 0.1, 0.0)[:, None, None].astype(np.float32)
    return Patches(
        points_N2=points_N2,
        features_NK2=features_NK2,
        alive_NK=alive_NK,
        turn_N=turn_N,
        template_NPP=patches.template_NPP + blend_N11 * (sampled_NPP - patches.template_NPP),
        brightness_N=patches.brightness_N
        + blend_N11[:, 0, 0] * (after.brightness - patches.brightness_N),
        quality_N=np.clip(agreement_N * likeness_N, 0.0, 1.0),
    )


def _corners(grey: npt.NDArray[np.uint8], point: F64) -> tuple[F32, Bool]:
    """The best corner of each cell round a point: [K, 2] and which of them are corners at all."""
    height, width = grey.shape
    left, top = (int(round(value)) - RADIUS_PX for value in point)
    margin = 3
    side = 2 * RADIUS_PX
    # The window with a margin, cut at the image's edge; outside there is no corner.
    x0, y0 = max(0, left - margin), max(0, top - margin)
    x1, y1 = min(width, left + side + margin), min(height, top + side + margin)
    score = np.zeros((side, side), np.float32)
    if x1 - x0 > 2 * margin and y1 - y0 > 2 * margin:
        found = cv2.cornerMinEigenVal(grey[y0:y1, x0:x1], 5)
        inner = (max(x0, left), max(y0, top), min(x1, left + side), min(y1, top + side))
        score[inner[1] - top : inner[3] - top, inner[0] - left : inner[2] - left] = found[
            inner[1] - y0 : inner[3] - y0, inner[0] - x0 : inner[2] - x0
        ]
    cells = score.reshape(CELLS, CELL_PX, CELLS, CELL_PX).transpose(0, 2, 1, 3)
    flat = cells.reshape(CELLS * CELLS, CELL_PX * CELL_PX)
    best = flat.argmax(axis=1)
    cell = np.arange(CELLS * CELLS)
    x = left + (cell % CELLS) * CELL_PX + best % CELL_PX
    y = top + (cell // CELLS) * CELL_PX + best // CELL_PX
    return np.stack([x, y], axis=1).astype(np.float32), flat[cell, best] > CORNER_FLOOR


def _cells(features_K2: F32, point: F64) -> npt.NDArray[np.intp]:
    """Which cell of the window round `point` each feature lies in, -1 outside."""
    offset = np.floor((features_K2 - np.round(point) + RADIUS_PX) / CELL_PX).astype(np.intp)
    inside = ((offset >= 0) & (offset < CELLS)).all(axis=1)
    return np.where(inside, offset[:, 1] * CELLS + offset[:, 0], -1)


def _follow(
    before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8], features_NK2: F32, alive_NK: Bool
) -> tuple[F32, Bool]:
    """Lucas-Kanade there and back: new places, and which of them are to be believed."""
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


def _lucas_kanade(
    before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8], points: F32
) -> tuple[F32, Bool]:
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        points,
        points.copy(),
        winSize=(LK_WINDOW, LK_WINDOW),
        maxLevel=LK_LEVELS,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 0.02),
    )
    return np.asarray(moved, np.float32), status.reshape(-1).astype(np.bool_)


def _scene_motion(
    before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8], points_N2: F64
) -> tuple[complex, F64, float]:
    """How the whole picture moved: turn, new places, and the share of the grid that says so."""
    height, width = before.shape
    x, y = np.meshgrid(np.linspace(0.06, 0.94, 10) * width, np.linspace(0.06, 0.94, 8) * height)
    grid_1K2 = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)[None]
    moved_1K2, found_1K = _follow(before, after, grid_1K2, np.ones((1, 80), np.bool_))
    if found_1K.sum() < 8:
        return 1.0 + 0j, points_N2, 0.0
    matrix, inlier = cv2.estimateAffinePartial2D(
        grid_1K2[found_1K], moved_1K2[found_1K], method=cv2.RANSAC, ransacReprojThreshold=1.5
    )
    if not np.any(inlier):
        return 1.0 + 0j, points_N2, 0.0
    places = points_N2 @ matrix[:, :2].T + matrix[:, 2]
    return complex(matrix[0, 0], matrix[1, 0]), places, float(np.mean(inlier))
