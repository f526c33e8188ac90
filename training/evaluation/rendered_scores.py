"""What answers about rendered scenes are worth, where masks of all objects are known.

A point counts when it lies on an object that was asked for; objects too small or too hidden to
decide count neither way.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from molmo2_ros.answers.answer import Answer
from molmo2_ros.asking import AnyGrounder
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.simulation.motion import LabelledClip
from molmo2_ros.simulation.objects import CATEGORIES
from molmo2_ros.training.evaluation.rendered import STEP_S, AskedScene, Progress, ask_held_out
from molmo2_ros.training.evaluation.result import Result, add_mean, empty_result
from molmo2_ros.training.held_out import gap_share
from molmo2_ros.training.metrics import (
    Cases,
    FrameScore,
    ids_one_to_one,
    instance_at,
    score_frame,
    track_f1,
)
from molmo2_ros.training.scenes import GONE, SEEN, UNCLEAR, Question, Sightings

AREA_BINS = (100, 200, 300, 450, 600, 900)  # lower bounds, pixels at the model's input
FRACTION_BINS = (0.3, 0.5, 0.7, 0.9)  # lower bounds, visible share of the object

_POINT = r"\d{1,2} \d{3,4} \d{3,4}"
_STILL = rf'<points coords="0\.0(?: {_POINT})+">[^<>"]+</points>'
_FORMS = tuple(
    re.compile(form)
    for form in (
        r"There are none\.",
        _STILL,
        rf"Counting the {_STILL} shows a total of \d+\.",
        rf'<tracks coords="\d+\.\d(?: {_POINT})+(?:;\d+\.\d(?: {_POINT})+)*">[^<>"]+</tracks>',
    )
)


def is_valid(answer: Answer) -> bool:
    """Whether an answer is whole and in one of the trained forms."""
    return not answer.truncated and any(form.fullmatch(answer.text) for form in _FORMS)


@dataclass(slots=True, kw_only=True)
class Tally:
    """Everything that was scored, by name; each list holds one number per question or object.

    Args:
        scores: the numbers.
        scenes: of each number the scene that it was met in.
        scene: the one that is being scored.
    """

    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    scenes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    scene: int = 0

    def add(self, name: str, value: float) -> None:
        """Append to one list."""
        self.scores[name].append(float(value))
        self.scenes[name].append(self.scene)

    def cases(self, *names: str) -> Cases:
        """Some lists one after the other, with their scenes."""
        return Cases(
            [value for name in names for value in self.scores.get(name, [])],
            [scene for name in names for scene in self.scenes.get(name, [])],
        )

    def mean(self, name: str) -> float:
        """Mean of one list, NaN if it is empty."""
        values = self.scores.get(name, [])
        return float(np.mean(values)) if values else float("nan")


def score_still(
    question: Question, answer: Answer, clip: LabelledClip, sightings: Sightings, tally: Tally
) -> None:
    """Score one pointing or counting answer."""
    tally.add("format_valid", is_valid(answer))
    if question.kind == "count":
        stated = -1 if answer.count is None else answer.count
        truth = len(question.targets)
        tally.add("counting_exact", stated == truth)
        tally.add("counting_close", abs(stated - truth) <= 1)
        tally.add(f"count of {truth}", stated == truth)
        return
    if question.absent:
        said_none = answer.none and not answer.points
        tally.add("absent_hard" if question.hard else "absent_plain", said_none)
        if question.hard:
            nouns = {CATEGORIES[thing.category].noun for thing in clip.objects}
            is_there = any(question.label.endswith(noun) for noun in nouns)
            tally.add(f"absent, wrong {'colour' if is_there else 'thing'}", said_none)
        return
    points = [(p.x, p.y) for p in answer.points]
    mask = clip.instances[0]
    score = score_frame(mask, points, question.instances)
    tally.add("pointing_f1", score.f1)
    tally.add(f"{question.kind}_f1", score.f1)
    if question.kind == "point":
        tally.add("pointing_hit", score.hits == 1 and score.false_points == 0)
        tally.add("said_none_wrongly", answer.none)
        kind = CATEGORIES[clip.objects[question.instances[0] - 1].category].noun
        tally.add(f"{kind} hit", score.hits == 1 and score.false_points == 0)
    hit = {instance_at(mask, x, y) for x, y in points}
    for instance in question.instances:
        found = instance in hit
        tally.add(f"area {_bin(sightings.area[0, instance - 1], AREA_BINS)}", found)
        tally.add(f"visible {_bin(clip.visible_fraction[0, instance - 1], FRACTION_BINS)}", found)


def score_track(
    question: Question, answer: Answer, clip: LabelledClip, sightings: Sightings, tally: Tally
) -> None:
    """Score one tracking answer over all frames of its clip."""
    tally.add("format_valid", is_valid(answer))
    if question.absent:
        tally.add("absent_track", answer.none and not answer.points)
        return
    by_frame: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
    for p in answer.points:
        by_frame[round(p.time_s / STEP_S)].append((p.object_id, p.x, p.y))
    frames: list[FrameScore] = []
    pairs: list[tuple[int, int]] = []
    for number, mask in enumerate(clip.instances):
        points = by_frame.get(number, [])
        state = {i: sightings.state[number, i - 1] for i in question.instances}
        wanted = [i for i, s in state.items() if s == SEEN]
        neutral = [i for i, s in state.items() if s == UNCLEAR]
        score = score_frame(mask, [(x, y) for _, x, y in points], wanted, neutral)
        frames.append(score)
        if wanted:
            tally.add(f"recall in frame {number}", score.hits / len(wanted))
        pairs += [
            (object_id, label)
            for object_id, x, y in points
            if (label := instance_at(mask, x, y)) in question.instances
        ]
        for instance, s in state.items():
            found = any(instance_at(mask, x, y) == instance for _, x, y in points)
            if s == SEEN:
                area = _bin(sightings.area[number, instance - 1], AREA_BINS)
                fraction = clip.visible_fraction[number, instance - 1]
                tally.add(f"track area {area}", found)
                tally.add(f"track visible {_bin(fraction, FRACTION_BINS)}", found)
            if s == GONE and len(question.instances) == 1:
                tally.add("hidden_left_out", not points)
    tally.add("tracking_f1", track_f1(frames))
    whole = all(not f.false_points and not f.missed for f in frames)
    tally.add("tracks_all_right", whole)
    if len(question.instances) > 1:
        tally.add("tracking_f1_several", track_f1(frames))
        tally.add("ids_one_to_one", ids_one_to_one(pairs))
    else:
        tally.add("tracking_f1_one", track_f1(frames))


def _bin(value: float, lower_bounds: Sequence[float]) -> str:
    bound = max((b for b in lower_bounds if value >= b), default=lower_bounds[0])
    return f">= {bound:g}"


def evaluate(
    grounder: AnyGrounder,
    *,
    seed: int,
    num_stills: int,
    num_clips: int,
    num_frames: int = 8,
    progress: Progress,
    also: Sequence[Callable[[int, AskedScene], None]] = (),
) -> Tally:
    """Ask about held-out scenes and score the answers.

    Args: as `ask_held_out`; each of `also` gets the number of every scene and what was said of it.
    """
    tally = Tally()
    seen: list[Sightings] = []
    asked = ask_held_out(
        grounder,
        seed=seed,
        num_stills=num_stills,
        num_clips=num_clips,
        num_frames=num_frames,
        progress=progress,
    )
    for tally.scene, scene in enumerate(asked):
        if scene.is_clip:
            seen.append(scene.sightings)
        for question, answer in zip(scene.questions, scene.answers, strict=True):
            score_asked(scene, question, answer, tally)
        for look in also:
            look(tally.scene, scene)
    tally.scores["clips_with_a_gap"] = [gap_share(seen)]
    return tally


def score_asked(scene: AskedScene, question: Question, answer: Answer, tally: Tally) -> None:
    """Score one answer about a still or a clip."""
    score = score_track if scene.is_clip else score_still
    score(question, answer, scene.clip, scene.sightings, tally)


FIGURES = (
    "pointing_f1",
    "pointing_hit",
    "counting_exact",
    "counting_close",
    "absent_accuracy",
    "absent_plain",
    "absent_hard",
    "absent_track",
    "tracking_f1",
    "tracking_f1_one",
    "tracking_f1_several",
    "tracks_all_right",
    "hidden_left_out",
    "ids_one_to_one",
    "format_valid",
    "said_none_wrongly",
)
ERRORS = ("said_none_wrongly",)  # figures that are better when they are lower


def report(tally: Tally) -> Result:
    """Figures, their 95 % intervals and numbers of cases, and all finer tables."""
    # Asked in pairs: half of them share colour or category with something in view.
    joined = {"absent_accuracy": ("absent_plain", "absent_hard")}
    result = empty_result()
    for name in FIGURES:
        cases = tally.cases(*joined.get(name, (name,)))
        if cases.values:
            add_mean(result, name, cases)
    for name in sorted(tally.scores):
        if name not in result["figures"] and tally.scores[name]:
            result["finer"][name] = round(tally.mean(name), 4)
            result["cases"][name] = len(tally.scores[name])
    return result


def with_metrics(
    manifest: Manifest, figures: dict[str, float], *, num_stills: int, num_clips: int, seed: int
) -> Manifest:
    """A manifest that holds these figures, and on how many scenes of which seed they were made."""
    metrics = {"scenes": num_stills, "clips": num_clips, "seed": seed, **figures}
    training = dataclasses.replace(manifest.training, metrics=metrics)
    return dataclasses.replace(manifest, training=training)
