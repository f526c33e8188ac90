"""Which standing question is asked next, so that each gets its share of a busy model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_SMOOTHING = 0.3  # weight of the newest interval in a measured rate


@dataclass(slots=True)
class _Standing:
    """When a question was answered and is due."""

    rate_hz: float
    due_s: float
    answered_s: float | None = None
    interval_s: float | None = None


class Scheduler(Generic[Key]):
    """Round robin by due time.

    A question asked at a rate is due 1 / rate after it was last due. With a model that cannot keep
    up no backlog grows: a question that is late is due again with its answer and waits behind those
    that have waited longer. The clip is not the scheduler's matter: whoever asks takes the newest.

    Times are seconds of any clock that only runs forward.
    """

    def __init__(self) -> None:
        self._standing: dict[Key, _Standing] = {}

    def set_rates(self, rates_hz: Mapping[Key, float]) -> None:
        """Let exactly these questions stand.

        Args:
            rates_hz: answers a second that are wished; those standing already keep their place, new
                ones are due at once.

        Raises:
            ValueError: a rate is not above 0.
        """
        for key, rate_hz in rates_hz.items():
            if not rate_hz > 0:
                raise ValueError(f"rate of {key!r} is {rate_hz} Hz, expected above 0")
        kept = {}
        for key, rate_hz in rates_hz.items():
            standing = self._standing.get(key)
            if standing is None:
                standing = _Standing(rate_hz=rate_hz, due_s=float("-inf"))
            elif standing.rate_hz != rate_hz:
                if standing.answered_s is not None:
                    standing.due_s = standing.answered_s + 1 / rate_hz
                standing.rate_hz = rate_hz
            kept[key] = standing
        self._standing = kept

    def next(self, now_s: float) -> Key | None:
        """The question that has been due for longest; None if none is."""
        due = [key for key, standing in self._standing.items() if standing.due_s <= now_s]
        return min(due, key=lambda key: self._standing[key].due_s, default=None)

    def answered(self, key: Key, now_s: float) -> None:
        """Take note of an answer; one to a question that stands no more is ignored."""
        standing = self._standing.get(key)
        if standing is None:
            return
        if standing.answered_s is not None:
            interval_s = now_s - standing.answered_s
            before = standing.interval_s
            standing.interval_s = (
                interval_s
                if before is None
                else (1 - _SMOOTHING) * before + _SMOOTHING * interval_s
            )
        is_first = standing.answered_s is None
        standing.answered_s = now_s
        due_s = now_s if is_first else standing.due_s
        standing.due_s = max(now_s, due_s + 1 / standing.rate_hz)

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until a question is due, 0 if one is; None if none stands."""
        if not self._standing:
            return None
        return max(0.0, min(standing.due_s for standing in self._standing.values()) - now_s)

    @property
    def rates_hz(self) -> dict[Key, float]:
        """Measured answers a second of each question, 0 before its second answer."""
        return {
            key: 0.0 if not standing.interval_s else 1 / standing.interval_s
            for key, standing in self._standing.items()
        }
