"""What a reader made of its files: examples, and each row that it could not use and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

MAX_KEPT = 1000  # places that are kept word for word; all of them are counted


class Why(str, Enum):
    """Why a row gives no example."""

    MALFORMED = "malformed"  # the row is not what its data set says
    NO_MEDIA = "media not found"  # its video or image is not on this machine
    RULE = "left out by rule"  # the authors, or an option of the reader, leave it out


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """One row that gave no example.

    Args:
        place: file and row.
        why: the kind of reason.
        reason: in words, with the value that was met.
    """

    place: str
    why: Why
    reason: str


@dataclass(slots=True)
class ReadReport:
    """Grows while a reader runs; complete when its iterator ends.

    Args:
        num_examples: that were yielded.
        counts: of rows without an example, by kind of reason.
        skipped: the first MAX_KEPT of these rows.
    """

    num_examples: int = 0
    counts: Counter[Why] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, place: str, why: Why, reason: str) -> None:
        """Notes a row that gives no example."""
        self.counts[why] += 1
        if len(self.skipped) < MAX_KEPT:
            self.skipped.append(Skipped(place=place, why=why, reason=reason))

    def lines(self, num_shown: int = 5) -> list[str]:
        """One line for all, one for each kind of reason, and the first rows of each kind."""
        total = sum(self.counts.values())
        lines = [f"{self.num_examples} examples; {total} rows without one"]
        for why, count in self.counts.items():
            lines.append(f"  {count} {why.value}")
            shown = [row for row in self.skipped if row.why is why][:num_shown]
            lines += [f"    {row.place}: {row.reason}" for row in shown]
        return lines
