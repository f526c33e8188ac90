"""An answer's points gathered into objects, in pixels and on real frames."""

from __future__ import annotations

from dataclasses import dataclass

from molmo2_ros.answers.answer import Answer, AnsweredPoint, point_stamp_ns

DEFAULT_ANSWER_FPS = 2.0
_SLACK_NS = 50_000_000  # stamps are written with one decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredObject:
    """What the model said of one object."""

    object_id: int  # the answer's own number
    path: dict[int, tuple[float, float]]  # camera pixels by stamp in ns, in time order
    points: dict[int, AnsweredPoint]  # by the same stamps

    @property
    def last_ns(self) -> int:
        """Stamp of the newest point."""
        return max(self.path)

    def first_after(self, stamp_ns: int) -> int:
        """Stamp of the first point from a time on, or of the newest where all are older."""
        return next((ns for ns in self.path if ns >= stamp_ns), self.last_ns)


def answered_objects(answer: Answer, width: int, height: int) -> list[AnsweredObject]:
    """Gather the points of each id.

    Args:
        answer: any.
        width: of the camera's image, pixels.
        height: of the camera's image, pixels.
    """
    points: dict[int, dict[int, AnsweredPoint]] = {}
    for point in answer.points:
        stamp_ns = point_stamp_ns(answer, point)
        # Two written stamps may fall on one frame: the first stays.
        points.setdefault(point.object_id, {}).setdefault(stamp_ns, point)
    return [
        AnsweredObject(
            object_id=object_id,
            points=dict(sorted(by_stamp.items())),
            path={
                stamp_ns: (
                    min(point.x * width, width - 1.0),
                    min(point.y * height, height - 1.0),
                )
                for stamp_ns, point in sorted(by_stamp.items())
            },
        )
        for object_id, by_stamp in points.items()
    ]


def present_objects(answer: Answer, objects: list[AnsweredObject]) -> list[AnsweredObject]:
    """Those that the model still saw at the end of the clip.

    In a track, an id without a point on the newest answered frame is hidden or gone, and if that
    frame is older than the last one due for an answer, all are. While the answer is not whole, and
    for points, which are written once, everything named counts as present.
    """
    if not answer.is_track or answer.partial or answer.truncated or not objects:
        return objects
    answered_ns = max(entry.last_ns for entry in objects)
    answer_fps = answer.query.answer_fps or DEFAULT_ANSWER_FPS
    if answered_ns + round(1e9 / answer_fps) + _SLACK_NS < answer.stamps_ns[-1]:
        return []
    return [entry for entry in objects if entry.last_ns == answered_ns]
