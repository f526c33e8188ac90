"""The looks of a point: a small picture that turns and grows with it, and its colour.

Letters: N points, P samples along a side, S = P * P samples. The middle of a template counts most:
there the thing is, at the rim there may be background.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

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
_X_1P = np.asarray(_LINE[None], np.float32)
_Y_P1 = np.asarray(_LINE[:, None], np.float32)
_LINE_WEIGHTS = np.exp(-0.5 * _LINE**2 / WEIGHT_SIGMA_PX**2)
_LINE_WEIGHTS = np.asarray(_LINE_WEIGHTS / _LINE_WEIGHTS.sum(), np.float32)
_WEIGHTS = np.outer(_LINE_WEIGHTS, _LINE_WEIGHTS).ravel()
_TURN_SCALE = 0.1  # a turn of a tenth moves the template's middle ring by about a pixel


def sample_template(grey: U8, points_N2: F64, turn_N: Complex) -> F32:
    """The picture round each point, turned and scaled with it, float32 [N, P, P]."""
    if not len(points_N2):
        return np.zeros((0, TEMPLATE_SIDE, TEMPLATE_SIDE), np.float32)
    turn_x, turn_y = (part.astype(np.float32)[:, None, None] for part in (turn_N.real, turn_N.imag))
    x, y = (points_N2[:, axis].astype(np.float32)[:, None, None] for axis in (0, 1))
    x_NPP = x + turn_x * _X_1P - turn_y * _Y_P1
    y_NPP = y + turn_x * _Y_P1 + turn_y * _X_1P
    sampled = cv2.remap(
        grey,
        x_NPP.reshape(-1, TEMPLATE_SIDE),
        y_NPP.reshape(-1, TEMPLATE_SIDE),
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


@dataclass(frozen=True, slots=True)
class Sought:
    """N templates, made ready to be held against pictures.

    What is left of a difference, its mean removed, is told by inner products with rows that can be
    had once for many pictures: four that draw the template to its place, and the template itself.
    """

    template_NS: F32  # grey levels
    rows_N5S: F32  # weighted; Gauss-Newton's steps along x, y, growth and rotation, the template
    variance_N: F32  # weighted, of the template

    @classmethod
    def of(cls, template_NPP: F32) -> Sought:
        """Prepare templates of grey levels."""
        template_NS = template_NPP.reshape(-1, TEMPLATE_SIDE**2)
        jacobian_N4S = _jacobian(template_NPP)
        weighted_N4S = jacobian_N4S * _WEIGHTS
        hessian_N44 = weighted_N4S @ jacobian_N4S.transpose(0, 2, 1)
        hessian_N44 += DAMPING * np.eye(4, dtype=np.float32)
        rows_N5S = np.empty((len(template_NS), 5, TEMPLATE_SIDE**2), np.float32)
        np.matmul(-np.linalg.inv(hessian_N44), weighted_N4S, out=rows_N5S[:, :4])
        centred_NS = template_NS - (template_NS @ _WEIGHTS)[:, None]
        np.multiply(centred_NS, _WEIGHTS, out=rows_N5S[:, 4])
        return cls(template_NS, rows_N5S, np.einsum("ns,ns->n", centred_NS, rows_N5S[:, 4]))

    def take(self, rows: npt.NDArray[np.intp]) -> Sought:
        """Some of the templates."""
        return Sought(*(getattr(self, field.name)[rows] for field in fields(self)))

    def held_against(self, sampled_NPP: F32) -> tuple[F64, F32]:
        """How far pictures show what the templates do, and the steps to where they do so more.

        A blank spot that stays blank is alike. A blank spot that gets texture is not, nor is one
        whose brightness jumps.

        Args:
            sampled_NPP: grey levels at the exposure of the templates.

        Returns:
            contrast and structure of SSIM, 0..1, [N], and the steps [N, 4].
        """
        apart_NS = sampled_NPP.reshape(self.template_NS.shape) - self.template_NS
        products_N5 = np.matmul(self.rows_N5S, apart_NS[..., None])[..., 0]
        mean_N = apart_NS @ _WEIGHTS
        variance_N = (apart_NS * apart_NS) @ _WEIGHTS - mean_N * mean_N
        shared_N = 2.0 * (self.variance_N + products_N5[:, 4]) + NOISE_VARIANCE
        structure_N = np.clip(shared_N / (shared_N + variance_N), 0, 1)
        return structure_N * alike(mean_N.astype(np.float64)), products_N5[:, :4]


def alike(difference: F64, jump: tuple[float, float] = JUMP) -> F64:
    """1 for a small difference of grey levels, 0 for one that only another thing makes."""
    return np.asarray(np.clip((jump[1] - np.abs(difference)) / (jump[1] - jump[0]), 0, 1))


def textured(template_NPP: F32) -> Bool:
    """Whether a template holds a point in both directions: not on a blank spot or along an edge."""
    slope_x, slope_y = (slope.reshape(-1, TEMPLATE_SIDE**2) for slope in _slopes(template_NPP))
    xx, yy, xy = (
        product @ _WEIGHTS for product in (slope_x * slope_x, slope_y * slope_y, slope_x * slope_y)
    )
    least = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    return np.asarray(least > TEXTURE_FLOOR)


def align(
    grey: U8, gain_N: F64, sought: Sought, holds_N: Bool, points_N2: F64, turn_N: Complex
) -> tuple[F64, Complex, F64]:
    """Draw points to where the picture is most like their templates (Gauss-Newton, a few steps).

    Source: Baker and Matthews, "Lucas-Kanade 20 years on" (2004), inverse compositional algorithm.

    Args:
        grey: the picture.
        gain_N: its exposure relative to each template's.
        sought: the templates.
        holds_N: templates with texture; the others stay where they are.
        points_N2: where to begin, pixels of `grey`.
        turn_N: scale and rotation to begin with.

    Returns:
        the best places met, REACH_PX away at most, with their turns and likenesses.
    """
    begin_N = places_N = points_N2[:, 0] + 1j * points_N2[:, 1]
    begin_turn_N = turn_N
    best_N, best_turn_N = places_N, turn_N
    best_like_N = np.full(len(points_N2), -1.0)
    exposed_N11 = (1 / gain_N).astype(np.float32)[:, None, None]
    for step in range(ALIGN_STEPS + 1):
        sampled_NPP = sample_template(
            grey, np.stack([places_N.real, places_N.imag], axis=1), turn_N
        )
        sampled_NPP *= exposed_N11
        like_N, change_N4 = sought.held_against(sampled_NPP)
        better_N = like_N > best_like_N
        best_N = np.where(better_N, places_N, best_N)
        best_turn_N = np.where(better_N, turn_N, best_turn_N)
        best_like_N = np.where(better_N, like_N, best_like_N)
        if step == ALIGN_STEPS:
            break
        shift_N = change_N4[:, 0] + 1j * change_N4[:, 1]
        grown_N = _TURN_SCALE * (change_N4[:, 2] + 1j * change_N4[:, 3])
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
    weights = _WEIGHTS.reshape(TEMPLATE_SIDE, TEMPLATE_SIDE)
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
        # Weighted squares of the differences, less those of the template, which are the same there.
        window = window.astype(np.float32)
        squares = cv2.sepFilter2D(window * window, cv2.CV_32F, _LINE_WEIGHTS, _LINE_WEIGHTS)
        products = cv2.matchTemplate(window, weights * turned, cv2.TM_CCORR)
        apart = squares[middle:-middle, middle:-middle] - 2.0 * products
        best = cv2.minMaxLoc(apart)[2]
        found_N2[row] = left + best[0] + middle, top + best[1] + middle
        found_N2[row] = (found_N2[row] + 0.5) * TEMPLATE_STEP_PX - 0.5
    return np.asarray(found_N2, np.float64)


def _slopes(template_NPP: F32) -> tuple[F32, F32]:
    """Grey levels a pixel along x and y, each [N, P, P]: differences over two samples."""
    along = []
    for axis in (2, 1):
        line = np.moveaxis(template_NPP, axis, -1)
        slope = np.empty_like(template_NPP)
        out = np.moveaxis(slope, axis, -1)
        np.subtract(line[..., 2:], line[..., :-2], out=out[..., 1:-1])
        # At the rims over one, twice.
        out[..., 0] = 2.0 * (line[..., 1] - line[..., 0])
        out[..., -1] = 2.0 * (line[..., -1] - line[..., -2])
        slope *= np.float32(0.5 / TEMPLATE_STEP_PX)
        along.append(slope)
    return along[0], along[1]


def _jacobian(template_NPP: F32) -> F32:
    """Change of samples with shift x, shift y, growth and rotation, means removed: [N, 4, S]."""
    slope_x, slope_y = _slopes(template_NPP)
    jacobian = np.empty((len(template_NPP), 4, TEMPLATE_SIDE, TEMPLATE_SIDE), np.float32)
    x, y = np.float32(_TURN_SCALE) * _X_1P, np.float32(_TURN_SCALE) * _Y_P1
    jacobian[:, 0], jacobian[:, 1] = slope_x, slope_y
    jacobian[:, 2] = slope_x * x + slope_y * y
    jacobian[:, 3] = slope_y * x - slope_x * y
    jacobian_N4S = jacobian.reshape(-1, 4, TEMPLATE_SIDE**2)
    jacobian_N4S -= (jacobian_N4S @ _WEIGHTS)[..., None]
    return jacobian_N4S
