"""Where a track starts that was given by a point on one frame, while the clip slides on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from molmo2_ros.answers.drafts import Places
from molmo2_ros.camera.clip import Clip
from molmo2_ros.errors import QueryError
from molmo2_ros.prompt.query import Query, SeedPoint
from molmo2_ros.tracking.foresight import carried
from molmo2_ros.tracking.target import Target

_NEAR_NS = 150_000_000  # the clip keeps a frame every 125 ms, and another one is near enough
MAX_PLACES = 64  # of one thing that are kept: more than a clip has answered frames


@dataclass(frozen=True, slots=True)
class _Place:
    stamp_ns: int
    x: float  # 0..1 of the frame
    y: float  # 0..1 of the frame


class Anchors:
    """Molmo2 is asked to track from a point in the clip that it reads, and that clip slides.

    While the frame on which a person pointed is part of the clip, the model is given that point.
    Afterwards it is given the oldest of its own answered points that the clip still holds. Where it
    has answered nothing for half a clip, optical flow carries the last known point on, so that it
    is asked again. Use from one thread.
    """

    def __init__(self) -> None:
        self._places: dict[int, list[_Place]] = {}  # by query id, oldest first

    def asked(self, query: Query, query_id: int, clip: Clip) -> Query:
        """The query as it is put about a clip; one without a stamped start point as it is.

        Raises:
            QueryError: the thing was lost: no point of it is in the clip any more.
        """
        seed = query.seed
        if seed is None or seed.stamp_ns is None:
            return query
        known = [_Place(seed.stamp_ns, seed.x, seed.y), *self._places.get(query_id, ())]
        held = [place for place in known if place.stamp_ns >= clip.stamps_ns[0] - _NEAR_NS]
        if not held:
            raise QueryError(
                f"what was pointed at for {query.name!r} has not been seen for as long as the "
                "clip, so there is no point left to track it from; point at it again"
            )
        newest = max(held, key=lambda place: place.stamp_ns)
        if newest.stamp_ns < clip.stamps_ns[len(clip) // 2]:
            self._carry(query_id, newest, clip)
        index = _index_of(clip.stamps_ns, held[0].stamp_ns)
        start = SeedPoint(time_s=clip.times_s[index], x=held[0].x, y=held[0].y)
        return replace(query, seed=start)

    def _carry(self, query_id: int, place: _Place, clip: Clip) -> None:
        """Remember where optical flow takes a place to on the clip's newest frame."""
        frames = clip.frames[_index_of(clip.stamps_ns, place.stamp_ns) :]
        places: Places = {0: (place.x, place.y)}
        for before, after in pairwise(frames):
            places = carried(places, before, after)
        if places:
            self.learn(query_id, [(frames[-1].stamp_ns, *places[0])])

    def learn(self, query_id: int, places: Iterable[tuple[int, float, float]]) -> None:
        """Remember where the model saw the thing.

        Args:
            query_id: of the question.
            places: stamp_ns, and x and y in 0..1 of the frame, of one thing.
        """
        known = {place.stamp_ns: place for place in self._places.get(query_id, ())}
        known.update((stamp_ns, _Place(stamp_ns, x, y)) for stamp_ns, x, y in places)
        newest = sorted(known.values(), key=lambda place: place.stamp_ns)[-MAX_PLACES:]
        self._places[query_id] = newest

    def keep(self, query_ids: Collection[int]) -> None:
        """Forget all others."""
        self._places = {i: places for i, places in self._places.items() if i in query_ids}


def places_of(
    rows: Sequence[Target], width: int, height: int
) -> Iterable[tuple[int, float, float]]:
    """The answered points of an answer's first thing, as `Anchors.learn` takes them.

    Args:
        rows: of one answer, in pixels.
        width: of the frames, pixels.
        height: of the frames, pixels.
    """
    first = min((row.track_id for row in rows), default=0)
    for row in rows:
        x, y = (row.u + 0.5) / width, (row.v + 0.5) / height
        if row.track_id == first and 0 <= x <= 1 and 0 <= y <= 1:
            yield row.stamp_ns, x, y


def _index_of(stamps_ns: tuple[int, ...], stamp_ns: int) -> int:
    """The clip's frame nearest to a stamp.

    Never its last one, where there are others: the answer names the frames after the point.
    """
    index = min(range(len(stamps_ns)), key=lambda i: abs(stamps_ns[i] - stamp_ns))
    return min(index, max(0, len(stamps_ns) - 2))
