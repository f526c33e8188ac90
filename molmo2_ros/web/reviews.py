"""The corrections of this page: what was said of which picture, and how it is taken back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from molmo2_ros.camera.stamp import stamp_json
from molmo2_ros.corrections import Review
from molmo2_ros.errors import DataError

MAX_REVIEWS = 200  # that are listed; all are recorded


@dataclass(slots=True)
class _Entry:
    review: Review
    camera: str
    state: str = "sent"  # sent, recorded, undone


class Reviews:
    """A list of what was corrected, newest last."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def add(self, camera: str, review: Review) -> None:
        """One more correction, which was sent."""
        self._entries.append(_Entry(review, camera))
        del self._entries[:-MAX_REVIEWS]

    def undone(self, review_id: str) -> Review:
        """What is to be said of a thing in a picture once a correction of it is taken back.

        Returns:
            what stood before, or that nothing is said.

        Raises:
            DataError: there is none of this id, or it was taken back already.
        """
        entry = next((e for e in self._entries if e.review.id == review_id), None)
        if entry is None or entry.state == "undone":
            raise DataError(
                f"no correction {review_id!r} stands, expected the id of one that was made here "
                "and not taken back; see the list"
            )
        about = _about(entry.review)
        left = [
            e
            for e in self._entries
            if e is not entry and e.state != "undone" and _about(e.review) == about
        ]
        if left:
            return left[-1].review
        return replace(entry.review, points_px=(), retracted=True)

    def mark_undone(self, review_id: str) -> None:
        """It was taken back."""
        for entry in self._entries:
            if entry.review.id == review_id:
                entry.state = "undone"

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
