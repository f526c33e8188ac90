"""What may be asked, how much of a clip is read for it and how long the answer may be.

All of it holds whoever runs the model: an engine on this machine (grounder.py), or a server that
others share (remote/).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from molmo2_ros.answers.answer import Answer
from molmo2_ros.answers.writing import OnPartial
from molmo2_ros.camera.clip import Clip, ClipBuffer, Sampling, stamp_text
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import QueryError
from molmo2_ros.prompt.query import Detail, Query, QueryKind, Span, label, question_text
from molmo2_ros.prompt.subtitles import Subtitle
from molmo2_ros.runtime.manifest import SKILLS, CalibrationFacts, Manifest, SamplingFacts

OnFinal = Callable[[Answer], None]

POINT_TOKENS = 768  # 60 points, the most that Molmo2 was trained to write, and words
CLIP_POINT_TOKENS = 2048  # Molmo2's own limits: of points in a video,
ASK_TOKENS = 448  # of answers in words,
CAPTION_TOKENS = 2048  # of captions,
MAX_TRACK_TOKENS = 4096  # and of tracks
TRACK_TOKENS_PER_FRAME = 96  # eight points
DEFAULT_ANSWER_FPS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a model is called and was taught, wherever it runs."""

    name: str
    skills: tuple[str, ...]  # of manifest.SKILLS
    sampling: SamplingFacts
    vocabulary: tuple[str, ...] = ()  # nouns that a small model knows; empty: no such limit
    calibration: CalibrationFacts | None = None  # None: a point's confidence is its raw score


class AnyGrounder(Protocol):
    """A model that points, counts, tracks and answers, here (Grounder) or on a server.

    Use from one thread at a time.
    """

    constrained: bool  # answers always follow the grammar

    @property
    def model(self) -> ModelFacts:
        """What it can do."""
        ...

    @property
    def pause_s(self) -> float:
        """Seconds for which asking would be in vain, 0 where it would not."""
        ...

    def facts(self) -> dict[str, object]:
        """What it did so far, for diagnostics: counts and shares by name."""
        ...

    def check(self, query: Query, *, num_images: int = 0, has_subtitles: bool = False) -> None:
        """Refuse what the model cannot answer (see Grounder.check)."""
        ...

    def sampling(self, query: Query) -> Sampling:
        """How a window of frames is sampled for a question."""
        ...

    def clip_for(self, buffer: ClipBuffer, query: Query) -> Clip:
        """Choose the frames of a live camera that a question is about (see Grounder.clip_for)."""
        ...

    def encode_ahead(self, frame: Frame, detail: Detail) -> bool:
        """Do what can be done about a frame before a question reads it; False for nothing."""
        ...

    def answer(
        self,
        clip: Clip,
        query: Query,
        *,
        on_partial: OnPartial | None = None,
        cancel: Callable[[Query], bool] | None = None,
        max_new_tokens: int | None = None,
        subtitles: Sequence[Subtitle] = (),
    ) -> Answer:
        """Ask one question about a clip (see Grounder.answer)."""
        ...

    def answer_all(
        self,
        clip: Clip,
        queries: Sequence[Query],
        *,
        on_partial: OnPartial | None = None,
        on_final: OnFinal | None = None,
        cancel: Callable[[Query], bool] | None = None,
        max_new_tokens: int | None = None,
        subtitles: Sequence[Subtitle] = (),
    ) -> list[Answer]:
        """Ask several questions about one clip (see Grounder.answer_all)."""
        ...

    def answer_images(
        self,
        frames: Sequence[Frame],
        query: Query,
        *,
        on_partial: OnPartial | None = None,
        cancel: Callable[[Query], bool] | None = None,
        max_new_tokens: int | None = None,
    ) -> Answer:
        """Ask about still images (see Grounder.answer_images)."""
        ...


def model_facts(manifest: Manifest) -> ModelFacts:
    """What an engine's manifest says of its model."""
    return ModelFacts(
        name=manifest.name,
        skills=manifest.skills,
        sampling=manifest.sampling,
        vocabulary=manifest.vocabulary,
        calibration=manifest.calibration,
    )


def check_query(
    model: ModelFacts, query: Query, *, num_images: int = 0, has_subtitles: bool = False
) -> None:
    """Refuse what a model cannot answer.

    Args:
        model: what it was taught.
        query: what would be asked.
        num_images: how many still images it would be asked about; 0 for a clip.
        has_subtitles: whether it would read subtitles, too.

    Raises:
        QueryError: the model lacks a skill or a word; says what it has. Or no model could: images
            have no time, and subtitles belong to questions in words about a clip.
    """
    wanted = {
        query.kind.value: True,
        "clip": query.over_clip,
        "seed": query.seed is not None,
        "crops": query.detail is Detail.CROPS or num_images > 0,
        "images": num_images > 1,
        "subtitles": has_subtitles,
    }
    lacking = [skill for skill in wanted if wanted[skill] and skill not in model.skills]
    if lacking:
        raise QueryError(
            f"{model.name} cannot do "
            f"{' and '.join(f'{skill!r} ({SKILLS[skill]})' for skill in lacking)}; asked: "
            f"{query.words!r}, it can: {', '.join(model.skills)}; ask for one of these, or "
            "load a released Molmo2"
        )
    if query.kind is QueryKind.TRACK and (query.detail is Detail.CROPS or num_images):
        raise QueryError(
            "a track needs several frames and detail 'crops' reads only the newest; ask to "
            "point instead, or leave the detail at 'frames'"
        )
    if query.over_clip and num_images:
        raise QueryError("`clip` asks about a video, and these are pictures; leave it out")
    if has_subtitles and not (query.kind.is_in_words and query.span is Span.CLIP):
        raise QueryError(
            f"subtitles are read with questions in words about a clip, met a "
            f"{query.kind.value} query of detail {query.detail.value!r}; leave them out"
        )
    if not query.kind.is_in_words:
        _check_words(model, label(query))


def _check_words(model: ModelFacts, words: str) -> None:
    known = model.vocabulary
    said = words.lower()
    if known and not any(re.search(rf"\b{re.escape(noun)}(?:e?s)?\b", said) for noun in known):
        raise QueryError(
            f"{model.name} does not know {words!r}, it knows: "
            f"{', '.join(known)}; ask for one of these, or load a released Molmo2"
        )


def sampling_for(model: ModelFacts, query: Query) -> Sampling:
    """How a window of frames is sampled for a question.

    Tracks read the window as densely as the model was trained to, questions in words at its rate
    for them; pointing and counting are about now and read the newest frame alone, unless the query
    asks about the whole clip.
    """
    facts = model.sampling
    if query.kind is QueryKind.TRACK:
        answer_fps = query.answer_fps or DEFAULT_ANSWER_FPS
        return Sampling(
            fps=max(facts.track_fps, answer_fps),
            max_frames=facts.max_frames,
            max_clip_s=facts.max_clip_s,
            answer_fps=answer_fps,
        )
    max_frames = 1 if query.span is Span.NEWEST else facts.max_frames
    return Sampling(fps=facts.point_fps, max_frames=max_frames, max_clip_s=facts.max_clip_s)


def stamps_of(query: Query, frames: tuple[Frame, ...], are_images: bool) -> list[str]:
    """What an answer may name, as printed in the prompt: times of frames, or image numbers."""
    if are_images:
        return [str(number) for number in range(1, len(frames) + 1)]
    stamps = [stamp_text(time_s) for time_s in Clip(frames).times_s]
    if query.seed is None:
        return stamps
    # The answer names the frames after the given point.
    return [stamp for stamp in stamps if float(stamp) > round(query.seed.time_s, 1)]


def token_limit(query: Query, num_frames: int) -> int:
    """The most tokens of an answer, by what is asked."""
    if query.kind is QueryKind.TRACK:
        return min(MAX_TRACK_TOKENS, POINT_TOKENS // 2 + TRACK_TOKENS_PER_FRAME * num_frames)
    if query.kind.is_in_words:
        return ASK_TOKENS if query.kind is QueryKind.ASK else CAPTION_TOKENS
    return CLIP_POINT_TOKENS if query.over_clip else POINT_TOKENS


def text_about(query: Query, frames: Sequence[Frame], are_images: bool) -> str:
    """The question as the model is asked it about pictures that it is shown upright.

    Args:
        query: a start point of its is in the camera's picture.
        frames: those shown.
        are_images: several still images, which have no order in time.
    """
    if query.seed is not None:
        x, y = frames[-1].to_upright(query.seed.x, query.seed.y)
        query = replace(query, seed=replace(query.seed, x=x, y=y))
    return question_text(query, len(frames) if are_images else 1)
