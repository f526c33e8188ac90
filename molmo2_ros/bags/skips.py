"""What of a log could not be used: named once, counted always, and never the end of the rest."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger(__name__)
_KEPT = 5  # texts of each kind


class Skips:
    """Counts what is left out by kind, and keeps the first texts of each kind.

    Args:
        earlier: `as_json()` of a run that this one goes on with.
    """

    def __init__(self, earlier: Mapping[str, Any] | None = None) -> None:
        earlier = earlier or {}
        self.counts: Counter[str] = Counter(earlier.get("counts", {}))
        self.texts: dict[str, list[str]] = {
            kind: list(texts) for kind, texts in earlier.get("texts", {}).items()
        }

    def add(self, kind: str, text: str) -> None:
        """Take note of one message that is left out.

        Args:
            kind: what is wrong with it, in a word or two: the key of the count.
            text: which message, what was met and what was expected.
        """
        self.counts[kind] += 1
        texts = self.texts.setdefault(kind, [])
        if len(texts) < _KEPT:
            texts.append(text)
        if self.counts[kind] == 1:
            _log.warning("left out (%s): %s", kind, text)

    def as_json(self) -> dict[str, Any]:
        """Counts and texts."""
        return {"counts": dict(self.counts), "texts": self.texts}
