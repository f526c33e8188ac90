"""How hard a clip was for the model that ran, by what was recorded of its answers.

A clip about which nothing was asked has no hardness, and comes last.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np

from molmo2_ros.camera.frame import Frame
from molmo2_ros.tracking.flow import carry, seed
from molmo2_ros.tracking.grey import GreyFrame
from molmo2_ros.training.logs.topics import AnsweredTrack, RecordedAnswer, SeenFrame

_NEAR_NS = 150_000_000  # an answer's stamp and a picture that it speaks of
_FULL_DISAGREEMENT = 0.1  # of the picture's diagonal between the model's point and flow's
_FLOW_QUALITY = 0.5  # below it flow has no say


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardness:
    """Why a clip is hard; each 0..1.

    Args:
        unsure: one minus the mean confidence of the points.
        doubtful: share of the answers that were degenerate, cut or ungrammatical.
        lost: share of the tracks that the next answer to the same question no longer has.
        disagreement: mean distance of the model's points from where flow carries its earlier ones.
        corrected: 1 where an operator corrected something.
    """

    unsure: float = 0.0
    doubtful: float = 0.0
    lost: float = 0.0
    disagreement: float = 0.0
    corrected: float = 0.0

    @property
    def total(self) -> float:
        """0..1: one minus the product of what is left by each reason."""
        return 1.0 - math.prod(1.0 - reason for reason in asdict(self).values())


def hardness(
    frames: Sequence[SeenFrame], answers: Sequence[RecordedAnswer], *, is_corrected: bool
) -> Hardness:
    """Judge one clip.

    Args:
        frames: its pictures.
        answers: recorded ones, of any time; those that overlap with the clip count.
        is_corrected: an operator corrected something in it.
    """
    first, last = frames[0].stamp_ns - _NEAR_NS, frames[-1].stamp_ns + _NEAR_NS
    here = [a for a in answers if a.stamps_ns and first <= a.stamps_ns[-1] <= last]
    confidences = [value for answer in here for value in answer.confidences]
    return Hardness(
        unsure=1.0 - float(np.mean(confidences)) if confidences else 0.0,
        doubtful=float(np.mean([answer.is_doubtful for answer in here])) if here else 0.0,
        lost=_lost(here),
        disagreement=_disagreement(frames, here),
        corrected=float(is_corrected),
    )


def _lost(answers: Sequence[RecordedAnswer]) -> float:
    """Share of tracks without a successor of the same id."""
    num_lost = num_tracks = 0
    for before, after in _successive(answers):
        ids = {track.track_id for track in after.tracks}
        num_tracks += len(before.tracks)
        num_lost += sum(track.track_id not in ids for track in before.tracks)
    return num_lost / num_tracks if num_tracks else 0.0


def _successive(
    answers: Sequence[RecordedAnswer],
) -> list[tuple[RecordedAnswer, RecordedAnswer]]:
    """Answers to the same question, one after another."""
    by_query: dict[str, list[RecordedAnswer]] = defaultdict(list)
    for answer in answers:
        by_query[answer.query].append(answer)
    return [pair for same in by_query.values() for pair in pairwise(same)]


def _disagreement(frames: Sequence[SeenFrame], answers: Sequence[RecordedAnswer]) -> float:
    """How far the model's points are from where flow carries the model's earlier points."""
    places = [_places(track, frames) for answer in answers for track in answer.tracks]
    greys: dict[int, GreyFrame] = {}
    found = [
        distance
        for place in places
        for (start, here), (end, there) in pairwise(sorted(place.items()))
        if (distance := _distance(frames, greys, (start, here), (end, there))) is not None
    ]
    return min(1.0, float(np.mean(found)) / _FULL_DISAGREEMENT) if found else 0.0


def _places(track: AnsweredTrack, frames: Sequence[SeenFrame]) -> dict[int, tuple[float, float]]:
    """A track's points by the index of the picture that they stand on."""
    stamps_ns = np.array([frame.stamp_ns for frame in frames])
    placed = {}
    for stamp_ns, (x, y, _) in track.points.items():
        index = int(np.argmin(np.abs(stamps_ns - stamp_ns)))
        if abs(int(stamps_ns[index]) - stamp_ns) <= _NEAR_NS:
            placed[index] = (x, y)
    return placed


def _distance(
    frames: Sequence[SeenFrame],
    greys: dict[int, GreyFrame],
    start: tuple[int, tuple[float, float]],
    end: tuple[int, tuple[float, float]],
) -> float | None:
    """Of a point carried from one picture to another from the model's own point there.

    Returns:
        share of the diagonal; None where flow lost the point.
    """
    for index in range(start[0], end[0] + 1):
        if index not in greys:
            frame = frames[index]
            greys[index] = GreyFrame.of(Frame(image=frame.image, stamp_ns=frame.stamp_ns))
    size = np.array(frames[0].size, np.float64)
    before = greys[start[0]]
    patches = seed(before, before.to_grey(np.array([start[1]]) * size - 0.5))
    for index in range(start[0] + 1, end[0] + 1):
        patches = carry(patches, greys[index - 1], greys[index])
    if patches.lost_N[0] or patches.quality_N[0] < _FLOW_QUALITY:
        return None
    carried = before.to_camera(patches.points_N2)[0] + 0.5
    return float(np.linalg.norm(carried - np.array(end[1]) * size) / np.linalg.norm(size))
