"""What a model is asked about an example, and which answers can be scored at all.

A question that the data set has in words is asked in these. One that is left to its task is asked
as this package asks it (`prompt.query.question_text`), which any engine of that skill understands;
so is one in words where the engine cannot be asked in any words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from molmo2_ros.asking import (
    CLIP_POINT_TOKENS,
    POINT_TOKENS,
    AnyGrounder,
    token_limit,
)
from molmo2_ros.errors import DataError
from molmo2_ros.prompt.query import Query, QueryKind, SeedPoint, question_text
from molmo2_ros.training.data.answers import BARE_STYLES, SAME_S, style_of, write_turn
from molmo2_ros.training.data.example import Annotation, Example, Media, Task
from molmo2_ros.training.data.media import USUAL_FPS
from molmo2_ros.training.evaluation.truth import is_told, start_of

MAX_SHORT_WORDS = 5  # of a reply that is compared word by word
_COUNT_STYLES = frozenset({"video_count", "video_count_point", "point_count"})


class Kind(str, Enum):
    """By what an answer is scored."""

    POINTING = "pointing"  # in still images, or one frame
    VIDEO_POINTING = "video pointing"
    COUNTING = "counting"
    TRACKING = "tracking"
    CHOICE = "multiple choice"
    SHORT_ANSWER = "short answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question as it is put.

    Args:
        annotation: what is known.
        kind: by what its answer is scored.
        query: what the grounder gets.
        text: the words that the model reads.
        max_new_tokens: None for the limit of the query's kind.
    """

    annotation: Annotation
    kind: Kind
    query: Query
    text: str
    max_new_tokens: int | None = None


def kind_of(annotation: Annotation, media: Media, num_frames: int) -> Kind:
    """By what an answer would be scored.

    Args:
        annotation: what is known.
        media: what it is about.
        num_frames: of the clip as it is shown; 0 for images.

    Raises:
        DataError: no measure is defined for it, or it has no truth; says which.
    """
    task = annotation.task
    if media.is_empty:
        raise DataError("words alone: a grounding model is asked about pictures")
    if task.has_objects and not is_told(annotation):
        raise DataError(f"a {task.value} question without a point or a mask to hold answers to")
    if task.is_track:
        if task is Task.TRACK_FROM_POINT and len(annotation.objects) != 1:
            raise DataError("a track from a point of other than one object")
        return Kind.TRACKING
    if task is Task.COUNT:
        return Kind.COUNTING
    if task is Task.POINT:
        return Kind.VIDEO_POINTING if media.is_clip and num_frames > 1 else Kind.POINTING
    answer = annotation.answer or ""
    if task is Task.REPLY and annotation.style in _COUNT_STYLES and answer.isdigit():
        return Kind.COUNTING
    if task is Task.REPLY and annotation.choices:
        return Kind.CHOICE
    if task is Task.REPLY and len(answer.split()) <= MAX_SHORT_WORDS:
        return Kind.SHORT_ANSWER
    what = {Task.REPLY: "a longer reply", Task.CAPTION: "a caption"}.get(
        task, "first and last sights"
    )
    raise DataError(f"{what}: no measure without a judge is defined")


def ask_for(
    grounder: AnyGrounder, example: Example, number: int, times_s: Sequence[float]
) -> Asked:
    """One of an example's questions, in a form that a model understands.

    Args:
        grounder: the model.
        example: what is known.
        number: of the annotation, from 0.
        times_s: of the frames that are shown; empty for images.

    Raises:
        DataError: it cannot be scored.
        QueryError: the model cannot be asked it.
    """
    annotation, media = example.annotations[number], example.media
    kind = kind_of(annotation, media, len(times_s))
    if example.dialogue and number and not annotation.task.has_objects:
        raise DataError("a later turn of a conversation: it may need the ones before it")
    name = f"q{number}"
    native = _native(name, annotation, media, times_s)
    num_images = len(media.images)
    words = _own_words(annotation, media, times_s)
    if native is None or (words is not None and "ask" in grounder.model.skills):
        assert words is not None
        asked = Query(name=name, kind=QueryKind.ASK, words=words)
        limit = None if native is None else _limit(native, media, len(times_s))
    else:
        asked, limit = native, None
    has_subtitles = bool(media.subtitles) and asked.kind.is_in_words
    is_fallback = num_images == 1 and "crops" not in grounder.model.skills
    grounder.check(asked, num_images=0 if is_fallback else num_images, has_subtitles=has_subtitles)
    return Asked(
        annotation=annotation,
        kind=kind,
        query=asked,
        text=question_text(asked, max(num_images, 1)),
        max_new_tokens=limit,
    )


def _native(
    name: str, annotation: Annotation, media: Media, times_s: Sequence[float]
) -> Query | None:
    """As this package asks it; None for what can be asked in words alone."""
    task, label = annotation.task, annotation.label
    over_clip = media.is_clip and len(times_s) > 1
    if task is Task.POINT:
        return Query(name=name, kind=QueryKind.POINT, words=label, over_clip=over_clip)
    if task is Task.COUNT:
        return Query(name=name, kind=QueryKind.COUNT, words=label, over_clip=over_clip)
    if not task.is_track:
        return None
    fps, seed = annotation.fps or USUAL_FPS, None
    if task is Task.TRACK_FROM_POINT:
        start = start_of(annotation, times_s)
        if start is None:
            raise DataError("a track from a point of an object that no shown frame has")
        if times_s[-1] - (start.time_s or 0.0) < 1 / fps - SAME_S:
            raise DataError("a track from a point on the last frame that is shown")
        seed = SeedPoint(time_s=start.time_s or 0.0, x=start.x, y=start.y)
    rate = None if fps == USUAL_FPS else fps
    return Query(name=name, kind=QueryKind.TRACK, words=label, answer_fps=rate, seed=seed)


def _own_words(annotation: Annotation, media: Media, times_s: Sequence[float]) -> str | None:
    """The data set's own question, with the style and the options that belong to it."""
    if annotation.task is Task.TRACK_FROM_POINT:
        return None  # the form has its style and point
    is_styled = style_of(annotation, media) not in BARE_STYLES
    if annotation.question is None and not is_styled:
        return None
    return write_turn(annotation, media, times_s).question


def _limit(native: Query, media: Media, num_frames: int) -> int:
    """Tokens of an answer in its kind's form, however it was asked."""
    if native.kind is QueryKind.TRACK:
        return token_limit(native, num_frames)
    return CLIP_POINT_TOKENS if media.is_clip else POINT_TOKENS
