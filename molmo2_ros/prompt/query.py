"""What is asked: a standing or single question about a camera's clip."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class QueryKind(str, Enum):
    """What kind of answer is wanted; the values are the words that users write."""

    TRACK = "track"
    POINT = "point"
    COUNT = "count"
    ASK = "ask"


class Detail(str, Enum):
    """Which of Molmo2's two visual paths reads the picture."""

    FRAMES = "frames"  # one square view per frame, video pooling
    CROPS = "crops"  # low-resolution view plus tiled crops of the newest frame, image pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPoint:
    """A given point to track from (Molmo2's `video_single_point_track_per_frame`)."""

    time_s: float  # seconds from the clip's first frame
    x: float  # 0..1 of the frame's width
    y: float  # 0..1 of the frame's height


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question.

    Args:
        name: short identifier, unique among the standing queries of a camera.
        kind: what is wanted.
        words: the thing with its article as the user said it ("the red mug", "all mugs"), or the
            whole question for `ask`.
        detail: which visual path.
        answer_fps: rate of a track's answer in frames per second (1 or 2 were trained); None for the
            model's default of 2.
        seed: start point of a track.
    """

    name: str
    kind: QueryKind
    words: str
    detail: Detail = Detail.FRAMES
    answer_fps: float | None = None
    seed: SeedPoint | None = None
