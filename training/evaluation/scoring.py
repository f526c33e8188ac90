"""One answer held against the truth: measures by name, judged points, and marks to draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from molmo2_ros.answers.answer import Answer, AnsweredPoint
from molmo2_ros.training.data.answers import SAME_S, write_turn
from molmo2_ros.training.data.media import USUAL_FPS
from molmo2_ros.training.evaluation.asking import Answered
from molmo2_ros.training.evaluation.measures import (
    Measures,
    Said,
    count_measures,
    point_measures,
    track_measures,
    words_measures,
)
from molmo2_ros.training.evaluation.questions import Kind
from molmo2_ros.training.evaluation.truth import Truth, clip_truth, image_truth
from molmo2_ros.training.metrics.pointing import nearest_pairs

# The measure by which a kind of question is ranked, plotted and told apart.
MAIN: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.POINTING: "pointing_f1",
        Kind.VIDEO_POINTING: "video_pointing_f1",
        Kind.COUNTING: "counting_exact",
        Kind.TRACKING: "tracking_f1",
        Kind.CHOICE: "choice_accuracy",
        Kind.SHORT_ANSWER: "short_answer_exact",
    }
)
_ABSENT: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.POINTING: "absent_accuracy",
        Kind.VIDEO_POINTING: "absent_accuracy",
        Kind.TRACKING: "absent_track",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One point of an answer: how sure the model was, and whether it lies on what was asked for."""

    confidence: float
    is_right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One point to draw: of the truth, or of the answer."""

    at: float  # as Place.at
    x: float  # 0..1
    y: float  # 0..1
    is_truth: bool
    name: str = ""  # of an answer's point: its id


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One question with what was said and what that is worth.

    Args:
        example: name of what was asked about; questions about one are resampled together.
        kind: of the question.
        main: name of the measure that ranks it.
        label: of the objects; empty for questions in words.
        question: as the model read it.
        expected: the answer of the truth, in words.
        said: by the model.
        measures: one value or several by name, each 0..1.
        size: as in Truth, likewise visible_fraction and speed.
        judged: the answer's points.
        distances: from each true point to the one that was assigned to it, in diagonals.
        marks: of truth and answer.
    """

    example: str
    kind: Kind
    main: str
    label: str
    question: str
    expected: str
    said: str
    measures: Mapping[str, tuple[float, ...]]
    size: float | None = None
    visible_fraction: float | None = None
    speed: float | None = None
    judged: tuple[Judged, ...] = ()
    distances: tuple[float, ...] = ()
    marks: tuple[Mark, ...] = ()

    @property
    def score(self) -> float:
        """Mean of the main measure."""
        return float(np.mean(self.measures[self.main]))


def score_answered(folder: Path, answered: Answered) -> Scored:
    """What an answer about a data set's example is worth.

    Args:
        folder: of the data set.
        answered: the question and its answer.

    Raises:
        DataError: a mask cannot be read.
    """
    asked, example, shown = answered.asked, answered.example, answered.shown
    annotation, media = asked.annotation, example.media
    expected = write_turn(annotation, media, shown.times_s).answer
    if not annotation.task.has_objects:
        main = MAIN[asked.kind]
        return Scored(
            example=example.name,
            kind=asked.kind,
            main=main,
            label="",
            question=asked.text,
            expected=expected,
            said=answered.answer.text,
            measures=words_measures(asked.kind, annotation, answered.answer, media.is_clip),
        )
    if media.is_clip:
        truth = clip_truth(folder, annotation, shown.times_s, shown.shapes[0])
    else:
        truth = image_truth(folder, annotation, shown.shapes)
    return score(
        answered.answer,
        truth,
        kind=asked.kind,
        label=annotation.label,
        example=example.name,
        question=asked.text,
        expected=expected,
        duration_s=shown.times_s[-1] if media.is_clip else None,
        step_s=1 / (annotation.fps or USUAL_FPS),
    )


def score(
    answer: Answer,
    truth: Truth,
    *,
    kind: Kind,
    label: str,
    example: str,
    question: str,
    expected: str,
    duration_s: float | None,
    step_s: float = 0.5,
) -> Scored:
    """What an answer about objects is worth.

    Args:
        answer: of the model.
        truth: what it is held against.
        kind: of the question.
        label: of the objects.
        example: name of what was asked about.
        question: as the model read it.
        expected: the answer of the truth, in words.
        duration_s: of the clip; None for still images.
        step_s: from one stamp of a track's answer to the next.
    """
    is_video = duration_s is not None and kind is not Kind.POINTING
    step_s = step_s if kind is Kind.TRACKING else 0.0
    said = _by_place(answer.points, truth, is_video=is_video, step_s=step_s)
    main = MAIN[kind]
    measures: Measures = {"format_valid": (float(not (answer.truncated or answer.problems)),)}
    if not truth.num_objects and kind in _ABSENT:
        main = _ABSENT[kind]
        measures[main] = (float(answer.none and not answer.points),)
    elif kind is Kind.TRACKING:
        measures |= track_measures(truth, said)
    else:
        if kind is Kind.COUNTING:
            measures |= count_measures(answer.text, truth.num_objects, is_video=is_video)
        if truth.num_objects:
            measures |= point_measures(answer, truth, said, duration_s if is_video else None)
    return Scored(
        example=example,
        kind=kind,
        main=main,
        label=label,
        question=question,
        expected=expected,
        said=answer.text,
        measures=measures,
        size=truth.size,
        visible_fraction=truth.visible_fraction,
        speed=truth.speed,
        judged=tuple(_judge(truth, said)),
        distances=tuple(_distances(truth, said)),
        marks=tuple(_marks(truth, said)),
    )


def _by_place(
    points: Iterable[AnsweredPoint], truth: Truth, *, is_video: bool, step_s: float
) -> dict[float, list[AnsweredPoint]]:
    """The answer's points by the picture that they stand on.

    A track's stamps are rounded to its grid, as the authors' evaluator does; a stamp that is on no
    place of the truth is a place of its own. Where there is one picture, all stand on it.
    """
    places = [place.at for place in truth.places]
    found: dict[float, list[AnsweredPoint]] = {}
    for point in points:
        at = point.time_s if point.image_index is None else float(point.image_index)
        if step_s:
            at = round(at / step_s) * step_s
        elif len(places) == 1 and not is_video:
            at = places[0]
        near = _nearest(places, at)
        found.setdefault(near if abs(near - at) < SAME_S else at, []).append(point)
    return found


def _nearest(places: Sequence[float], at: float) -> float:
    return min(places, key=lambda place: abs(place - at), default=at)


def _judge(truth: Truth, said: Said) -> Iterable[Judged]:
    for at, points in said.items():
        for point in points:
            is_right = truth.holds(at, point.x, point.y)
            yield Judged(confidence=_sure(point), is_right=is_right)


def _sure(point: AnsweredPoint) -> float:
    return float("nan") if point.confidence is None else point.confidence


def _distances(truth: Truth, said: Said) -> Iterable[float]:
    scale = np.array([truth.aspect, 1.0]) / math.hypot(truth.aspect, 1.0)
    for place in truth.places:
        predicted = np.reshape([(p.x, p.y) for p in said.get(place.at, ())], (-1, 2)) * scale
        true = np.reshape(list(place.true.values()), (-1, 2)) * scale
        for p, g in nearest_pairs(predicted, true):
            yield float(np.hypot(*(predicted[p] - true[g])))


def _marks(truth: Truth, said: Said) -> Iterable[Mark]:
    for place in truth.places:
        for x, y in place.true.values():
            yield Mark(at=place.at, x=x, y=y, is_truth=True)
    for at, points in said.items():
        for point in points:
            yield Mark(at=at, x=point.x, y=point.y, is_truth=False, name=str(point.object_id))
