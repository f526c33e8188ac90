"""The targets of one camera at camera rate: corrected by each answer, carried by flow between."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from molmo2_ros.answers.answer import Answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import label
from molmo2_ros.tracking.answered import AnsweredObject, answered_objects, present_objects
from molmo2_ros.tracking.depth import lift
from molmo2_ros.tracking.flow import Patches, carry, no_patches
from molmo2_ros.tracking.grey import GreyBuffer, GreyFrame
from molmo2_ros.tracking.identity import OTHER_COLOUR, assign, distances, unlikeness
from molmo2_ros.tracking.motion import F64
from molmo2_ros.tracking.replay import Start, replay
from molmo2_ros.tracking.target import Target
from molmo2_ros.tracking.template import sample_colours

GATE_SHARE = 0.1  # of the image's diagonal: an answer nearer than this speaks of the same thing
REMEMBER_S = 3.0  # a lost target gets its id back within this time ...
LOST_SPEED_SHARE = 1.2  # ... and within a gate that grows by this share of the diagonal a second
AWAY_WEIGHT = 0.08  # share of the gate that a second out of sight takes up
CARRIED_LOOKS = 0.5  # share of the gate that another colour takes up for a carried target
SAME_COLOUR = 0.7 * OTHER_COLOUR  # a sample that differs by more is of what passes before the thing
MAX_MISSES = 2  # answers in a row that do not show a target before it is given up


@dataclass(slots=True, eq=False)
class _Track:
    """What is known of one target beyond the picture round it."""

    query_id: int
    track_id: int
    query_name: str = ""
    label: str = ""
    confidence: float = math.nan
    confirmed_ns: int = -1  # stamp of the newest frame on which the model saw it
    path: dict[int, tuple[float, float]] = field(default_factory=dict)  # camera pixels by stamp
    colour: F64 = field(default_factory=lambda: np.full(3, math.nan))  # RGB
    misses: int = 0
    lost_ns: int = 0

    def last_place(self, is_lost: bool) -> tuple[float, float]:
        """Camera pixels where it was last seen, or last confirmed while it is carried."""
        if not is_lost and self.confirmed_ns in self.path:
            return self.path[self.confirmed_ns]
        return self.path[max(self.path)]


class Tracker:
    """Carries what the model found to every frame of a camera.

    Thread-safe: the camera's thread calls `update` while the model's thread calls `measure`, which
    replays an old answer to now without keeping `update` waiting.

    Args:
        buffer_s: how old an answered frame may be.
    """

    def __init__(self, buffer_s: float = 4.0) -> None:
        self.num_lost = 0  # targets given up since the start
        self._buffer_ns = round(buffer_s * 1e9)
        self._lock = threading.Lock()  # guards everything below
        self._buffer = GreyBuffer(buffer_s)
        self._newest: Frame | None = None
        self._tracks: list[_Track] = []  # a row of _patches each
        self._patches = no_patches()
        self._lost: list[_Track] = []
        self._num_ids: dict[int, int] = {}  # track ids given out, by query

    def update(self, frame: Frame) -> tuple[Target, ...]:
        """Take a camera frame in and move every target onto it.

        Returns:
            the targets on this frame, by query and track id.
        """
        grey = GreyFrame.of(frame)
        with self._lock:
            before = self._buffer.newest
            if before is not None and before.stamp_ns == grey.stamp_ns:
                return self._targets()
            continues = self._buffer.push(grey)
            self._newest = frame
            if before is not None and continues:
                self._patches = carry(self._patches, before, grey)
                self._settle(grey)
            else:
                self._keep([])
                self._lost.clear()
            return self._targets()

    def measure(self, answer: Answer, query_id: int) -> tuple[Target, ...]:
        """Correct the targets of one query by what the model said of frames that `update` saw.

        Args:
            answer: a whole one ends targets that it fails to show; a partial or cut one only adds.
            query_id: tells this query's targets from others'.

        Returns:
            a target for each answered point on its own frame, under the id that it is carried by;
            metres only on the newest frame.
        """
        with self._lock:
            frames = tuple(self._buffer)
            if not frames:
                return ()
            objects = answered_objects(answer, frames[-1].width, frames[-1].height)
            tracks = self._identify(objects, query_id, answer)
            present = present_objects(answer, objects)
            shown = {entry.object_id for entry in present}
            pairs = [
                (track, entry)
                for track, entry in zip(tracks, objects, strict=True)
                # What is known from a newer frame already is not overruled by an older one.
                if entry.object_id in shown and entry.last_ns > track.confirmed_ns
            ]
        order, patches = replay([_start(entry) for _, entry in pairs], frames)
        with self._lock:
            caught_up = self._catch_up(patches, frames[-1])
            if caught_up is not None:
                for row in np.flatnonzero(caught_up.lost_N):
                    if pairs[order[row]][0] in self._lost:
                        self._note_last_seen(pairs[order[row]][0], caught_up, int(row))
                # What went out of sight since stays as it is carried, or lost.
                seen = np.flatnonzero(~caught_up.lost_N)
                self._confirm([pairs[order[row]] for row in seen], caught_up.take(seen))
            if not (answer.partial or answer.truncated):
                self._count_misses(
                    query_id,
                    [
                        t
                        for t, entry in zip(tracks, objects, strict=True)
                        if entry.object_id in shown
                    ],
                )
            if self._buffer.newest is not None:
                self._settle(self._buffer.newest)
            return tuple(
                self._answered_target(track, entry, stamp_ns)
                for track, entry in zip(tracks, objects, strict=True)
                for stamp_ns in entry.path
            )

    def targets(self) -> tuple[Target, ...]:
        """All targets on the newest frame, by query and track id."""
        with self._lock:
            return self._targets()

    def forget(self, query_id: int) -> None:
        """Drop the targets of a query that is no longer asked."""
        with self._lock:
            self._keep([row for row, t in enumerate(self._tracks) if t.query_id != query_id])
            self._lost = [track for track in self._lost if track.query_id != query_id]
            self._num_ids.pop(query_id, None)

    # The rest is called with _lock held.

    def _targets(self) -> tuple[Target, ...]:
        newest, grey = self._newest, self._buffer.newest
        if newest is None or grey is None:
            return ()
        places = grey.to_camera(self._patches.points_N2)
        targets = []
        for track, (u, v), quality in zip(
            self._tracks, places, self._patches.quality_N, strict=True
        ):
            targets.append(
                self._target(
                    track,
                    (float(u), float(v)),
                    newest.stamp_ns,
                    age_s=(newest.stamp_ns - track.confirmed_ns) / 1e9,
                    quality=float(quality),
                    confidence=track.confidence,
                    measured=track.confirmed_ns == newest.stamp_ns,
                )
            )
        return tuple(sorted(targets, key=lambda target: (target.query_id, target.track_id)))

    def _settle(self, grey: GreyFrame) -> None:
        """Note where every target is now, and give up those that left or were lost from sight."""
        oldest_ns = grey.stamp_ns - self._buffer_ns
        places = grey.to_camera(self._patches.points_N2)
        kept = []
        for row, (track, (u, v)) in enumerate(zip(self._tracks, places, strict=True)):
            inside = 0 <= u <= grey.width - 1 and 0 <= v <= grey.height - 1
            if self._patches.unseen_ns_N[row] == 0:
                track.path[grey.stamp_ns] = (float(u), float(v))
            if inside and not self._patches.lost_N[row] and track.misses < MAX_MISSES:
                track.path = {ns: xy for ns, xy in track.path.items() if ns >= oldest_ns}
                kept.append(row)
            else:
                self._note_last_seen(track, self._patches, row)
                self._lost.append(track)
                self.num_lost += 1
        if len(kept) < len(self._tracks):
            self._keep(kept)
        # Longer by the age of the oldest answer that may still ask for it.
        remembered_ns = grey.stamp_ns - round(REMEMBER_S * 1e9) - self._buffer_ns
        self._lost = [track for track in self._lost if track.lost_ns >= remembered_ns]

    def _keep(self, rows: list[int]) -> None:
        self._patches = self._patches.take(rows)
        self._tracks = [self._tracks[row] for row in rows]

    def _catch_up(self, patches: Patches, replayed_to: GreyFrame) -> Patches | None:
        """Carry on over frames that came meanwhile; None if the stream began anew."""
        frames = [frame for frame in self._buffer if frame.stamp_ns >= replayed_to.stamp_ns]
        if not frames or frames[0] is not replayed_to:
            return None
        for before, after in zip(frames, frames[1:], strict=False):
            patches = carry(patches, before, after)
        return patches

    def _identify(
        self, objects: Sequence[AnsweredObject], query_id: int, answer: Answer
    ) -> list[_Track]:
        """The track of each object: a carried one, one lost lately, or a new one."""
        known = [track for track in (*self._tracks, *self._lost) if track.query_id == query_id]
        colours_A3 = self._colours(objects)
        cost_CA = self._costs(known, objects, colours_A3, answer.stamps_ns[-1])
        found = {column: known[row] for row, column in assign(cost_CA)}
        tracks = []
        for column, entry in enumerate(objects):
            track = found.get(column)
            if track is None:
                self._num_ids[query_id] = self._num_ids.get(query_id, 0) + 1
                track = _Track(query_id=query_id, track_id=self._num_ids[query_id])
                track.lost_ns = entry.last_ns
                self._lost.append(track)
            track.query_name = answer.query.name
            track.label = answer.label or label(answer.query)
            track.path.update(entry.path)
            track.colour = _mixed(track.colour, colours_A3[column])
            tracks.append(track)
        return tracks

    def _costs(
        self,
        known: Sequence[_Track],
        objects: Sequence[AnsweredObject],
        colours_A3: F64,
        answered_ns: int,
    ) -> F64:
        """How ill an object goes with a track, [C, A]; from 1 on it is another thing's.

        Where a target was carried over the answered frame, its place there says most: a model
        wanders on a thing of several colours. Of one that is out of sight, or may have been
        carried off by what passed before it, the looks say most, and of two the one lost last
        is it.
        """
        newest = self._newest
        assert newest is not None
        diagonal_px = math.hypot(newest.width, newest.height)
        paths = [entry.path for entry in objects]
        unlike_CA = unlikeness(_colours_of(known), colours_A3)
        carried_CA = distances([track.path for track in known], paths) / (GATE_SHARE * diagonal_px)
        carried_CA += CARRIED_LOOKS * np.minimum(unlike_CA, 1.0)
        is_lost = [track in self._lost for track in known]
        since_C = [
            t.lost_ns if lost else t.confirmed_ns for t, lost in zip(known, is_lost, strict=True)
        ]
        away_C = np.maximum(0.0, (answered_ns - np.array(since_C)) / 1e9)
        was = [{0: track.last_place(lost)} for track, lost in zip(known, is_lost, strict=True)]
        now = [{0: next(iter(path.values()))} for path in paths]
        gate_C = diagonal_px * (GATE_SHARE + LOST_SPEED_SHARE * away_C)
        sought_CA = distances(was, now) / gate_C[:, None] + unlike_CA
        sought_CA += AWAY_WEIGHT * away_C[:, None]
        sought_CA[away_C > REMEMBER_S] = np.inf
        return np.asarray(np.minimum(carried_CA, sought_CA))

    def _colours(self, objects: Sequence[AnsweredObject]) -> F64:
        """The colour of each object where it was last seen, at one exposure: [A, 3]."""
        by_stamp = {frame.stamp_ns: frame for frame in self._buffer}
        colours_A3 = np.full((len(objects), 3), math.nan)
        for row, entry in enumerate(objects):
            frame = by_stamp.get(entry.last_ns)
            if frame is not None:
                places = frame.to_colours(frame.to_grey(np.array([entry.path[entry.last_ns]])))
                colours_A3[row] = sample_colours(frame.colours, places)[0]
                colours_A3[row] /= self._buffer.exposure(frame)
        return colours_A3

    def _note_last_seen(self, track: _Track, patches: Patches, row: int) -> None:
        """When and where a target that is out of sight now was seen last."""
        newest = self._buffer.newest
        assert newest is not None
        u, v = newest.to_camera(patches.seen_N2[row])
        track.lost_ns = newest.stamp_ns - int(patches.unseen_ns_N[row])
        track.path[track.lost_ns] = (float(u), float(v))

    def _confirm(self, pairs: Sequence[tuple[_Track, AnsweredObject]], patches: Patches) -> None:
        """Put tracks where the model saw them, carried to now."""
        confirmed = [track for track, _ in pairs]
        for track, entry in pairs:
            confidence = entry.points[entry.last_ns].confidence
            track.confidence = math.nan if confidence is None else confidence
            track.confirmed_ns = entry.last_ns
            track.misses = 0
        self._lost = [track for track in self._lost if track not in confirmed]
        self._keep([row for row, track in enumerate(self._tracks) if track not in confirmed])
        self._tracks += confirmed
        self._patches = Patches.joined(self._patches, patches)

    def _count_misses(self, query_id: int, shown: Sequence[_Track]) -> None:
        for track in self._tracks:
            if track.query_id == query_id:
                track.misses = 0 if track in shown else track.misses + 1

    def _answered_target(self, track: _Track, entry: AnsweredObject, stamp_ns: int) -> Target:
        confidence = entry.points[stamp_ns].confidence
        return self._target(
            track,
            entry.path[stamp_ns],
            stamp_ns,
            age_s=0.0,
            quality=1.0,
            confidence=math.nan if confidence is None else confidence,
            measured=True,
        )

    def _target(
        self,
        track: _Track,
        place: tuple[float, float],
        stamp_ns: int,
        *,
        age_s: float,
        quality: float,
        confidence: float,
        measured: bool,
    ) -> Target:
        """A track at a camera pixel; metres only on the newest frame."""
        newest = self._newest
        assert newest is not None
        sighting = lift(newest, *place) if stamp_ns == newest.stamp_ns else None
        return Target(
            query_id=track.query_id,
            query_name=track.query_name,
            label=track.label,
            track_id=track.track_id,
            stamp_ns=stamp_ns,
            u=place[0],
            v=place[1],
            point_m=None if sighting is None else sighting.point_m,
            z_std_m=math.nan if sighting is None else sighting.z_std_m,
            age_s=age_s,
            quality=quality,
            confidence=confidence,
            measured=measured,
        )


def _colours_of(tracks: Sequence[_Track]) -> F64:
    return np.array([track.colour for track in tracks], np.float64).reshape(-1, 3)


def _mixed(known_3: F64, sampled_3: F64) -> F64:
    """A colour brought half the way to what was sampled, unless that shows another thing."""
    if np.isnan(known_3).any():
        return sampled_3
    if not np.abs(sampled_3 - known_3).max() < SAME_COLOUR:
        return known_3
    return np.asarray((known_3 + sampled_3) / 2)


def _start(entry: AnsweredObject) -> Start:
    u, v = entry.path[entry.last_ns]
    return Start(stamp_ns=entry.last_ns, u=u, v=v)
