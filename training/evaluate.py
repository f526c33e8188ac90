"""Measure an engine on held-out simulated tables: pointing, counting, absence, tracking.

`python -m molmo2_ros.training.evaluate --engine engines/nano --scenes 500` runs the engine through
the package's own front door (Grounder), renders what it asks about, and prints a table; `--json`
prints one JSON object whose `figures` holds the headline numbers, `--write` puts these into the
engine's manifest.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from molmo2_ros.answers.answer import Answer
from molmo2_ros.camera.clip import Clip
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import Molmo2Error
from molmo2_ros.grounder import Grounder
from molmo2_ros.prompt.query import Query, QueryKind, question_text
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.simulation.motion import LabelledClip
from molmo2_ros.simulation.objects import CATEGORIES
from molmo2_ros.training.held_out import (
    clip_test_questions,
    gap_share,
    held_out_clips,
    still_test_questions,
)
from molmo2_ros.training.metrics import (
    FrameScore,
    bootstrap_interval,
    ids_one_to_one,
    instance_at,
    score_frame,
    track_f1,
)
from molmo2_ros.training.scenes import GONE, SEEN, UNCLEAR, Question, Sightings, locate

Progress = Callable[[Iterable[LabelledClip], int, str], Iterable[LabelledClip]]

STEP_S = 0.5
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
    """Everything that was scored, by name; each list holds one number per question or object."""

    scores: dict[str, list[float]]

    def add(self, name: str, value: float) -> None:
        """Append to one list."""
        self.scores[name].append(float(value))

    def mean(self, name: str) -> float:
        """Mean of one list, NaN if it is empty."""
        values = self.scores.get(name, [])
        return float(np.mean(values)) if values else float("nan")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedScene:
    """One held-out scene, what was asked about it and what the model said."""

    clip: LabelledClip
    sightings: Sightings
    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]  # in the order of the questions
    is_clip: bool  # asked to track, not to point and count


def ask_held_out(
    grounder: Grounder,
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


def evaluate(
    grounder: Grounder,
    *,
    seed: int,
    num_stills: int,
    num_clips: int,
    num_frames: int = 8,
    progress: Progress,
) -> Tally:
    """Ask about held-out scenes and score the answers.

    Args: as `ask_held_out`.
    """
    tally = Tally(scores=defaultdict(list))
    seen: list[Sightings] = []
    for scene in ask_held_out(
        grounder,
        seed=seed,
        num_stills=num_stills,
        num_clips=num_clips,
        num_frames=num_frames,
        progress=progress,
    ):
        score = score_track if scene.is_clip else score_still
        if scene.is_clip:
            seen.append(scene.sightings)
        for question, answer in zip(scene.questions, scene.answers, strict=True):
            score(question, answer, scene.clip, scene.sightings, tally)
    tally.scores["clips_with_a_gap"] = [gap_share(seen)]
    return tally


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


def report(tally: Tally) -> dict[str, dict[str, float]]:
    """Figures, their 95 % intervals and numbers of cases, and all finer tables."""
    # Asked in pairs: half of them share colour or category with something in view.
    tally.scores["absent_accuracy"] = [
        *tally.scores.get("absent_plain", []),
        *tally.scores.get("absent_hard", []),
    ]
    figures = {name: round(tally.mean(name), 4) for name in FIGURES if tally.scores.get(name)}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    cases: dict[str, float] = {}
    finer: dict[str, float] = {}
    for name in figures:
        interval = bootstrap_interval(tally.scores[name])
        low[name], high[name] = (round(v, 4) for v in interval)
        cases[name] = len(tally.scores[name])
    for name in sorted(tally.scores):
        if name not in figures and tally.scores[name]:
            finer[name] = round(tally.mean(name), 4)
            cases[name] = len(tally.scores[name])
    return {"figures": figures, "low": low, "high": high, "cases": cases, "finer": finer}


def with_metrics(
    manifest: Manifest, figures: dict[str, float], *, num_stills: int, num_clips: int, seed: int
) -> Manifest:
    """A manifest that holds these figures, and on how many scenes of which seed they were made."""
    metrics = {"scenes": num_stills, "clips": num_clips, "seed": seed, **figures}
    training = dataclasses.replace(manifest.training, metrics=metrics)
    return dataclasses.replace(manifest, training=training)


def print_table(result: dict[str, dict[str, float]]) -> None:
    """For people."""
    print(f"{'figure':<22}{'value':>8}{'95 % interval':>20}{'cases':>8}")
    for name, value in result["figures"].items():
        interval = f"{result['low'][name]:.3f} .. {result['high'][name]:.3f}"
        print(f"{name:<22}{value:>8.3f}{interval:>20}{result['cases'][name]:>8.0f}")
    print()
    for name, value in result["finer"].items():
        print(f"{name:<22}{value:>8.3f}{'':>20}{result['cases'][name]:>8.0f}")


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, default=Path("engines/nano"))
    parser.add_argument("--scenes", type=int, default=500, help="stills")
    parser.add_argument("--clips", type=int, help="clips; default: as many as stills")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--write", action="store_true", help="figures into the engine's manifest")
    options = parser.parse_args(arguments)
    num_clips = options.scenes if options.clips is None else options.clips

    started = time.monotonic()
    try:
        grounder = Grounder(load_engine(options.engine, threads=options.threads))
        tally = evaluate(
            grounder,
            seed=options.seed,
            num_stills=options.scenes,
            num_clips=num_clips,
            num_frames=options.frames,
            progress=show_progress,
        )
        result = report(tally)
        if options.write:
            with_metrics(
                Manifest.load(options.engine),
                result["figures"],
                num_stills=options.scenes,
                num_clips=num_clips,
                seed=options.seed,
            ).write(options.engine)
    except Molmo2Error as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    if not options.json:
        print_table(result)
        return 0
    settings = {
        "engine": str(options.engine),
        "scenes": options.scenes,
        "clips": num_clips,
        "frames": options.frames,
        "seed": options.seed,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps({"name": "evaluate", **_context(), "settings": settings, **result}, indent=2))
    return 0


def show_progress(scenes: Iterable[LabelledClip], total: int, title: str) -> Iterable[LabelledClip]:
    """A bar on stderr."""
    return tqdm(scenes, total=total, desc=title, file=sys.stderr)


def git_commit() -> str:
    """Hash of the checked-out commit; empty outside a repository."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _context() -> dict[str, object]:
    """Where and with what the figures were made."""
    import cv2
    import onnxruntime

    return {
        "commit": git_commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": platform.processor() or platform.machine()},
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }


if __name__ == "__main__":
    raise SystemExit(main())
