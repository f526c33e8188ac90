"""The corrections of this page: what was said of which picture, and how it is taken back."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any

from molmo2_ros.camera.stamp import stamp_json
from molmo2_ros.corrections import Review
from molmo2_ros.errors import DataError

MAX_REVIEWS = 200  # that are listed; all are recorded
SOURCE = "web"


@dataclass(slots=True)
class _Entry:
    review: Review
    camera: str
    state: str = "sent"  # sent, recorded, undone


class Reviews:
    """A list of what was corrected, newest last."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def add(
        self,
        camera: str,
        frame_id: str,
        stamp_ns: int,
        query: str,
        points_px: tuple[tuple[float, float], ...],
    ) -> Review:
        """One more correction.

        Raises:
            QueryError: there are no words.
            DataError: a place is no pixel.
        """
        review = Review(
            id=f"{SOURCE}-{secrets.token_hex(5)}",
            query=query,
            stamp_ns=stamp_ns,
            frame_id=frame_id,
            points_px=points_px,
            source=SOURCE,
        )
        self._entries.append(_Entry(review, camera))
        del self._entries[:-MAX_REVIEWS]
        return review

    def undo(self, review_id: str) -> Review:
        """Take one back.

        Returns:
            what is now to be said of that thing in that picture: what stood before, or that nothing
                is said.

        Raises:
            DataError: there is none of this id, or it was taken back already.
        """
        entry = next((e for e in self._entries if e.review.id == review_id), None)
        if entry is None or entry.state == "undone":
            raise DataError(
                f"no correction {review_id!r} stands, expected the id of one that was made here "
                "and not taken back; see the list"
            )
        entry.state = "undone"
        about = _about(entry.review)
        left = [e for e in self._entries if e.state != "undone" and _about(e.review) == about]
        if left:
            return left[-1].review
        return replace(entry.review, points_px=(), retracted=True)

    def stands(self, review_id: str) -> bool:
        """Whether one was made and not taken back."""
        return any(e.review.id == review_id and e.state != "undone" for e in self._entries)

    def recorded(self, review_id: str) -> bool:
        """Somebody wrote one down; False where it is none of these."""
        for entry in self._entries:
            if entry.review.id == review_id and entry.state == "sent":
                entry.state = "recorded"
                return True
        return False

    def as_json(self) -> list[dict[str, Any]]:
        """The list as viewers get it."""
        return [
            {
                "id": entry.review.id,
                "state": entry.state,
                "camera": entry.camera,
                "frame_id": entry.review.frame_id,
                "stamp": stamp_json(entry.review.stamp_ns),
                "query": entry.review.query,
                "points": [{"u": u, "v": v} for u, v in entry.review.points_px],
            }
            for entry in self._entries
        ]


def _about(review: Review) -> tuple[str, str, int]:
    return review.query, review.frame_id, review.stamp_ns
