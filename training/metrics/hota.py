"""HOTA of points: how well objects are found and how well each keeps its id.

Letters: G true objects of the clip, P predicted ids, g and p those of one frame.

Source: Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", 2021; the
similarity of a point and an object is 1 in its mask and 0 outside, so all thresholds agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from molmo2_ros.training.metrics.pointing import in_mask
from molmo2_ros.training.metrics.tracking import TrackedFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class Hota:
    """The three numbers of one clip, 0..1."""

    hota: float
    detection: float  # DetA
    association: float  # AssA


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    true_g: npt.NDArray[np.int64]  # rows of the clip's tables
    predicted_p: npt.NDArray[np.int64]  # columns
    similar_gp: npt.NDArray[np.float64]


def hota(frames: Sequence[TrackedFrame]) -> Hota:
    """Score one clip; 1.0 throughout where nothing is there and nothing was said.

    Args:
        frames: of one clip; ids and objects are the same things in all of them.
    """
    rows = {key: i for i, key in enumerate(sorted({k for f in frames for k in f.true}))}
    columns = {key: i for i, key in enumerate(sorted({k for f in frames for k in f.predicted}))}
    if not rows and not columns:
        return Hota(hota=1.0, detection=1.0, association=1.0)
    indexed = [_index(frame, rows, columns) for frame in frames]
    matches_GP, num_true_G, num_predicted_P = _match(indexed, len(rows), len(columns))
    num_hits = matches_GP.sum()
    union_GP = num_true_G[:, None] + num_predicted_P - matches_GP
    detection = num_hits / (num_true_G.sum() + num_predicted_P.sum() - num_hits)
    kept = (matches_GP * matches_GP / np.maximum(union_GP, 1)).sum()
    association = kept / max(num_hits, 1)
    return Hota(
        hota=float(np.sqrt(detection * association)),
        detection=float(detection),
        association=float(association),
    )


def _index(frame: TrackedFrame, rows: Mapping[int, int], columns: Mapping[int, int]) -> _Frame:
    similar = [
        [float(in_mask(frame.masks[key], *point)) for point in frame.predicted.values()]
        for key in frame.true
    ]
    return _Frame(
        true_g=np.array([rows[key] for key in frame.true], np.int64),
        predicted_p=np.array([columns[key] for key in frame.predicted], np.int64),
        similar_gp=np.reshape(np.array(similar, float), (len(frame.true), len(frame.predicted))),
    )


def _match(
    frames: Sequence[_Frame], num_objects: int, num_ids: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Matches by object and id, and frames of each: those that align best over the clip first."""
    potential_GP = np.zeros((num_objects, num_ids))
    num_true_G, num_predicted_P = np.zeros(num_objects), np.zeros(num_ids)
    for frame in frames:
        similar = frame.similar_gp
        total = similar.sum(0, keepdims=True) + similar.sum(1, keepdims=True) - similar
        share = np.divide(similar, total, out=np.zeros_like(similar), where=total > 0)
        potential_GP[np.ix_(frame.true_g, frame.predicted_p)] += share
        num_true_G[frame.true_g] += 1
        num_predicted_P[frame.predicted_p] += 1
    aligned_GP = potential_GP / (num_true_G[:, None] + num_predicted_P - potential_GP)
    matches_GP = np.zeros_like(potential_GP)
    for frame in frames:
        cell = np.ix_(frame.true_g, frame.predicted_p)
        r, c = linear_sum_assignment(-aligned_GP[cell] * frame.similar_gp)
        hit = frame.similar_gp[r, c] > 0
        matches_GP[frame.true_g[r[hit]], frame.predicted_p[c[hit]]] += 1
    return matches_GP, num_true_G, num_predicted_P
