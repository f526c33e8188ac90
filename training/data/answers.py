"""What is known about a picture or clip, as the question and answer that Molmo2 is trained on.

Source: the authors' point formatter and data formatter; the paper's appendix A. Coordinates are
thousandths, rounded half to even; stamps those of the answer's grid; ids run on over frames and
images and are given at first sight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from molmo2_ros.answers.text import NONE
from molmo2_ros.camera.clip import stamp_text
from molmo2_ros.errors import DataError
from molmo2_ros.training.data import templates
from molmo2_ros.training.data.example import (
    Annotation,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.data.media import USUAL_FPS

NO_TRACKS = "No tracks available."  # nothing was annotated at any time that is shown
MAX_POINTS = 60  # of one answer about a video
NAMED_RATE_SHARE = 0.5  # of track questions that could leave the rate out
SAME_S = 0.051  # two times on one stamp
POINT_WEIGHT, CAPTION_WEIGHT = 0.2, 0.1
LABEL_STYLES = frozenset({"pointing", "point_count", "cosyn_point"})  # asked by label, with hints
LENGTH_STEP, LENGTH_BLUR = 15, 25  # characters of an answer, in a hint of its length
UNTOLD_SHARE = 0.1  # of such hints, that name the style alone
# Styles that users write in; every other one stands before its question.
BARE_STYLES = frozenset(
    {
        "pointing",
        "point_count",
        "cosyn_point",
        "user_qa",
        "correction_qa",
        "long_caption",
        "short_caption",
        "video_long_caption",
        "video_short_caption",
        "video_merged_caption",
        "video_clip_caption",
        "video_frame_caption",
        "video_transcript",
        "video_point",
        "video_point_count",
        "video_count",
        "video_count_point",
        "video_point_track_per_frame",
        "multi_image_pointing",
        "multi_image_point_then_count",
        "text_sft",
        "multiple_choice",
        "video_multiple_choice",
        "video_multiple_choice_w_subtitle",
    }
)
_STYLES = {  # task: of an image, of several, of a clip
    Task.POINT: ("pointing", "multi_image_pointing", "video_point"),
    Task.COUNT: ("point_count", "multi_image_point_then_count", "video_point_count"),
    Task.TRACK: (None, None, "video_point_track_per_frame"),
    Task.TRACK_FROM_POINT: (None, None, "video_single_point_track_per_frame"),
    Task.ENDS: (None, None, "video_point_ground_start_end"),
    Task.REPLY: ("user_qa", "user_qa", "user_qa"),
    Task.CAPTION: ("long_caption", "long_caption", "video_long_caption"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A question and answer.

    Args:
        question: with its style in front where the style is one that asks for it.
        answer: may be empty: everything asked for is hidden.
        style: Molmo2's name.
        weight: of each answer token; None: by the length of the message.
    """

    question: str
    answer: str
    style: str
    weight: float | None


def style_of(annotation: Annotation, media: Media) -> str:
    """Molmo2's name of the question's style.

    Raises:
        DataError: the task needs a clip.
    """
    if annotation.style is not None:
        return annotation.style
    kind = 2 if media.is_clip else int(len(media.images) > 1)
    if media.is_empty:
        return "text_sft"
    if annotation.choices:
        return "video_multiple_choice" if media.is_clip else "multiple_choice"
    style = _STYLES[annotation.task][kind]
    if style is None:
        raise DataError(f"a {annotation.task.value} annotation of still images, expected a clip")
    return style


def weight_of(annotation: Annotation, style: str) -> float | None:
    """Flat weights of pointing and captions, None elsewhere. Source: the authors' trainer."""
    if annotation.weight is not None:
        return annotation.weight
    if annotation.task.has_objects:
        return POINT_WEIGHT
    return CAPTION_WEIGHT if "caption" in style else None


def write_turn(
    annotation: Annotation,
    media: Media,
    times_s: Sequence[float],
    rng: np.random.Generator | None = None,
    *,
    hints: bool = False,
) -> Written:
    """One question and its answer.

    Args:
        annotation: what is known.
        media: what it is about.
        times_s: of the frames that are shown, seconds from the clip's beginning; empty for images.
        rng: chooses the wording; None for the first one, which this package asks.
        hints: as in pre-training: each question begins with its style; a caption is asked for by
            its style and about its length alone, points in an image by style and label.

    Raises:
        DataError: the annotation cannot be asked about such media, or a track from a point has no
            point.
    """
    style = style_of(annotation, media)
    fps = annotation.fps or USUAL_FPS
    if annotation.task is Task.TRACK:
        question, answer = _track(annotation, times_s, fps, rng)
    elif annotation.task is Task.TRACK_FROM_POINT:
        question, answer = _track_from_point(annotation, times_s, fps, rng)
    elif annotation.task is Task.ENDS:
        ends = [_ends(thing, times_s, fps) for thing in annotation.objects]
        label = _label(annotation, media)
        question = _choose(templates.ENDS, rng).format(x=label)
        answer = _tracks_tag(ends, times_s, fps, label)
    elif annotation.task.has_objects:
        question, answer = _points(annotation, media, times_s, rng)
    else:
        question, answer = _words(annotation, media, rng)
    if annotation.question is not None and annotation.task is not Task.TRACK_FROM_POINT:
        question = _with_choices(annotation)
    if hints:
        if style in LABEL_STYLES and annotation.question is None:
            question = _label(annotation, media)
        question = _with_hint(annotation, style, question, answer, rng)
    elif style not in BARE_STYLES:
        question = f"{style}: {question}"
    weight = weight_of(annotation, style)
    return Written(question=question, answer=answer, style=style, weight=weight)


def _with_hint(
    annotation: Annotation,
    style: str,
    question: str,
    answer: str,
    rng: np.random.Generator | None,
) -> str:
    """Source: the authors' `style_and_length_v2`: the length in steps of 15 characters, blurred."""
    if annotation.task.has_objects or style == "text_sft":
        return f"{style}: {question}"
    length = len(answer)
    if rng is not None:
        length += int(rng.normal(scale=LENGTH_BLUR))
    is_told = rng is None or rng.random() >= UNTOLD_SHARE
    head = f"{style} {max(length, 0) // LENGTH_STEP}:" if is_told else f"{style}:"
    is_bare = annotation.task is Task.CAPTION and annotation.question is None
    return head if is_bare else f"{head} {question}"


def coordinate(value: float) -> str:
    """A share of the picture in thousandths: three digits, or 1000 at the far edge."""
    return f"{round(value * 1000):03d}"


def grid(times_s: Sequence[float], fps: float) -> list[float]:
    """The times of a track's answer: those of the frames shown that lie on the rate's grid."""
    step = 1 / fps
    return [t for t in times_s if abs(t - round(t / step) * step) < SAME_S]


# --- points ------------------------------------------------------------------------------------


def _points(
    annotation: Annotation,
    media: Media,
    times_s: Sequence[float],
    rng: np.random.Generator | None,
) -> tuple[str, str]:
    label = _label(annotation, media)
    counts = annotation.task is Task.COUNT
    several = not media.is_clip and len(media.images) > 1
    if several:
        wording = _choose(templates.MULTI_COUNT if counts else templates.MULTI_POINT, rng)
    else:
        wording = _choose(templates.COUNT if counts else templates.POINT, rng)
    question = templates.for_medium(wording, is_clip=media.is_clip).format(
        x=label, images=_images(annotation, media)
    )
    written = _point_groups(annotation.objects, media, times_s)
    if not written:
        return question, NONE
    num = sum(len(points) for points in written.values())
    coords = _coords(written, ";")
    tag = f'<points coords="{coords}">{label}</points>'
    return question, f"Counting the {tag} shows a total of {num}." if counts else tag


def _point_groups(
    objects: Iterable[LabelledObject], media: Media, times_s: Sequence[float]
) -> dict[str, list[LabelledPoint]]:
    """The first sight of each object, by what its group is called: a stamp or an image's number."""
    groups: dict[float, list[LabelledPoint]] = {}
    for thing in objects:
        for point in thing.seen():
            place = _shown(point, times_s) if media.is_clip else float(point.image or 1)
            if place is not None:
                groups.setdefault(place, []).append(point)
                break
    written, left = {}, MAX_POINTS if media.is_clip else None
    for place in sorted(groups):
        points = sorted(groups[place], key=lambda p: (p.x, p.y))[:left]
        if left is not None:
            left -= len(points)
        if points:
            written[stamp_text(place) if media.is_clip else str(int(place))] = points
    return written


def _coords(groups: dict[str, list[LabelledPoint]], between: str) -> str:
    number, texts = 0, []
    for place, points in groups.items():
        parts = [place]
        for point in points:
            number += 1
            parts += [str(number), coordinate(point.x), coordinate(point.y)]
        texts.append(" ".join(parts))
    return between.join(texts)


def _shown(point: LabelledPoint, times_s: Sequence[float]) -> float | None:
    """The frame shown that a point belongs to."""
    if point.time_s is None or not times_s:
        return None
    nearest = min(times_s, key=lambda t: abs(t - (point.time_s or 0.0)))
    return nearest if abs(nearest - point.time_s) < SAME_S else None


def _images(annotation: Annotation, media: Media) -> str:
    """Which images are meant: those that were labelled, or all."""
    labelled = sorted({p.image for thing in annotation.objects for p in thing.points if p.image})
    if not labelled or len(labelled) == len(media.images):
        return "all images"
    return ", ".join(f"image_{number}" for number in labelled)


# --- tracks ------------------------------------------------------------------------------------


def _track(
    annotation: Annotation,
    times_s: Sequence[float],
    fps: float,
    rng: np.random.Generator | None,
) -> tuple[str, str]:
    names_rate = fps != USUAL_FPS or (rng is not None and rng.random() < NAMED_RATE_SHARE)
    wording = _choose(templates.TRACK_AT if names_rate else templates.TRACK, rng)
    label = annotation.label
    question = wording.format(x=label, fps=f"{fps:g}")
    return question, _tracks_tag(annotation.objects, times_s, fps, label)


def _track_from_point(
    annotation: Annotation,
    times_s: Sequence[float],
    fps: float,
    rng: np.random.Generator | None,
) -> tuple[str, str]:
    """The given point is the first visible one, or, in a fifth of the cases, any of them."""
    if len(annotation.objects) != 1:
        raise DataError(
            f"a track from a point of {len(annotation.objects)} objects, expected one: "
            f"{annotation.label}"
        )
    (thing,) = annotation.objects
    at = grid(times_s, fps)
    seen = [(t, p) for p in thing.seen() if (t := _shown(p, at)) is not None]
    if not seen:
        raise DataError(f"a track from a point whose object is never seen: {annotation.label}")
    index = 0
    if rng is not None and rng.random() < 0.2:
        index = int(rng.integers(len(seen)))
    start_s, given = seen[index]
    label = annotation.label
    point = f"{stamp_text(start_s)} 1 {coordinate(given.x)} {coordinate(given.y)}"
    question = _choose(templates.TRACK_FROM_POINT, rng).format(
        points=f'<points coords="{point}">{label}</points>', fps=f"{fps:g}"
    )
    later = LabelledObject(points=tuple(p for p in thing.points if (p.time_s or 0) > start_s))
    return question, _tracks_tag([later], times_s, fps, label)


def _ends(thing: LabelledObject, times_s: Sequence[float], fps: float) -> LabelledObject:
    """Its first and last sight among the times of the answer."""
    at = grid(times_s, fps)
    seen = [point for point in thing.seen() if _shown(point, at) is not None]
    return LabelledObject(points=tuple(seen[:1] + seen[1:][-1:]))


def _tracks_tag(
    objects: Sequence[LabelledObject], times_s: Sequence[float], fps: float, label: str
) -> str:
    if not objects:
        return NONE
    at = grid(times_s, fps)
    annotated = [p for thing in objects for p in thing.points if _shown(p, at) is not None]
    if not annotated:
        return NO_TRACKS
    groups: dict[float, list[tuple[int, LabelledPoint]]] = {}
    for number, thing in enumerate(objects):
        for point in thing.seen():
            if (time_s := _shown(point, at)) is not None:
                groups.setdefault(time_s, []).append((number, point))
    ids: dict[int, int] = {}
    texts, left = [], MAX_POINTS
    for time_s in sorted(groups):
        for number, _ in sorted(groups[time_s], key=lambda each: (each[1].x, each[1].y)):
            ids.setdefault(number, len(ids) + 1)
        here = sorted((ids[number], point) for number, point in groups[time_s])[:left]
        left -= len(here)
        if here:
            points = " ".join(f"{i} {coordinate(p.x)} {coordinate(p.y)}" for i, p in here)
            texts.append(f"{stamp_text(time_s)} {points}")
    return f'<tracks coords="{";".join(texts)}">{label}</tracks>' if texts else ""


# --- words -------------------------------------------------------------------------------------


def _words(
    annotation: Annotation, media: Media, rng: np.random.Generator | None
) -> tuple[str, str]:
    answer = annotation.answer or ""
    if annotation.choices:
        letter = chr(ord("A") + annotation.choices.index(answer))
        answer = f"{letter}. {answer}"
    if annotation.question is not None:
        return annotation.question, answer
    if annotation.task is Task.REPLY:
        raise DataError(f"a reply without its question, expected one: {answer[:80]!r}")
    short = "short" in (annotation.style or "")
    wordings = templates.SHORT_CAPTION if short else templates.LONG_CAPTION
    return _choose(wordings, rng).format(medium=templates.MEDIUM[media.is_clip]), answer


def _with_choices(annotation: Annotation) -> str:
    question = annotation.question or ""
    if not annotation.choices:
        return question
    options = "\n".join(f"{chr(ord('A') + i)}. {c}" for i, c in enumerate(annotation.choices))
    return templates.CHOICES.format(question=question, options=options)


def _label(annotation: Annotation, media: Media) -> str:
    """As asked; lower-cased for images, as training has it."""
    return annotation.label if media.is_clip else annotation.label.lower()


def _choose(wordings: Sequence[str], rng: np.random.Generator | None) -> str:
    return wordings[0] if rng is None else wordings[int(rng.integers(len(wordings)))]
