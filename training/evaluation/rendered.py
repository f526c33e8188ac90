"""Held-out scenes of simulated tables, and a model asked about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from molmo2_ros.answers.answer import Answer
from molmo2_ros.asking import AnyGrounder
from molmo2_ros.camera.clip import Clip
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import Query, QueryKind, question_text
from molmo2_ros.simulation.motion import LabelledClip
from molmo2_ros.training.held_out import (
    clip_test_questions,
    held_out_clips,
    still_test_questions,
)
from molmo2_ros.training.scenes import Question, Sightings, locate

Progress = Callable[[Iterable[LabelledClip], int, str], Iterable[LabelledClip]]

STEP_S = 0.5


def as_clip(clip: LabelledClip) -> Clip:
    """A rendered clip as the camera room's own, half a second between frames."""
    step_ns = round(STEP_S * 1e9)
    frames = (
        Frame(image=np.array(image), stamp_ns=number * step_ns, frame_id="camera_optical_frame")
        for number, image in enumerate(clip.frames)
    )
    return Clip(tuple(frames))


def as_query(question: Question, name: str) -> Query:
    """The query whose question text is the given one."""
    kind, words = {
        "point": (QueryKind.POINT, f"the {question.label}"),
        "point_all": (QueryKind.POINT, f"all {question.label}"),
        "count": (QueryKind.COUNT, question.label),
        "track": (QueryKind.TRACK, f"the {question.label}"),
    }[question.kind]
    query = Query(name=name, kind=kind, words=words)
    if question_text(query) != question.text:
        raise AssertionError(f"{question_text(query)!r} is not {question.text!r}")
    return query


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedScene:
    """One held-out scene, what was asked about it and what the model said."""

    clip: LabelledClip
    sightings: Sightings
    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]  # in the order of the questions
    is_clip: bool  # asked to track, not to point and count


def ask_held_out(
    grounder: AnyGrounder,
    *,
    seed: int,
    num_stills: int,
    num_clips: int,
    num_frames: int = 8,
    progress: Progress,
) -> Iterator[AskedScene]:
    """Ask about held-out scenes: stills first, then clips.

    Args:
        grounder: what is measured.
        seed: of the scenes.
        num_stills: scenes of one frame.
        num_clips: scenes of `num_frames` frames.
        num_frames: of a clip, half a second apart.
        progress: wraps a stream of scenes; gets its length and a title.
    """
    rng = np.random.default_rng([seed, 7])
    stamps_s = tuple(STEP_S * i for i in range(num_frames))
    for is_clip, length, num_scenes in ((False, 1, num_stills), (True, num_frames, num_clips)):
        scenes = held_out_clips(seed, num_scenes, length)
        for clip in progress(scenes, num_scenes, "clips" if is_clip else "stills"):
            sightings = locate(clip)
            questions = (
                clip_test_questions(sightings, stamps_s, rng)
                if is_clip
                else still_test_questions(sightings, rng)
            )
            queries = [as_query(q, str(i)) for i, q in enumerate(questions)]
            answers = grounder.answer_all(as_clip(clip), queries) if queries else []
            yield AskedScene(
                clip=clip,
                sightings=sightings,
                questions=tuple(questions),
                answers=tuple(answers),
                is_clip=is_clip,
            )
