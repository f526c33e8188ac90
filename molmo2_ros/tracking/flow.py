"""Points carried from frame to frame by the small features round them.

Letters: N points, K features round each, P samples along a side of a template. Functions on a
frame's grey picture count pixels of that picture (grey.py).

A point is not tracked itself: it may lie on a smooth spot. Up to K corners in a window round it are
tracked forward and back by pyramidal Lucas-Kanade; those that come back agree on one motion (the
largest group, near features count more), and a similarity fitted to them moves the point. From
there it is drawn to where the picture is most like the one that was seeded, which takes back what
drifts. Where that looks like something else, three more ways are tried and the best looks win: the
second largest group (the corners round a small thing may lie on the background behind it), the
point's own last motion, and a search. A step that leaps away from the last one needs better looks.
Where there is nothing to hold on to, the motion of the whole picture carries the point at low
quality. A point that looked like nothing seen for LOST_AFTER_NS is lost and stays it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.tracking.grey import GreyFrame
from molmo2_ros.tracking.lucas_kanade import follow
from molmo2_ros.tracking.motion import (
    AGREE_PX,
    F32,
    F64,
    MIN_FEATURES,
    Bool,
    Complex,
    fit_similarity,
    largest_group,
    nearness,
)
from molmo2_ros.tracking.scene import scene_step
from molmo2_ros.tracking.template import (
    COLOUR_JUMP,
    TEMPLATE_SIDE,
    Sought,
    align,
    alike,
    sample_colours,
    sample_template,
    search,
    textured,
)

CELLS = 4  # a window is cut into CELLS x CELLS cells with at most one feature each: K = 16
CELL_PX = 10
RADIUS_PX = CELLS * CELL_PX // 2  # half a window
CORNER_FLOOR = 1.2e-4  # of cv2.cornerMinEigenVal: noise of 4 grey levels gives 1e-4, edges more
FULL_FEATURES = 6  # so many agreeing features give full quality
SCENE_QUALITY = 0.35  # quality of a point that the whole picture's motion carries, which
SCENE_SHARE = 0.5  # counts in full where so much of the picture agrees: things may fill the rest
KEEP_LIKENESS = 0.6  # below this neither features nor template are renewed: it may be an occluder
BETTER_LIKENESS = 0.1  # by which another way has to look better
GOOD_LIKENESS = 0.8  # below this other ways are tried
RENEWAL_NS = 250_000_000  # in which half of the template is renewed
TEMPLATE_QUALITY = 0.9  # quality of a point that its template alone holds
LIKENESS_RANGE = (0.4, 0.8)  # of no quality, and of full
FRAME_NS = 33_333_333  # of the steps below; longer ones may differ by more
EXPECTED_PX = 4.0  # a step may differ from the last one by this
SURPRISE_PX = 30.0  # a step that differs by so much more is not believed
EXPECTED_TURN = 0.06  # change of scale or rotation (radians) in a step
SURPRISE_TURN = 0.2
FEATURE_LIKENESS = 0.15  # that features in full agreement are worth
QUALITY_FLOOR = 0.25  # a point below it for LOST_AFTER_NS is lost
LOST_AFTER_NS = 150_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """N points on one frame with what is needed to find them in the next."""

    points_N2: F64  # grey pixels
    features_NK2: F32  # grey pixels
    alive_NK: Bool
    turn_N: Complex  # scale and rotation since the point was seeded
    step_N: Complex  # pixels since the frame before; NaN until there is one
    template_NPP: F32  # grey levels as first seen, slowly renewed
    textured_N: Bool  # the template alone can hold the point
    colour_N3: F32  # RGB as first seen
    gain_N: F64  # exposure of the frame relative to the template's
    quality_N: F64  # 0..1
    unseen_ns_N: npt.NDArray[np.int64]  # for how long the quality has been too low
    seen_N2: F64  # where it was not yet

    def __len__(self) -> int:
        return len(self.points_N2)

    @property
    def lost_N(self) -> Bool:
        """Points that were out of sight for too long: they do not come back."""
        return np.asarray(self.unseen_ns_N >= LOST_AFTER_NS)

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
    template_NPP = sample_template(frame.grey, points_N2, turn_N)
    textured_N = textured(template_NPP)
    held_N = (alive_NK.sum(axis=1) >= MIN_FEATURES) | textured_N
    return Patches(
        points_N2=points_N2,
        features_NK2=features_NK2,
        alive_NK=alive_NK,
        turn_N=turn_N,
        step_N=np.full(num, np.nan, np.complex128),
        template_NPP=template_NPP,
        textured_N=textured_N,
        colour_N3=sample_colours(frame.colours, frame.to_colours(points_N2)),
        gain_N=np.ones(num),
        quality_N=np.where(held_N, 1.0, SCENE_QUALITY),
        unseen_ns_N=np.zeros(num, np.int64),
        seen_N2=points_N2,
    )


def no_patches() -> Patches:
    """Nothing to carry."""
    return Patches(
        points_N2=np.zeros((0, 2)),
        features_NK2=np.zeros((0, CELLS * CELLS, 2), np.float32),
        alive_NK=np.zeros((0, CELLS * CELLS), np.bool_),
        turn_N=np.ones(0, np.complex128),
        step_N=np.zeros(0, np.complex128),
        template_NPP=np.zeros((0, TEMPLATE_SIDE, TEMPLATE_SIDE), np.float32),
        textured_N=np.zeros(0, np.bool_),
        colour_N3=np.zeros((0, 3), np.float32),
        gain_N=np.zeros(0),
        quality_N=np.zeros(0),
        unseen_ns_N=np.zeros(0, np.int64),
        seen_N2=np.zeros((0, 2)),
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
    moved_NK2, found_NK = follow(before.grey, exposed, patches.features_NK2, patches.alive_NK)
    gained = replace(patches, gain_N=patches.gain_N * after.gain_over(before))
    weight_NK = nearness(patches.features_NK2, patches.points_N2, RADIUS_PX)
    first = _group_way(patches, moved_NK2, found_NK, weight_NK)
    if not (first.held_N | patches.textured_N).all():
        weak = np.flatnonzero(~first.held_N)
        first = first.replaced(weak, _scene_way(patches, before.grey, exposed), weak)
    passed_ns = after.stamp_ns - before.stamp_ns
    sought = Sought.of(patches.template_NPP)
    way = _look(gained, sought, first, after, passed_ns)
    doubted = np.flatnonzero((way.likeness_N < GOOD_LIKENESS) & ~patches.lost_N)
    if len(doubted):
        some = gained.take(doubted)
        rest = (moved_NK2[doubted], found_NK[doubted] & ~first.agreed_NK[doubted])
        second = _group_way(some, *rest, weight_NK[doubted])
        coast = _coast_way(some, moved_NK2[doubted], found_NK[doubted])
        twice = np.concatenate([doubted, doubted])
        both = _look(gained.take(twice), sought.take(twice), second.joined(coast), after, passed_ns)
        way = way.with_better(doubted, *both.halves())
        doubted = np.flatnonzero((way.likeness_N < KEEP_LIKENESS) & ~patches.lost_N)
        if len(doubted):
            searched = _search_way(gained.take(doubted), sought.take(doubted), after, passed_ns)
            way = way.with_better(doubted, searched)
    return _settle(gained, after, passed_ns, way, moved_NK2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """One way in which N points may have gone from a frame to the next."""

    points_N2: F64
    turn_N: Complex  # since the points were seeded
    agreed_NK: Bool  # features that went the same way
    agreement_N: F64  # 0..1
    held_N: Bool  # enough to go by
    likeness_N: F64  # 0..1, of the picture there to the one that was seeded

    def with_better(self, rows: npt.NDArray[np.intp], *others: _Way) -> _Way:
        """This way, for `rows` one of the others where that looks better by more than chance."""
        way = self
        for other in others:
            better = other.held_N & (other.likeness_N > way.likeness_N[rows] + BETTER_LIKENESS)
            way = way.replaced(rows[better], other, np.flatnonzero(better))
        return way

    def joined(self, other: _Way) -> _Way:
        """This way and another, one after the other."""
        return _Way(
            **{
                entry.name: np.concatenate([getattr(self, entry.name), getattr(other, entry.name)])
                for entry in fields(self)
            }
        )

    def halves(self) -> tuple[_Way, _Way]:
        """What was joined of two of one length."""
        middle = len(self.held_N) // 2
        first, second = (
            _Way(**{entry.name: getattr(self, entry.name)[part] for entry in fields(self)})
            for part in (slice(0, middle), slice(middle, None))
        )
        return first, second

    def replaced(
        self, rows: npt.NDArray[np.intp], other: _Way, other_rows: npt.NDArray[np.intp]
    ) -> _Way:
        """This way, for `rows` the `other_rows` of another."""
        taken = {entry.name: getattr(self, entry.name).copy() for entry in fields(self)}
        for name, values in taken.items():
            values[rows] = getattr(other, name)[other_rows]
        return _Way(**taken)


def _group_way(patches: Patches, moved_NK2: F32, found_NK: Bool, weight_NK: F64) -> _Way:
    """With the largest group of features."""
    agreed_NK = largest_group(moved_NK2 - patches.features_NK2, found_NK, weight_NK)
    turn_N, points_N2, agreed_NK = fit_similarity(
        patches.points_N2, patches.features_NK2, moved_NK2, found_NK, agreed_NK, weight_NK
    )
    had_N = (weight_NK * patches.alive_NK).sum(axis=1)
    share_N = (weight_NK * agreed_NK).sum(axis=1) / np.maximum(had_N, 1e-9)
    num_N = agreed_NK.sum(axis=1)
    return _Way(
        points_N2=points_N2,
        turn_N=patches.turn_N * turn_N,
        agreed_NK=agreed_NK,
        agreement_N=np.sqrt(share_N) * np.minimum(1.0, num_N / FULL_FEATURES),
        held_N=num_N >= MIN_FEATURES,
        likeness_N=np.zeros(len(patches)),
    )


def _coast_way(patches: Patches, moved_NK2: F32, found_NK: Bool) -> _Way:
    """On as before, without a word from the features."""
    points_N2 = _coasted(patches)
    step_N12 = (points_N2 - patches.points_N2)[:, None]
    apart_NK = np.linalg.norm(moved_NK2 - patches.features_NK2 - step_N12, axis=2)
    return _Way(
        points_N2=points_N2,
        turn_N=patches.turn_N,
        agreed_NK=found_NK & (apart_NK < AGREE_PX),
        agreement_N=np.zeros(len(patches)),
        held_N=patches.textured_N,
        likeness_N=np.zeros(len(patches)),
    )


def _coasted(patches: Patches) -> F64:
    """Where the points are if they go on as before."""
    step_N = np.nan_to_num(patches.step_N)
    return patches.points_N2 + np.stack([step_N.real, step_N.imag], axis=1)


def _search_way(patches: Patches, sought: Sought, after: GreyFrame, passed_ns: int) -> _Way:
    """To where it looks like this at all: a thing may outrun its features."""
    size = (after.grey.shape[1] // 2, after.grey.shape[0] // 2)
    half = np.asarray(cv2.resize(after.grey, size, interpolation=cv2.INTER_AREA), np.uint8)
    way = _Way(
        points_N2=search(
            half, patches.gain_N, patches.template_NPP, _coasted(patches), patches.turn_N
        ),
        turn_N=patches.turn_N,
        agreed_NK=np.zeros_like(patches.alive_NK),
        agreement_N=np.zeros(len(patches)),
        held_N=patches.textured_N,
        likeness_N=np.zeros(len(patches)),
    )
    found = _look(patches, sought, way, after, passed_ns)
    # In a wide window something a little alike is always found.
    return replace(found, held_N=found.held_N & (found.likeness_N > GOOD_LIKENESS))


def _scene_way(
    patches: Patches, before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]
) -> _Way:
    """With the whole picture."""
    step, share = scene_step(before, after)
    place_N = step.turn * (patches.points_N2 @ (1, 1j)) + step.shift
    return _Way(
        points_N2=np.stack([place_N.real, place_N.imag], axis=1),
        turn_N=patches.turn_N * step.turn,
        agreed_NK=np.zeros_like(patches.alive_NK),
        agreement_N=np.full(len(patches), SCENE_QUALITY * min(1.0, share / SCENE_SHARE)),
        held_N=np.ones(len(patches), np.bool_),
        likeness_N=np.zeros(len(patches)),
    )


def _look(patches: Patches, sought: Sought, way: _Way, after: GreyFrame, passed_ns: int) -> _Way:
    """Draw the points to their templates, and say how far they look right there."""
    points_N2, turn_N, likeness_N = align(
        after.grey,
        patches.gain_N,
        sought,
        patches.textured_N,
        way.points_N2,
        way.turn_N,
    )
    colour_N3 = sample_colours(after.colours, after.to_colours(points_N2))
    apart_N3 = colour_N3 / patches.gain_N[:, None] - patches.colour_N3
    step_N2 = points_N2 - patches.points_N2
    frames = max(1.0, passed_ns / FRAME_NS)
    surprise_N = np.abs(step_N2[:, 0] + 1j * step_N2[:, 1] - patches.step_N)
    believed_N = 1 - np.clip((surprise_N / frames - EXPECTED_PX) / SURPRISE_PX, 0, 1)
    turned_N = np.abs(turn_N / patches.turn_N - 1)
    steady_N = 1 - np.clip((turned_N / frames - EXPECTED_TURN) / SURPRISE_TURN, 0, 1)
    return replace(
        way,
        points_N2=points_N2,
        turn_N=turn_N,
        likeness_N=likeness_N
        * alike(np.abs(apart_N3).max(axis=1), COLOUR_JUMP)
        * np.where(np.isnan(believed_N), 1.0, believed_N)
        * steady_N,
    )


def _settle(
    patches: Patches, after: GreyFrame, passed_ns: int, way: _Way, features_NK2: F32
) -> Patches:
    """Judge the new places by their looks, and renew features where they look right."""
    points_N2, like_N = way.points_N2, way.likeness_N > KEEP_LIKENESS
    features_NK2, alive_NK = features_NK2.copy(), way.agreed_NK.copy()
    for row in np.flatnonzero(like_N & (alive_NK.sum(axis=1) < CELLS * CELLS // 2)):
        corners_K2, corner_K = _corners(after.grey, points_N2[row])
        taken = _cells(features_NK2[row], points_N2[row])[alive_NK[row]]
        free_K = corner_K.copy()
        free_K[taken[taken >= 0]] = False
        # Cells number the slots only at seeding; afterwards any dead slot will do.
        slots = np.flatnonzero(~alive_NK[row])[: int(free_K.sum())]
        features_NK2[row, slots] = corners_K2[free_K][: len(slots)]
        alive_NK[row, slots] = True
    sampled_NPP = sample_template(after.grey, points_N2, way.turn_N)
    sampled_NPP /= patches.gain_N[:, None, None].astype(np.float32)
    colour_N3 = sample_colours(after.colours, after.to_colours(points_N2))
    colour_N3 /= patches.gain_N[:, None].astype(np.float32)
    renewal = 1 - 0.5 ** (passed_ns / RENEWAL_NS)
    renewal_N11 = np.where(like_N, renewal, 0.0)[:, None, None].astype(np.float32)
    agreement_N: F64 = np.maximum(
        way.agreement_N, np.where(patches.textured_N, TEMPLATE_QUALITY, 0.0)
    )
    low, high = LIKENESS_RANGE
    # Features that agree are a word of their own: the looks may have changed by more.
    enough_N = way.likeness_N + FEATURE_LIKENESS * way.agreement_N
    quality_N = agreement_N * np.clip((enough_N - low) / (high - low), 0.0, 1.0)
    quality_N[patches.lost_N] = 0.0
    step_N2 = points_N2 - patches.points_N2
    unseen_N = quality_N < QUALITY_FLOOR
    return replace(
        patches,
        points_N2=points_N2,
        features_NK2=features_NK2,
        alive_NK=alive_NK,
        turn_N=way.turn_N,
        step_N=np.where(like_N, step_N2[:, 0] + 1j * step_N2[:, 1], patches.step_N),
        template_NPP=patches.template_NPP + renewal_N11 * (sampled_NPP - patches.template_NPP),
        colour_N3=patches.colour_N3 + renewal_N11[:, 0] * (colour_N3 - patches.colour_N3),
        quality_N=quality_N,
        unseen_ns_N=np.where(unseen_N, patches.unseen_ns_N + passed_ns, 0),
        seen_N2=np.where(unseen_N[:, None], patches.seen_N2, points_N2),
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
