"""The typed answer to one question about one clip."""

from __future__ import annotations

from dataclasses import dataclass, field

from molmo2_ros.prompt.query import Query


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredPoint:
    """One point as the model wrote it."""

    object_id: int  # the id written in the answer, 1-based
    time_s: float  # seconds from the clip's first frame, as written (one decimal); 0.0 for images
    x: float  # 0..1 of the frame's width
    y: float  # 0..1 of the frame's height
    image_index: int | None = None  # 1-based image number when several images were asked about
    confidence: float | None = None  # 0..1, from the probabilities of its tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds spent on one answer."""

    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    num_prompt_tokens: int = 0
    num_answer_tokens: int = 0
    num_frames_encoded: int = 0  # frames that were not in the feature cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said about a clip.

    `stamps_ns` are the clip's frame times, so that a point's `time_s` names
    a real frame: the one of `stamps_ns` nearest to stamps_ns[0] + time_s.
    """

    query: Query
    text: str  # the model's words, control tokens removed
    stamps_ns: tuple[int, ...]
    points: tuple[AnsweredPoint, ...] = ()
    count: int | None = None  # stated or counted, where the question or the answer counts
    label: str = ""  # text of the points or tracks tag
    is_track: bool = False  # a <tracks> tag, not <points>
    none: bool = False  # the model said that there are none
    truncated: bool = False  # cut off by the token limit: points so far are kept
    partial: bool = False  # the model is still writing
    problems: tuple[str, ...] = ()  # degenerate or ungrammatical parts, in words
    timing: Timing = field(default_factory=Timing)
