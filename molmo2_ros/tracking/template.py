"""The looks of a point: a small picture that turns and grows with it, and its colour.

Letters: N points, P samples along a side. The middle of a template counts most: there the thing is,
at the rim there may be background.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.tracking.motion import F32, F64, Bool, Complex

U8 = npt.NDArray[np.uint8]

TEMPLATE_SIDE = 15
TEMPLATE_STEP_PX = 2.0
WEIGHT_SIGMA_PX = 8.0
NOISE_VARIANCE = 30.0  # grey levels squared; contrast below this says nothing about likeness
JUMP = (25.0, 75.0)  # grey levels: brighter or darker by the first is fine, by the second another
COLOUR_JUMP = (20.0, 50.0)  # the same for a channel of the colour
REACH_PX = 6.0  # how far a point is drawn towards its template
MAX_REACH_TURN = 0.3  # change of scale or rotation, radians, on the way there
ALIGN_STEPS = 2
DAMPING = 0.5  # squared grey levels a pixel, so that a template of little texture takes small steps
SEARCH_PX = 40.0  # a thing of 600 px/s moves 20 px a frame, and the camera moves too
TEXTURE_FLOOR = 2.0  # squared grey levels a pixel; sensor noise of 4 grey levels gives 1

_LINE = (np.arange(TEMPLATE_SIDE) - TEMPLATE_SIDE // 2) * TEMPLATE_STEP_PX
_OFFSETS_PP = _LINE[None, :] + 1j * _LINE[:, None]
_WEIGHTS = np.exp(-0.5 * np.abs(_OFFSETS_PP.ravel()) ** 2 / WEIGHT_SIGMA_PX**2)
_WEIGHTS = np.asarray(_WEIGHTS / _WEIGHTS.sum(), np.float32)
_TURN_SCALE = 0.1  # a turn of a tenth moves the template's middle ring by about a pixel


def sample_template(grey: U8, points_N2: F64, turn_N: Complex) -> F32:
    """The picture round each point, turned and scaled with it, float32 [N, P, P]."""
    if not len(points_N2):
        return np.zeros((0, TEMPLATE_SIDE, TEMPLATE_SIDE), np.float32)
    centres_N = points_N2[:, 0] + 1j * points_N2[:, 1]
    places_NPP = centres_N[:, None, None] + turn_N[:, None, None] * _OFFSETS_PP
    rows = places_NPP.reshape(-1, TEMPLATE_SIDE)
    sampled = cv2.remap(
        grey,
        rows.real.astype(np.float32),
        rows.imag.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(sampled, np.float32).reshape(-1, TEMPLATE_SIDE, TEMPLATE_SIDE)


def sample_colours(colours: U8, places_N2: F64) -> F32:
    """Colours at places between the squares of a coarse picture, float32 [N, 3]."""
    if not len(places_N2):
        return np.zeros((0, 3), np.float32)
    sampled = cv2.remap(
        colours,
        places_N2[None, :, 0].astype(np.float32),
        places_N2[None, :, 1].astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(sampled[0], np.float32)


def likeness(first_NPP: F32, second_NPP: F32) -> F64:
    """How far two pictures of a point show the same: contrast and structure of SSIM, 0..1.

    A blank spot that stays blank is alike. A blank spot that gets texture is not, nor is one whose
    brightness jumps.

    Args:
        first_NPP: grey levels.
        second_NPP: grey levels at the exposure of the first.
    """
    first = first_NPP.reshape(len(first_NPP), -1)
    second = second_NPP.reshape(len(second_NPP), -1)
    mean_first, mean_second = first @ _WEIGHTS, second @ _WEIGHTS
    first, second = first - mean_first[:, None], second - mean_second[:, None]
    covariance = (first * second) @ _WEIGHTS
    contrast = (first * first + second * second) @ _WEIGHTS
    structure = (2.0 * covariance + NOISE_VARIANCE) / (contrast + NOISE_VARIANCE)
    same = alike(np.asarray(mean_first - mean_second, np.float64))
    return np.asarray(np.clip(structure, 0, 1), np.float64) * same


def alike(difference: F64, jump: tuple[float, float] = JUMP) -> F64:
    """1 for a small difference of grey levels, 0 for one that only another thing makes."""
    return np.asarray(np.clip((jump[1] - np.abs(difference)) / (jump[1] - jump[0]), 0, 1))


def textured(template_NPP: F32) -> Bool:
    """Whether a template holds a point in both directions: not on a blank spot or along an edge."""
    slope_x, slope_y = _slopes(template_NPP)
    xx, yy, xy = (
        product @ _WEIGHTS for product in (slope_x * slope_x, slope_y * slope_y, slope_x * slope_y)
    )
    least = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    return np.asarray(least > TEXTURE_FLOOR)


def align(
    grey: U8, gain_N: F64, template_NPP: F32, holds_N: Bool, points_N2: F64, turn_N: Complex
) -> tuple[F64, Complex, F64]:
    """Draw points to where the picture is most like their templates (Gauss-Newton, a few steps).

    Source: Baker and Matthews, "Lucas-Kanade 20 years on" (2004), inverse compositional algorithm.

    Args:
        grey: the picture.
        gain_N: its exposure relative to each template's.
        template_NPP: grey levels.
        holds_N: templates with texture; the others stay where they are.
        points_N2: where to begin, pixels of `grey`.
        turn_N: scale and rotation to begin with.

    Returns:
        the best places met, REACH_PX away at most, with their turns and likenesses.
    """
    jacobian = _jacobian(template_NPP)
    weighted = (jacobian * _WEIGHTS[None, :, None]).transpose(0, 2, 1)
    hessian = weighted @ jacobian + DAMPING * np.eye(4, dtype=np.float32)
    template = template_NPP.reshape(len(template_NPP), -1)
    begin_N = places_N = points_N2[:, 0] + 1j * points_N2[:, 1]
    begin_turn_N = turn_N
    best_N, best_turn_N = places_N, turn_N
    best_like_N = np.full(len(points_N2), -1.0)
    for step in range(ALIGN_STEPS + 1):
        sampled_NPP = sample_template(
            grey, np.stack([places_N.real, places_N.imag], axis=1), turn_N
        )
        sampled_NPP /= gain_N[:, None, None].astype(np.float32)
        like_N = likeness(template_NPP, sampled_NPP)
        better_N = like_N > best_like_N
        best_N = np.where(better_N, places_N, best_N)
        best_turn_N = np.where(better_N, turn_N, best_turn_N)
        best_like_N = np.where(better_N, like_N, best_like_N)
        if step == ALIGN_STEPS:
            break
        error = sampled_NPP.reshape(template.shape) - template
        error -= (error @ _WEIGHTS)[:, None]
        change = -np.linalg.solve(hessian, weighted @ error[..., None])
        shift_N = change[:, 0, 0] + 1j * change[:, 1, 0]
        grown_N = _TURN_SCALE * (change[:, 2, 0] + 1j * change[:, 3, 0])
        next_N, next_turn_N = places_N + turn_N * shift_N, turn_N * (1 + grown_N)
        near_N = (
            holds_N
            & (np.abs(next_N - begin_N) < REACH_PX)
            & (np.abs(next_turn_N / begin_turn_N - 1) < MAX_REACH_TURN)
        )
        places_N = np.where(near_N, next_N, places_N)
        turn_N = np.where(near_N, next_turn_N, turn_N)
    return np.stack([best_N.real, best_N.imag], axis=1), best_turn_N, best_like_N


def search(half: U8, gain_N: F64, template_NPP: F32, points_N2: F64, turn_N: Complex) -> F64:
    """Where in SEARCH_PX round each point the picture differs least from its template.

    Args:
        half: the picture at half its size.
        gain_N: its exposure relative to each template's.
        template_NPP: grey levels.
        points_N2: pixels of the whole picture.
        turn_N: scale and rotation of the templates.

    Returns:
        pixels of the whole picture, to a pixel or two; a point beyond the edge stays.
    """
    found_N2 = points_N2.copy()
    middle, reach = TEMPLATE_SIDE // 2, round(SEARCH_PX / TEMPLATE_STEP_PX)
    weights = np.sqrt(_WEIGHTS).reshape(TEMPLATE_SIDE, TEMPLATE_SIDE).astype(np.float32)
    for row, (template_PP, gain, turn) in enumerate(zip(template_NPP, gain_N, turn_N, strict=True)):
        shift = middle * (1 + 1j) * (1 - turn)
        matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
        turned = cv2.warpAffine(
            np.float32(gain) * template_PP,
            matrix,
            template_PP.shape,
            borderMode=cv2.BORDER_REPLICATE,
        )
        column, line = np.round((points_N2[row] + 0.5) / TEMPLATE_STEP_PX - 0.5).astype(int)
        left, top = max(0, column - reach - middle), max(0, line - reach - middle)
        window = half[
            top : max(0, line + reach + middle + 1), left : max(0, column + reach + middle + 1)
        ]
        if min(window.shape) < TEMPLATE_SIDE:
            continue
        apart = cv2.matchTemplate(window.astype(np.float32), turned, cv2.TM_SQDIFF, mask=weights)
        best = cv2.minMaxLoc(apart)[2]
        found_N2[row] = left + best[0] + middle, top + best[1] + middle
        found_N2[row] = (found_N2[row] + 0.5) * TEMPLATE_STEP_PX - 0.5
    return np.asarray(found_N2, np.float64)


def _slopes(template_NPP: F32) -> tuple[F32, F32]:
    """Grey levels a pixel along x and y, each [N, P * P]."""
    slope_y, slope_x = np.gradient(template_NPP, np.float32(TEMPLATE_STEP_PX), axis=(1, 2))
    return slope_x.reshape(-1, TEMPLATE_SIDE**2), slope_y.reshape(-1, TEMPLATE_SIDE**2)


def _jacobian(template_NPP: F32) -> F32:
    """Change of each sample with shift x, shift y, growth and rotation, means removed."""
    slope_x, slope_y = _slopes(template_NPP)
    x, y = (
        np.float32(_TURN_SCALE) * part.ravel().astype(np.float32)
        for part in (_OFFSETS_PP.real, _OFFSETS_PP.imag)
    )
    jacobian = np.stack(
        [slope_x, slope_y, slope_x * x + slope_y * y, slope_y * x - slope_x * y], axis=2
    )
    return np.asarray(jacobian - (_WEIGHTS @ jacobian)[:, None], np.float32)
