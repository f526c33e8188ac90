"""The colours of a thing where answers pointed at it: what tells it from others when it comes back.

Letters: C known targets, A answered objects, N points, S samples round a point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from molmo2_ros.tracking.answered import AnsweredObject
from molmo2_ros.tracking.grey import GreyBuffer, GreyFrame
from molmo2_ros.tracking.motion import F32, F64
from molmo2_ros.tracking.template import sample_colours

SAMPLE_PX = 4.0  # grey pixels between samples: a square of GreyFrame.colours
MAX_SIGHTS = 5  # the last ones count: half of them may be of what passes before the thing
NUM_SHOWN = 3  # samples that have to be of the thing: where it is half covered, the rest is not

_SIDE = 5
_LINE = SAMPLE_PX * (np.arange(_SIDE) - _SIDE // 2)
_OFFSETS_S2 = np.stack(np.meshgrid(_LINE, _LINE), axis=-1).reshape(-1, 2)
_CORE_S = np.abs(_OFFSETS_S2).max(axis=1) <= SAMPLE_PX  # on things that are small, too

Sights = Mapping[int, F32]  # stamp in ns -> RGB at one exposure, [S, 3]


def sample_looks(frame: GreyFrame, exposure: float, points_N2: F64) -> F32:
    """Colours round points of a frame.

    Args:
        frame: the picture.
        exposure: its own, relative to the one at which colours are compared.
        points_N2: grey pixels.

    Returns:
        RGB [N, S, 3], S in rows of five, SAMPLE_PX apart.
    """
    places = (points_N2[:, None] + _OFFSETS_S2).reshape(-1, 2)
    sampled = sample_colours(frame.colours, frame.to_colours(places)) / np.float32(exposure)
    return np.asarray(sampled.reshape(len(points_N2), _SIDE**2, 3))


def answered_looks(objects: Sequence[AnsweredObject], buffer: GreyBuffer) -> list[Sights]:
    """How each object looked on the newest of the frames that it was answered on."""
    looks: list[dict[int, F32]] = [{} for _ in objects]
    wanted: dict[int, list[int]] = {}
    for row, entry in enumerate(objects):
        for stamp_ns in list(entry.path)[-MAX_SIGHTS:]:
            wanted.setdefault(stamp_ns, []).append(row)
    for frame in buffer:
        rows = wanted.get(frame.stamp_ns, [])
        if rows:
            points = np.array([objects[row].path[frame.stamp_ns] for row in rows])
            sampled = sample_looks(frame, buffer.exposure(frame), frame.to_grey(points))
            for row, samples in zip(rows, sampled, strict=True):
                looks[row][frame.stamp_ns] = samples
    return list(looks)


def own_colour(sights: Sights) -> F64:
    """RGB of a thing, float64 [3]: the median of what lay close round the answered points.

    NaN where it was not seen.
    """
    if not sights:
        return np.full(3, np.nan)
    return np.asarray(np.median(np.concatenate([s[_CORE_S] for s in sights.values()]), axis=0))


def unlikeness(colour_C3: F64, looks: Sequence[Sights]) -> F64:
    """How far the looks of answered objects are from the colours of targets.

    Where something passes half before a thing, only a part of the samples has its colour: the
    NUM_SHOWN best have to be near. Where it is of a rough texture, their mean is nearer.

    Args:
        colour_C3: RGB of each target, NaN where unknown.
        looks: of each object.

    Returns:
        grey levels (Euclidean), float64 [C, A], the median over an object's sights; NaN where
        nothing is known.
    """
    unlike_CA = np.full((len(colour_C3), len(looks)), np.nan)
    for column, sights in enumerate(looks):
        if not sights or not len(colour_C3):
            continue
        samples_FS3 = np.stack(list(sights.values()))
        apart_CFS = np.linalg.norm(colour_C3[:, None, None] - samples_FS3, axis=3)
        shown_CF = np.partition(apart_CFS, NUM_SHOWN - 1, axis=2)[:, :, NUM_SHOWN - 1]
        mean_F3 = samples_FS3[:, _CORE_S].mean(axis=1)
        mean_CF = np.linalg.norm(colour_C3[:, None] - mean_F3, axis=2)
        unlike_CA[:, column] = np.median(np.minimum(shown_CF, mean_CF), axis=1)
    return unlike_CA
