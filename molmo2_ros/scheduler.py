"""Turns a busy model into answer rates: which standing questions are asked next, and which end."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_SMOOTHING = 0.3  # weight of the newest interval in a measured rate
_EARLY = 0.5  # of its period: so much before its time a question joins others on its frames
_JITTER = 0.1  # of a camera's period: so much later than expected a frame may come
_PERIODS_KEPT = 9  # of a camera, odd


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a standing question asks of the model.

    Args:
        camera: whose frames it is about.
        reads: equal for questions that read the same frames of a camera; they are asked together.
        rate_hz: wished answers a second; None for one about every frame that the model can keep up
            with.
        priority: weight of its lateness, above 0.
        expires_s: time at which it leaves by itself; None for never.

    Raises:
        ValueError: a rate or priority is not above 0.
    """

    camera: Hashable = ""
    reads: Hashable = None
    rate_hz: float | None = None
    priority: float = 1.0
    expires_s: float | None = None

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not self.rate_hz > 0:
            raise ValueError(f"rate is {self.rate_hz} Hz, expected above 0")
        if not self.priority > 0:
            raise ValueError(f"priority is {self.priority}, expected above 0")

    @property
    def period_s(self) -> float:
        """Seconds between two answers, 0 for as often as possible."""
        return 0.0 if self.rate_hz is None else 1 / self.rate_hz

    def is_over(self, now_s: float) -> bool:
        """Whether its time has come to leave."""
        return self.expires_s is not None and self.expires_s <= now_s


class Outcome(Enum):
    """How an answer ended."""

    ANSWERED = "answered"
    LATE = "late"  # its deadline came first: what there is counts, cut off
    CANCELLED = "cancelled"  # nobody needs it any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of questions; each asked one ends in one of the next three, or is being answered.

    `num_missed` are the answers that the wished rates promised and that were never asked for, since
    the model was busy or no newer frame came.
    """

    num_asked: int = 0
    num_answered: int = 0
    num_late: int = 0
    num_cancelled: int = 0
    num_missed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            num_asked=self.num_asked + other.num_asked,
            num_answered=self.num_answered + other.num_answered,
            num_late=self.num_late + other.num_late,
            num_cancelled=self.num_cancelled + other.num_cancelled,
            num_missed=self.num_missed + other.num_missed,
        )


_ENDED = {
    Outcome.ANSWERED: Counts(num_answered=1),
    Outcome.LATE: Counts(num_late=1),
    Outcome.CANCELLED: Counts(num_cancelled=1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upcoming(Generic[Key]):
    """Questions on the same frames that fall due later, by the first of them."""

    key: Key
    num_frames: int  # that are expected from the camera before
    period_s: float  # between these


@dataclass(slots=True, kw_only=True, eq=False)
class _Standing:
    demand: Demand
    due_s: float
    asked_s: float | None = None
    asked_ns: int | None = None  # stamp of the newest frame that it was asked about
    answered_s: float | None = None
    interval_s: float | None = None
    counts: Counts = Counts()


@dataclass(slots=True, kw_only=True, eq=False)
class _Camera:
    newest_ns: int
    arrived_s: float
    num_new: int = 0  # frames since a question was last asked about it
    num_skipped: int = 0
    periods_s: deque[float] = field(default_factory=lambda: deque(maxlen=_PERIODS_KEPT))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Flight:
    standing: _Standing
    asked_s: float


class Scheduler(Generic[Key]):
    """Chooses by weighted lateness among questions of all cameras, and keeps count.

    A question asked at a rate has times at which it is due, one period apart from when it came; one
    without a rate is due again as soon as it was asked. It can be asked once its camera has a frame
    that it was not asked about. Of those that can, the one with the greatest

        priority * seconds since it was due

    is next, and with it all that read the same frames of its camera and are due or nearly so: they
    cost little more than one. Then

    - a model that is fast enough gives each its rate, whatever the priorities;
    - a model that is not gives those that ask for little what they ask for, and the others shares
      in proportion to their priorities;
    - nobody starves: lateness grows without bound. With answers that take `a` seconds, one of `n`
      questions waits at most 2 a (n + 1 + sum of all priorities / its own) seconds;
    - no backlog grows: times that went by unanswered are counted as missed, not caught up with.

    An answer is not interrupted for a more urgent question; `deadline_s` bounds how long that can
    keep others waiting. Clips are not held here: whoever asks takes the newest.

    Times are seconds of any clock that only runs forward.
    """

    def __init__(self) -> None:
        self.deadline_s: float | None = None  # for each answer from when it was asked; None: none
        self.num_expired = 0  # questions that left by themselves
        self._standing: dict[Key, _Standing] = {}
        self._cameras: dict[Hashable, _Camera] = {}
        self._in_flight: dict[Key, _Flight] = {}
        self._gone = Counts()  # of questions that stand no more

    def set_demands(self, demands: Mapping[Key, Demand], now_s: float) -> None:
        """Let exactly these questions stand.

        Those standing already keep their place and their counts; new ones are due at once; an
        answer that is being written for one that stands no more is not needed.
        """
        for key in [key for key in self._standing if key not in demands]:
            self._remove(key, now_s)
        for key, demand in demands.items():
            standing = self._standing.get(key)
            if standing is not None:
                if standing.demand.rate_hz != demand.rate_hz and standing.asked_s is not None:
                    standing.due_s = standing.asked_s + demand.period_s
                standing.demand = demand
            elif not demand.is_over(now_s):
                self._standing[key] = _Standing(demand=demand, due_s=now_s)
        self._expire(now_s)

    def frame_arrived(self, camera: Hashable, stamp_ns: int, now_s: float) -> None:
        """Take note of a camera's newest frame."""
        known = self._cameras.get(camera)
        if known is None:
            known = self._cameras[camera] = _Camera(newest_ns=stamp_ns, arrived_s=now_s)
        elif stamp_ns == known.newest_ns:
            return
        elif stamp_ns > known.newest_ns:
            known.periods_s.append((stamp_ns - known.newest_ns) / 1e9)
        known.newest_ns, known.arrived_s = stamp_ns, now_s
        known.num_new += any(s.demand.camera == camera for s in self._standing.values())

    def __contains__(self, key: Key) -> bool:
        return key in self._standing

    def next(self, now_s: float) -> tuple[Key, ...]:
        """The questions to ask now about one newest clip, the most urgent first; () for none."""
        self._expire(now_s)
        due = [key for key in self._askable() if self._standing[key].due_s <= now_s]
        if not due:
            return ()
        first = max(due, key=lambda key: self._urgency(key, now_s))
        wanted = self._standing[first].demand
        joining = [
            key
            for key in self._askable()
            if key != first
            and self._reads(key) == (wanted.camera, wanted.reads)
            and self._standing[key].due_s <= now_s + _EARLY * self._standing[key].demand.period_s
        ]
        return (first, *joining)

    def asked(self, keys: Iterable[Key], stamp_ns: int, now_s: float) -> None:
        """Take note that questions of one camera are being asked.

        Args:
            keys: from `next`.
            stamp_ns: of the newest frame of the clip that they are asked about.
            now_s: the time.
        """
        cameras = set()
        for key in keys:
            standing = self._standing[key]
            period_s = standing.demand.period_s
            num_missed = 0
            if period_s:
                num_missed = max(0, math.floor((now_s - standing.due_s) / period_s))
                standing.due_s += (num_missed + 1) * period_s
            else:
                standing.due_s = now_s
            standing.counts += Counts(num_asked=1, num_missed=num_missed)
            standing.asked_s, standing.asked_ns = now_s, stamp_ns
            self._in_flight[key] = _Flight(standing=standing, asked_s=now_s)
            cameras.add(standing.demand.camera)
        for name in cameras:
            self.frame_arrived(name, stamp_ns, now_s)  # the clip may know of it earlier
            camera = self._cameras[name]
            camera.num_skipped += max(0, camera.num_new - 1)
            camera.num_new = 0

    def why_stop(self, key: Key, now_s: float) -> Outcome | None:
        """Why the answer that is being written should end, None if it should not."""
        flight = self._in_flight[key]
        standing = self._standing.get(key)
        if standing is not flight.standing or standing.demand.is_over(now_s):
            return Outcome.CANCELLED
        if self.deadline_s is not None and now_s - flight.asked_s > self.deadline_s:
            return Outcome.LATE
        return None

    def ended(self, key: Key, outcome: Outcome, now_s: float) -> None:
        """Take note of an answer's end; one that nobody needs any more counts as cancelled."""
        flight = self._in_flight.pop(key)
        standing = flight.standing
        if self._standing.get(key) is not standing:
            self._gone += _ENDED[Outcome.CANCELLED]
            return
        standing.counts += _ENDED[outcome]
        if outcome is Outcome.CANCELLED:
            return
        if standing.answered_s is not None:
            interval_s = now_s - standing.answered_s
            before_s = standing.interval_s
            standing.interval_s = (
                interval_s
                if before_s is None
                else (1 - _SMOOTHING) * before_s + _SMOOTHING * interval_s
            )
        standing.answered_s = now_s

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until a question can be asked, 0 if one can.

        Returns:
            None if that takes a frame or another question.
        """
        self._expire(now_s)
        due_s = [self._standing[key].due_s for key in self._askable()]
        return max(0.0, min(due_s) - now_s) if due_s else None

    def upcoming(self, now_s: float) -> tuple[Upcoming[Key], ...]:
        """Questions that wait for their time or a frame, the soonest first.

        Those that read the same frames come once. Nothing is foreseen for a camera of which fewer
        than two frames came.
        """
        self._expire(now_s)
        soonest: dict[Hashable, tuple[float, Upcoming[Key]]] = {}
        for key, standing in self._standing.items():
            camera = self._cameras.get(standing.demand.camera)
            if camera is None or not camera.periods_s:
                continue
            period_s = statistics.median(camera.periods_s)
            in_periods = (standing.due_s - camera.arrived_s) / period_s
            needs_news = standing.asked_ns == camera.newest_ns
            num_frames = max(int(needs_news), int(in_periods - _JITTER))
            coming = Upcoming(key=key, num_frames=num_frames, period_s=period_s)
            at_s = camera.arrived_s + max(num_frames, in_periods) * period_s
            known = soonest.get(self._reads(key))
            if known is None or at_s < known[0]:
                soonest[self._reads(key)] = (at_s, coming)
        return tuple(coming for _, coming in sorted(soonest.values(), key=lambda pair: pair[0]))

    def rates_hz(self, now_s: float) -> dict[Key, float]:
        """Measured answers a second of each question; 0 before its second answer."""
        rates = {}
        for key, standing in self._standing.items():
            rates[key] = 0.0
            if standing.interval_s is not None and standing.answered_s is not None:
                # What does not come any more has no rate, however fast it came.
                rates[key] = 1 / max(standing.interval_s, now_s - standing.answered_s, 1e-6)
        return rates

    @property
    def counts(self) -> dict[Key, Counts]:
        """Of each question that stands."""
        return {key: standing.counts for key, standing in self._standing.items()}

    @property
    def total(self) -> Counts:
        """Of all questions that ever stood."""
        return sum((s.counts for s in self._standing.values()), self._gone)

    @property
    def num_frames_skipped(self) -> dict[Hashable, int]:
        """Frames of each camera that no answer was about, since a newer one had come.

        Frames that came while nothing was asked of the camera are not counted.
        """
        return {name: camera.num_skipped for name, camera in self._cameras.items()}

    def _askable(self) -> list[Key]:
        """Questions that are not being answered, with a frame that they were not asked about."""
        found = []
        for key, standing in self._standing.items():
            camera = self._cameras.get(standing.demand.camera)
            has_news = camera is not None and camera.newest_ns != standing.asked_ns
            if has_news and key not in self._in_flight:
                found.append(key)
        return found

    def _urgency(self, key: Key, now_s: float) -> tuple[float, float, float]:
        """The weighted lateness; of equal ones the priority, and then who has waited longer."""
        standing = self._standing[key]
        priority = standing.demand.priority
        waited_s = math.inf if standing.asked_s is None else now_s - standing.asked_s
        return priority * (now_s - standing.due_s), priority, waited_s

    def _reads(self, key: Key) -> tuple[Hashable, Hashable]:
        demand = self._standing[key].demand
        return demand.camera, demand.reads

    def _expire(self, now_s: float) -> None:
        for key in [k for k, s in self._standing.items() if s.demand.is_over(now_s)]:
            self._remove(key, now_s)

    def _remove(self, key: Key, now_s: float) -> None:
        standing = self._standing.pop(key)
        self.num_expired += standing.demand.is_over(now_s)
        self._gone += standing.counts
