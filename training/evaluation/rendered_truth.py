"""Rendered scenes in the form of a data set's truth, for plots and for pages of failures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from molmo2_ros.answers.answer import Answer
from molmo2_ros.training.evaluation.questions import Kind
from molmo2_ros.training.evaluation.rendered import STEP_S, AskedScene
from molmo2_ros.training.evaluation.rendered_scores import Tally, score_asked
from molmo2_ros.training.evaluation.scoring import Scored, score
from molmo2_ros.training.evaluation.truth import Place, Truth
from molmo2_ros.training.metrics import instance_at
from molmo2_ros.training.scenes import GONE, REFERENCE_SIZE, SEEN, UNCLEAR, Question

_KINDS = {
    "point": Kind.POINTING,
    "point_all": Kind.POINTING,
    "count": Kind.COUNTING,
    "track": Kind.TRACKING,
}


def scored_scene(scene: AskedScene, name: str) -> Iterator[Scored]:
    """All questions of a scene; their main measures are those of the table.

    Args:
        scene: with its answers.
        name: of the scene.
    """
    for question, answer in zip(scene.questions, scene.answers, strict=True):
        one = score(
            _decided(scene, question, answer),
            scene_truth(scene, question),
            kind=_KINDS[question.kind],
            label=question.label,
            example=name,
            question=question.text,
            expected=question.answer,
            duration_s=STEP_S * (len(scene.clip.frames) - 1) if scene.is_clip else None,
            step_s=STEP_S,
        )
        tally = Tally()
        score_asked(scene, question, answer, tally)
        measures = dict(one.measures)
        if tally.scores.get(one.main):
            measures[one.main] = (tally.mean(one.main),)
        yield replace(one, said=answer.text, measures=measures)


def scene_truth(scene: AskedScene, question: Question) -> Truth:
    """What is true of the objects that a question means."""
    clip, sightings = scene.clip, scene.sightings
    columns = [instance - 1 for instance in question.instances]
    state = sightings.state[:, columns]
    seen = state == SEEN
    places = [
        Place(
            at=STEP_S * t,
            true={
                key: (float(x), float(y))
                for key, (x, y) in enumerate(sightings.centre[t, columns], 1)
                if seen[t, key - 1]
            },
            masks={
                key: instances == instance for key, instance in enumerate(question.instances, 1)
            },
            hidden=frozenset(int(key) + 1 for key in np.flatnonzero(state[t] == GONE)),
        )
        for t, instances in enumerate(clip.instances)
    ]
    height, width = clip.instances.shape[1:]
    areas = sightings.area[:, columns][seen] / REFERENCE_SIZE**2
    fraction = clip.visible_fraction[:, columns]
    return Truth(
        places=tuple(places),
        num_objects=len(columns),
        aspect=width / height,
        size=float(np.median(areas)) if areas.size else None,
        visible_fraction=float(fraction.mean()) if fraction.size else None,
        speed=_speed(sightings.centre[:, columns], seen, width / height),
    )


def _speed(
    centre: npt.NDArray[np.float64], seen: npt.NDArray[np.bool_], aspect: float
) -> float | None:
    speeds = [
        math.hypot((b[0] - a[0]) * aspect, b[1] - a[1]) / math.hypot(aspect, 1.0) / STEP_S
        for t, u in pairwise(range(len(centre)))
        for a, b, is_seen in zip(centre[t], centre[u], seen[t] & seen[u], strict=True)
        if is_seen
    ]
    return float(np.mean(speeds)) if speeds else None


def _decided(scene: AskedScene, question: Question, answer: Answer) -> Answer:
    """The answer without points on objects that are too small or too hidden to decide."""

    def is_neutral(time_s: float, x: float, y: float) -> bool:
        t = round(time_s / STEP_S)
        instance = instance_at(scene.clip.instances[t], x, y)
        return instance in question.instances and (
            scene.sightings.state[t, instance - 1] == UNCLEAR
        )

    kept = tuple(p for p in answer.points if not is_neutral(p.time_s, p.x, p.y))
    return replace(answer, points=kept)
