"""What an operator says about a picture, and how it is written down.

A correction is one place of a thing, or that it is nowhere in the picture. A review names all
places of a thing in one picture at once: a person looks at it and moves, adds and deletes points.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

from molmo2_ros.camera.stamp import stamp_from_json, stamp_json
from molmo2_ros.errors import DataError, QueryError

MAX_PLACES = 200  # of a thing in one picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Where something is in one picture, or that it is not in it.

    Args:
        query: the words for the thing, such as "red mug".
        stamp_ns: of the picture; 0 for the newest.
        frame_id: of the camera; "" for any.
        u: pixels from the left.
        v: pixels from the top.
        visible: False: there is no such thing in the picture, and `u`, `v` are ignored.
        retracted: nothing is said about the thing in this picture any more; not `visible`.
        source: who says it, such as "web"; "" where it is not known.
        review_id: of the review that it is a part of; "" for none.

    Raises:
        QueryError: there are no words.
        DataError: the place is no pixel.
    """

    query: str
    stamp_ns: int
    frame_id: str
    u: float
    v: float
    visible: bool
    retracted: bool = False
    source: str = ""
    review_id: str = ""

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise QueryError(
                "a correction came without words for the thing; set the recorder's parameter "
                "correction_query, or name it in ~/correction_json"
            )
        is_place = math.isfinite(self.u) and math.isfinite(self.v) and min(self.u, self.v) >= 0
        if self.visible and not is_place:
            raise DataError(
                f"correction about {self.query!r} is at {self.u:g}, {self.v:g}, expected pixels "
                "from the left and the top; z = -1 says that the thing is not there"
            )

    def as_json(self) -> str:
        """As it is recorded on ~/corrections."""
        return json.dumps(
            {
                "query": " ".join(self.query.split()),
                "stamp": stamp_json(self.stamp_ns),
                "frame_id": self.frame_id,
                "visible": self.visible,
                "u": self.u if self.visible else None,
                "v": self.v if self.visible else None,
                **({"retracted": True} if self.retracted else {}),
                **({"source": self.source} if self.source else {}),
                **({"review_id": self.review_id} if self.review_id else {}),
            },
            ensure_ascii=False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureName:
    """One picture of one camera.

    Args:
        stamp_ns: when it was taken.
        frame_id: of the camera; "" for any.
    """

    stamp_ns: int
    frame_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """All places of a thing in one picture, by a person who looked at it.

    Args:
        id: tells it from others of the same source.
        query: the words for the thing, without its article.
        stamp_ns: of the picture.
        frame_id: of the camera; "" for any.
        points_px: pixels from the left and from the top; none: it is nowhere in the picture.
        source: who says it.
        retracted: what was said of the thing in this picture is taken back; then without points.

    Raises:
        QueryError: there are no words.
        DataError: a place is no pixel, there are more than 200, or points are taken back.
    """

    id: str
    query: str
    stamp_ns: int
    frame_id: str
    points_px: tuple[tuple[float, float], ...]
    source: str
    retracted: bool = False

    def __post_init__(self) -> None:
        if len(self.points_px) > MAX_PLACES or (self.retracted and self.points_px):
            raise DataError(
                f"review of {self.query!r} has {len(self.points_px)} points, expected at most "
                f"{MAX_PLACES}, and none where it takes back what was said"
            )
        self.corrections()

    def corrections(self) -> tuple[Correction, ...]:
        """What is recorded: first that all said before is void, then each place."""
        void = Correction(
            query=self.query,
            stamp_ns=self.stamp_ns,
            frame_id=self.frame_id,
            u=0.0,
            v=0.0,
            visible=False,
            retracted=self.retracted,
            source=self.source,
            review_id=self.id,
        )
        return void, *(replace(void, u=u, v=v, visible=True) for u, v in self.points_px)

    def as_json(self) -> str:
        """As it goes out on ~/correction."""
        return json.dumps(
            {
                "id": self.id,
                "query": self.query,
                "stamp": stamp_json(self.stamp_ns),
                "frame_id": self.frame_id,
                "points": [{"u": round(u, 2), "v": round(v, 2)} for u, v in self.points_px],
                "source": self.source,
                "retracted": self.retracted,
            },
            ensure_ascii=False,
        )


def keep_json(picture: PictureName) -> str:
    """Asks whoever records to keep a picture that somebody looks at."""
    named = {"stamp": stamp_json(picture.stamp_ns), "frame_id": picture.frame_id}
    return json.dumps({"keep": named}, ensure_ascii=False)


# RecursionError: JSON that is nested too deep; OverflowError: a whole number beyond all floats.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def _text(value: object) -> str:
    """A text that UTF-8 can hold: JSON can spell halves of UTF-16 pairs, which no message can.

    Raises:
        ValueError: it holds one.
    """
    text = str(value)
    text.encode()
    return text


def review_from_json(text: str) -> Review | PictureName:
    """Read the text of ~/correction: a review, or a picture that is to be kept for one.

    Raises:
        DataError: it is neither, or a place is no pixel.
        QueryError: the query is empty.
    """
    try:
        found = json.loads(text)
        if "keep" in found:
            named = found["keep"]
            return PictureName(
                stamp_ns=stamp_from_json(named["stamp"]), frame_id=_text(named["frame_id"])
            )
        points = tuple((float(point["u"]), float(point["v"])) for point in found["points"])
        return Review(
            id=_text(found["id"]),
            query=_text(found["query"]),
            stamp_ns=stamp_from_json(found["stamp"]),
            frame_id=_text(found["frame_id"]),
            points_px=points,
            source=_text(found["source"]),
            retracted=found.get("retracted", False) is True,
        )
    except _UNREADABLE as error:
        raise DataError(
            f"review {text[:80]!r} cannot be read ({type(error).__name__}: {error}); expected "
            '{"id": "1", "query": "red mug", "stamp": ..., "frame_id": ..., "source": "web", '
            '"points": [{"u": 12.0, "v": 34.0}]}'
        ) from error


def correction_from_json(text: str) -> Correction:
    """Read the text of ~/correction_json: query, and u and v or "visible": false.

    Raises:
        DataError: it is no such JSON.
        QueryError: the query is empty.
    """
    try:
        found = json.loads(text)
        stamp = found.get("stamp", {"sec": 0, "nanosec": 0})
        visible = found.get("visible", True)
        if not isinstance(visible, bool) or not isinstance(found["query"], str):
            raise TypeError("query is a text, visible is true or false")
        unknown = set(found) - {"query", "stamp", "frame_id", "visible", "u", "v"}
        if unknown:
            raise KeyError(f"unknown: {', '.join(sorted(unknown))}")
        return Correction(
            query=_text(found["query"]),
            stamp_ns=stamp_from_json(stamp),
            frame_id=_text(found.get("frame_id", "")),
            u=float(found["u"]) if visible else 0.0,
            v=float(found["v"]) if visible else 0.0,
            visible=visible,
        )
    except _UNREADABLE as error:
        raise DataError(
            f"correction {text[:80]!r} cannot be read ({type(error).__name__}: {error}); expected "
            '{"query": "red mug", "u": 12.0, "v": 34.0} with, where known, "stamp" and '
            '"frame_id", or "visible": false'
        ) from error
