"""What was found in a video or in pictures, as targets on each of their frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.frame import Frame
from molmo2_ros.cli.findings import Finding, Result
from molmo2_ros.tracking.flow import QUALITY_FLOOR, Patches, carry, no_patches, seed
from molmo2_ros.tracking.grey import GreyFrame
from molmo2_ros.tracking.target import Target

_NS = 1_000_000_000


def targets_on_pictures(frames: Sequence[Frame], result: Result) -> list[list[Target]]:
    """Targets on each of several pictures, where they were found."""
    by_image: dict[int, list[Finding]] = defaultdict(list)
    for finding in result.findings:
        by_image[finding.image or 1].append(finding)
    return [
        [_target(finding, result, frame.stamp_ns) for finding in by_image[number]]
        for number, frame in enumerate(frames, 1)
    ]


class Carried:
    """Findings on every frame: put where they were found, carried by flow in between."""

    def __init__(self, result: Result) -> None:
        self._result = result
        self._adds = result.query.over_clip  # each thing is found once, on a frame of its own
        self._by_stamp: dict[int, list[Finding]] = {
            # An answer without a point ends what was carried.
            answer.stamps_ns[-1]: []
            for answer in result.answers
            if not answer.points
        }
        for finding in result.findings:
            self._by_stamp.setdefault(finding.stamp_ns, []).append(finding)
        self._shown: list[Finding] = []  # a row of _patches each
        self._patches = no_patches()
        self._before: GreyFrame | None = None

    def move_to(self, frame: Frame) -> list[Target]:
        """Targets on the next frame."""
        grey = GreyFrame.of(frame)
        found = self._by_stamp.get(frame.stamp_ns)
        if found is not None and not self._adds:
            self._shown, self._patches = [], no_patches()
        elif self._before is not None and self._before.grey.shape == grey.grey.shape:
            self._patches = carry(self._patches, self._before, grey)
        else:
            self._shown, self._patches = [], no_patches()
        if found:
            places = np.array([(finding.u, finding.v) for finding in found])
            self._shown = [*self._shown, *found]
            self._patches = Patches.joined(self._patches, seed(grey, grey.to_grey(places)))
        self._before = grey
        places = grey.to_camera(self._patches.points_N2)
        inside = ((places >= 0) & (places <= (grey.width - 1, grey.height - 1))).all(axis=1)
        kept = np.flatnonzero(inside)
        self._shown = [self._shown[row] for row in kept]
        self._patches = self._patches.take(kept)
        return [
            _target(finding, self._result, frame.stamp_ns, place, quality)
            for finding, place, quality in zip(
                self._shown, places[kept], self._patches.quality_N, strict=True
            )
            if quality >= QUALITY_FLOOR
        ]


def _target(
    finding: Finding,
    result: Result,
    stamp_ns: int,
    place: npt.NDArray[np.float64] | None = None,
    quality: float = 1.0,
) -> Target:
    u, v = (finding.u, finding.v) if place is None else place
    return Target(
        query_id=1,
        query_name=result.query.name,
        label=finding.label,
        track_id=finding.track_id,
        stamp_ns=stamp_ns,
        u=float(u),
        v=float(v),
        point_m=None,
        age_s=(stamp_ns - finding.stamp_ns) / _NS,
        quality=float(quality),
        confidence=finding.confidence,
        measured=stamp_ns == finding.stamp_ns,
    )
