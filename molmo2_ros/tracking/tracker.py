"""The targets of one camera at camera rate: corrected by each answer, carried by flow between."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from molmo2_ros.answers.answer import Answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import label
from molmo2_ros.tracking.answered import AnsweredObject, answered_objects, present_objects
from molmo2_ros.tracking.depth import lift
from molmo2_ros.tracking.flow import Patches, carry, no_patches
from molmo2_ros.tracking.grey import GreyBuffer, GreyFrame
from molmo2_ros.tracking.identity import (
    REMEMBER_S,
    assign,
    distances,
    looks_odds,
    place_odds,
)
from molmo2_ros.tracking.looks import Sights, answered_looks, unlikeness
from molmo2_ros.tracking.motion import F64
from molmo2_ros.tracking.replay import Start, replay
from molmo2_ros.tracking.scene import SceneMotion
from molmo2_ros.tracking.target import Target
from molmo2_ros.tracking.track import Track

MAX_MISSES = 2  # answers in a row that do not show a target before it is given up
MAX_LOST = 100  # lost targets that are remembered


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
        self._tracks: list[Track] = []  # a row of _patches each
        self._patches = no_patches()
        self._lost: list[Track] = []
        self._num_ids: dict[int, int] = {}  # track ids given out, by query
        self._measuring: int | None = None  # the query whose answer is replayed; None: forgotten
        self._scene = SceneMotion()  # up to the newest answered frame; guards itself

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
            metres only on the newest frame. None for a query that was forgotten meanwhile.
        """
        with self._lock:
            frames = tuple(self._buffer)
            self._measuring = query_id
        if not frames:
            return ()
        self._scene.follow(frames, answer.stamps_ns[-1])
        with self._lock:
            if self._is_forgotten():
                return ()  # forgotten meanwhile
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
        patches, reached = self._follow(patches, frames[-1])
        with self._lock:
            if self._is_forgotten():
                return ()
            caught_up = self._catch_up(patches, reached)
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
        """Drop the targets of a query that is no longer asked, for good.

        An answer that is being replayed leaves none behind; nobody waits for it.
        """
        with self._lock:
            if self._measuring == query_id:
                self._measuring = None
            self._keep([row for row, t in enumerate(self._tracks) if t.query_id != query_id])
            self._lost = [track for track in self._lost if track.query_id != query_id]
            self._num_ids.pop(query_id, None)

    def _follow(self, patches: Patches, reached: GreyFrame) -> tuple[Patches, GreyFrame]:
        """Carry on over frames that come meanwhile until hardly one is left.

        Returns:
            the patches, and the frame that they are on.
        """
        num_before = None
        while True:
            with self._lock:
                frames = self._since(reached)
            is_near = len(frames) <= 2 or (num_before is not None and len(frames) >= num_before)
            if is_near:  # or frames come faster than patches follow
                return patches, reached
            num_before = len(frames)
            patches, reached = _along(patches, frames), frames[-1]

    # The rest is called with _lock held.

    def _is_forgotten(self) -> bool:
        """Whether the query whose answer is replayed stands no more."""
        return self._measuring is None

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
                if next(iter(track.path)) < oldest_ns - self._buffer_ns:
                    track.forget_before(oldest_ns)  # now and then: it costs
                kept.append(row)
            else:
                self._note_last_seen(track, self._patches, row)
                self._lost.append(track)
                self.num_lost += 1
        if len(kept) < len(self._tracks):
            self._keep(kept)

    def _keep(self, rows: list[int]) -> None:
        self._patches = self._patches.take(rows)
        self._tracks = [self._tracks[row] for row in rows]

    def _since(self, reached: GreyFrame) -> list[GreyFrame]:
        """A frame and those that came after it; none if the stream began anew."""
        frames = [frame for frame in self._buffer if frame.stamp_ns >= reached.stamp_ns]
        return frames if frames and frames[0] is reached else []

    def _catch_up(self, patches: Patches, reached: GreyFrame) -> Patches | None:
        """Carry on over frames that came meanwhile; None if the stream began anew."""
        frames = self._since(reached)
        return _along(patches, frames) if frames else None

    def _identify(
        self, objects: Sequence[AnsweredObject], query_id: int, answer: Answer
    ) -> list[Track]:
        """The track of each object: a carried one, one lost lately, or a new one."""
        self._forget_lost()
        known = [track for track in (*self._tracks, *self._lost) if track.query_id == query_id]
        looks = answered_looks(objects, self._buffer)
        found = {column: known[row] for row, column in assign(self._odds(known, objects, looks))}
        tracks = []
        for column, entry in enumerate(objects):
            track = found.get(column)
            if track is None:
                self._num_ids[query_id] = self._num_ids.get(query_id, 0) + 1
                track = Track(query_id=query_id, track_id=self._num_ids[query_id])
                self._lost.append(track)
            track.query_name = answer.query.name
            track.label = answer.label or label(answer.query)
            track.path.update(entry.path)
            track.show(looks[column])
            tracks.append(track)
        return tracks

    def _odds(
        self, known: Sequence[Track], objects: Sequence[AnsweredObject], looks: Sequence[Sights]
    ) -> F64:
        """How likely each object is each track and not a new thing: nats, [C, A]."""
        newest = self._newest
        assert newest is not None
        carried_CA = distances([track.path for track in known], [entry.path for entry in objects])
        sought_CA, away_CA = np.zeros((2, len(known), len(objects)))
        for row, track in enumerate(known):
            expected = track.expected(track in self._lost, self._scene)
            places: dict[int, complex] = {}
            for column, entry in enumerate(objects):
                stamp_ns = entry.first_after(expected.seen_ns)
                if stamp_ns not in places:
                    places[stamp_ns] = expected.at(stamp_ns)
                sought_CA[row, column] = abs(complex(*entry.path[stamp_ns]) - places[stamp_ns])
                away_CA[row, column] = expected.away_s(stamp_ns)
        colours_C3 = np.array([track.colour for track in known]).reshape(-1, 3)
        return place_odds(
            carried_CA, sought_CA, away_CA, width=newest.width, height=newest.height
        ) + looks_odds(unlikeness(colours_C3, looks))

    def _forget_lost(self) -> None:
        """Let go what was lost too long ago to be known again."""
        newest = self._newest
        assert newest is not None
        # Longer by the age of the oldest answer that may still ask for it.
        oldest_ns = newest.stamp_ns - round(REMEMBER_S * 1e9) - self._buffer_ns
        lost = [track for track in self._lost if track.last_ns >= oldest_ns]
        self._lost = lost[-MAX_LOST:]

    def _note_last_seen(self, track: Track, patches: Patches, row: int) -> None:
        """When and where a target that is out of sight now was seen last."""
        newest = self._buffer.newest
        assert newest is not None
        u, v = newest.to_camera(patches.seen_N2[row])
        track.path[newest.stamp_ns - int(patches.unseen_ns_N[row])] = (float(u), float(v))

    def _confirm(self, pairs: Sequence[tuple[Track, AnsweredObject]], patches: Patches) -> None:
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

    def _count_misses(self, query_id: int, shown: Sequence[Track]) -> None:
        for track in self._tracks:
            if track.query_id == query_id:
                track.misses = 0 if track in shown else track.misses + 1

    def _answered_target(self, track: Track, entry: AnsweredObject, stamp_ns: int) -> Target:
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
        track: Track,
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


def _along(patches: Patches, frames: Sequence[GreyFrame]) -> Patches:
    """Patches of the first frame, carried to the last one."""
    for before, after in pairwise(frames):
        patches = carry(patches, before, after)
    return patches


def _start(entry: AnsweredObject) -> Start:
    u, v = entry.path[entry.last_ns]
    return Start(stamp_ns=entry.last_ns, u=u, v=v)
