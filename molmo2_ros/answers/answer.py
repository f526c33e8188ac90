"""The typed answer to one question about one clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from molmo2_ros.answers.confidence import WrittenToken, confidence, point_scores
from molmo2_ros.answers.problems import (
    FROZEN_STAMPS,
    FROZEN_WHILE_WRITTEN,
    drop_duplicates,
    drop_unknown_images,
    drop_unplaceable,
    note_frozen,
    note_repeats,
    note_rows,
)
from molmo2_ros.answers.text import ParsedAnswer, ParsedPoint, parse_answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import Query, QueryKind
from molmo2_ros.runtime.manifest import CalibrationFacts

MAX_PROBLEMS = 8  # lines of an answer's `problems`; the rest is counted


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredPoint:
    """One point as the model wrote it."""

    object_id: int  # the id written in the answer, 1-based
    time_s: float  # seconds from the clip's first frame, as written (one decimal); 0.0 for images
    x: float  # 0..1 of the frame's width
    y: float  # 0..1 of the frame's height
    image_index: int | None = None  # 1-based image number when several images were asked about
    confidence: float | None = None  # 0..1, that it is right; `score` if the engine has no curve
    score: float | None = None  # 0..1, from the probabilities of its tokens: a rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds spent on one answer."""

    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    num_prompt_tokens: int = 0
    num_answer_tokens: int = 0
    num_passes: int = 0  # of the decoder over the question and the answer
    num_drafted: int = 0  # tokens read ahead of being written
    num_accepted: int = 0  # of these: what the model would have written
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
    degenerate: bool = False  # lost the thread: a row without end, no such stamp, no grammar, ...
    timing: Timing = field(default_factory=Timing)


def point_stamp_ns(answer: Answer, point: AnsweredPoint) -> int:
    """The frame that a point stands on."""
    if point.image_index is not None:
        return answer.stamps_ns[point.image_index - 1]
    time_ns = answer.stamps_ns[0] + round(point.time_s * 1e9)
    return min(answer.stamps_ns, key=lambda stamp_ns: abs(stamp_ns - time_ns))


def read_answer(
    query: Query,
    text: str,
    frames: Sequence[Frame],
    *,
    are_images: bool = False,
    tokens: Sequence[WrittenToken] = (),
    calibration: CalibrationFacts | None = None,
    partial: bool = False,
    truncated: bool = False,
    timing: Timing | None = None,
) -> Answer:
    """Turn the model's words into an answer about the frames that it saw.

    Args:
        query: what was asked.
        text: the model's words, control tokens removed.
        frames: those shown, in time order; for images in the order shown.
        are_images: groups of points are opened by an image number instead of a stamp.
        tokens: the tokens of `text`, for the points' confidence.
        calibration: the engine's; None leaves confidences at their raw scores.
        partial: the model is still writing.
        truncated: a limit cut the answer off.
        timing: what it cost.

    Returns:
        the answer; points that belong to no frame shown are dropped, and named in `problems`.
    """
    parsed = parse_answer(text, complete=not (partial or truncated))
    problems = list(parsed.problems)
    spans = [point.x_span for point in parsed.points]
    scores = dict(zip(spans, point_scores(parsed.points, tokens), strict=True))
    outside = is_frozen = is_repeated = False
    if are_images:
        points = drop_unknown_images(parsed.points, len(frames), problems)
    else:
        start_ns = frames[0].stamp_ns
        times_s = [(frame.stamp_ns - start_ns) / 1e9 for frame in frames]
        points, outside = drop_unplaceable(parsed.points, times_s, problems)
    points = [_in_camera(point, frames, are_images) for point in points]
    points = drop_duplicates(points, problems)
    is_endless = note_rows(points, problems)
    if parsed.is_track and not are_images:
        num_stamps = FROZEN_WHILE_WRITTEN if partial else FROZEN_STAMPS
        is_frozen = note_frozen(points, frames, problems, num_stamps)
    elif not are_images:
        is_repeated = note_repeats(points, problems)
    if not parsed.truncated:
        _note_silence(query, text, parsed, problems)
    if len(problems) > MAX_PROBLEMS:
        problems[MAX_PROBLEMS - 1 :] = [f"and {len(problems) - MAX_PROBLEMS + 1} more problems"]
    numbered = are_images and len(frames) > 1
    return Answer(
        query=query,
        text=text,
        stamps_ns=tuple(frame.stamp_ns for frame in frames),
        points=tuple(
            AnsweredPoint(
                object_id=point.object_id,
                time_s=0.0 if are_images else point.stamp,
                x=point.x,
                y=point.y,
                image_index=int(point.stamp) if numbered else None,
                confidence=confidence(scores[point.x_span], calibration, is_track=parsed.is_track),
                score=scores[point.x_span],
            )
            for point in points
        ),
        count=_count(query, parsed, points, problems),
        label=parsed.label,
        is_track=parsed.is_track,
        none=parsed.none,
        truncated=parsed.truncated and not partial,
        partial=partial,
        problems=tuple(problems),
        degenerate=outside or is_frozen or is_endless or is_repeated,
        timing=timing or Timing(),
    )


def _in_camera(point: ParsedPoint, frames: Sequence[Frame], are_images: bool) -> ParsedPoint:
    """A point of the picture that was shown, as one of the camera's."""
    frame = frames[int(point.stamp) - 1 if are_images else -1]
    x, y = frame.from_upright(point.x, point.y)
    return replace(point, x=x, y=y)


def _count(
    query: Query, parsed: ParsedAnswer, points: Sequence[ParsedPoint], problems: list[str]
) -> int | None:
    stated = parsed.stated_count
    if stated is not None:
        if points and stated != len(points):
            problems.append(f"states a total of {stated} but points to {len(points)}")
        return stated
    if query.kind is not QueryKind.COUNT or parsed.truncated:
        return None
    if parsed.none:
        return 0
    return len(points) or None


def _note_silence(query: Query, text: str, parsed: ParsedAnswer, problems: list[str]) -> None:
    if query.kind.is_in_words or parsed.points or parsed.none:
        return
    if not text.strip():
        # An empty answer is legal for a track: every frame was hidden.
        if query.kind is not QueryKind.TRACK:
            problems.append("the answer is empty")
    elif parsed.stated_count is None:
        problems.append("the answer has no point and does not say that there are none")
