"""What an answer is worth, measure by measure; each gives one value or several in 0..1 by name."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from molmo2_ros.answers.answer import Answer, AnsweredPoint
from molmo2_ros.training.data.example import Annotation
from molmo2_ros.training.evaluation.questions import Kind
from molmo2_ros.training.evaluation.truth import MaskRow, Truth
from molmo2_ros.training.metrics.counting import authors_count, is_close, is_exact, read_count
from molmo2_ros.training.metrics.hota import hota
from molmo2_ros.training.metrics.pointing import (
    PointScore,
    image_pointing,
    in_mask,
    video_pointing,
)
from molmo2_ros.training.metrics.points import ids_one_to_one
from molmo2_ros.training.metrics.tracking import (
    TrackedFrame,
    authors_recall,
    frame_score,
    tracking_f1,
)

Measures = dict[str, tuple[float, ...]]
Said = Mapping[float, Sequence[AnsweredPoint]]  # by place

_LETTER = re.compile(r"\s*\(?([A-Z])\)?\s*(?:[.):]|$)")


def point_measures(answer: Answer, truth: Truth, said: Said, duration_s: float | None) -> Measures:
    """In a clip one assignment over the whole of it, else one an image.

    Args:
        answer: of the model.
        truth: what it is held against.
        said: the answer's points by place.
        duration_s: of the clip; None for still images.
    """
    if duration_s is not None:
        predicted = [(p.time_s, p.x, p.y) for p in answer.points]
        found = video_pointing(predicted, truth.timed(), max(duration_s, 1e-3))
        return _shares("video_pointing", found)
    hits = num_predicted = num_true = 0
    for place in truth.places:
        points = [(p.x, p.y) for p in said.get(place.at, ())]
        masks = MaskRow(place.masks, list(place.true))
        one = image_pointing(points, list(place.true.values()), masks)
        hits += one.hits
        num_predicted += one.num_predicted
        num_true += one.num_true
    found = PointScore(hits=hits, num_predicted=num_predicted, num_true=num_true)
    inside = [truth.holds(at, p.x, p.y) for at, points in said.items() for p in points]
    return _shares("pointing", found) | {"pointing_hit": (float(bool(inside) and all(inside)),)}


def _shares(name: str, found: PointScore) -> Measures:
    return {
        f"{name}_f1": (found.f1,),
        f"{name}_precision": (found.precision,),
        f"{name}_recall": (found.recall,),
    }


def count_measures(text: str, true: int, *, is_video: bool) -> Measures:
    """Exact and close, and exact by the authors' reader of numbers."""
    stated = read_count(text)
    return {
        "counting_exact": (float(is_exact(stated, true)),),
        "counting_close": (float(is_close(stated, true, is_video=is_video)),),
        "counting_exact_authors": (float(is_exact(authors_count(text), true)),),
    }


def track_measures(truth: Truth, said: Said) -> Measures:
    """Of a track: frame by frame, by its ids, and by what it says of hidden moments."""
    frames = [
        TrackedFrame(
            predicted=_first_by_id(said.get(place.at, ())), true=place.true, masks=place.masks
        )
        for place in truth.places
    ]
    told = [frame_score(f) for f in frames if f.predicted or f.true]
    associated = hota(frames)
    measures: Measures = {
        "tracking_f1": (tracking_f1(frames),),
        "tracking_precision": (_mean([one.precision for one in told]),),
        "tracking_recall": (_mean([one.recall for one in told]),),
        "tracking_recall_authors": (authors_recall(frames, list(range(1, truth.num_objects + 1))),),
        "hota": (associated.hota,),
        "hota_detection": (associated.detection,),
        "hota_association": (associated.association,),
    }
    if truth.num_objects > 1:
        pairs = [
            (object_id, key)
            for frame in frames
            for object_id, point in frame.predicted.items()
            for key in frame.true
            if in_mask(frame.masks[key], *point)
        ]
        measures["ids_one_to_one"] = (float(ids_one_to_one(pairs)),)
    gone = [p for p in truth.places if truth.num_objects == 1 and p.hidden]
    if gone:
        measures["hidden_left_out"] = tuple(float(not said.get(p.at)) for p in gone)
    return measures


def _mean(values: Sequence[float]) -> float:
    """1.0 of nothing, as for a clip without prediction and truth."""
    return float(np.mean(values)) if values else 1.0


def _first_by_id(points: Iterable[AnsweredPoint]) -> dict[int, tuple[float, float]]:
    """Of an id that stands twice the first counts. Source: the authors' `extract_tracks`."""
    found: dict[int, tuple[float, float]] = {}
    for point in points:
        found.setdefault(point.object_id, (point.x, point.y))
    return found


def words_measures(kind: Kind, annotation: Annotation, answer: Answer, is_video: bool) -> Measures:
    """Of an answer in words: a bare count, a chosen option, or a short reply."""
    true = annotation.answer or ""
    if kind is Kind.COUNTING:
        return count_measures(answer.text, int(true), is_video=is_video)
    if kind is Kind.CHOICE:
        chosen = read_choice(answer.text, annotation.choices)
        return {"choice_accuracy": (float(chosen == annotation.choices.index(true)),)}
    return {"short_answer_exact": (float(_plain(answer.text) == _plain(true)),)}


def read_choice(text: str, choices: Sequence[str]) -> int | None:
    """Which option an answer names: by its letter, or by its words.

    `B`, `B. red`, `(B)` and `B) red` are the second; `red` is the option of these words.
    """
    letter = _LETTER.match(text)
    if letter:
        index = ord(letter[1]) - ord("A")
        return index if index < len(choices) else None
    same = [i for i, choice in enumerate(choices) if _plain(choice) == _plain(text)]
    return same[0] if len(same) == 1 else None


def _plain(text: str) -> str:
    """Without case, articles and punctuation, as short answers are compared."""
    words = text.lower().translate(str.maketrans("", "", string.punctuation)).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))
