"""Fit the curve that makes a probability of each point's score, on held-out scenes.

`python -m molmo2_ros.training.calibrate --engine engines/nano --scenes 500 --seed 100` asks an
engine about scenes that neither training nor any measurement uses, fits one rising curve for points
of one frame and one for points of tracks, and writes both into the engine's manifest. Whether they
hold is measured on other scenes by `python benchmarks/bench_confidence.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from molmo2_ros.errors import DataError, Molmo2Error
from molmo2_ros.grounder import Grounder
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.manifest import CalibrationFacts, CurveFacts, Manifest
from molmo2_ros.training.evaluation.context import show_progress
from molmo2_ros.training.evaluation.rendered import STEP_S, AskedScene, Progress, ask_held_out
from molmo2_ros.training.held_out import FIRST_FIT_SEED
from molmo2_ros.training.metrics import instance_at
from molmo2_ros.training.scenes import SEEN

_DECIMALS = 5  # of what is written into the manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPoint:
    """One point of an answer, and whether it lies on what was asked for."""

    kind: str  # of the question: point, point_all, count, track
    frame: int  # of the scene
    score: float  # 0..1, raw
    confidence: float  # 0..1, as published
    is_right: bool


def judged_points(scenes: Iterable[AskedScene]) -> Iterator[JudgedPoint]:
    """Hold every point that an engine gave against the scene's masks.

    A point is right if the pixel under it belongs to an object that was asked for, also if another
    point lies on it already. Points on such an object where it is too small or too hidden to count
    are left out: neither right nor wrong, as in the evaluator.
    """
    for scene in scenes:
        for question, answer in zip(scene.questions, scene.answers, strict=True):
            for point in answer.points:
                if point.score is None or point.confidence is None:
                    continue
                frame = round(point.time_s / STEP_S)
                label = instance_at(scene.clip.instances[frame], point.x, point.y)
                is_right = label in question.instances
                if is_right and scene.sightings.state[frame, label - 1] != SEEN:
                    continue
                yield JudgedPoint(
                    kind=question.kind,
                    frame=frame,
                    score=point.score,
                    confidence=point.confidence,
                    is_right=is_right,
                )


def fit_curve(scores: npt.ArrayLike, are_right: npt.ArrayLike) -> CurveFacts:
    """The rising curve that fits best: one knot at each level of an isotonic regression.

    The levels are shares of right points with one right and one wrong point added to each, so that
    a level of few points says little and none says 0 or 1. Between the knots the curve is straight
    and so rises, which keeps the order of two points; beyond the last ones it is level.

    Args:
        scores: 0..1, one a point, one point at least.
        are_right: 0 or 1, one a point.

    Worked example: scores 0.2 0.4 0.6 0.8, right 1 0 1 1. The first two violate the order and
    become one level of (1 + 1) / (2 + 2), the others one of (2 + 1) / (2 + 2): the knots are
    0.3 -> 0.5 and 0.7 -> 0.75.

    Letters: N different scores, P pools, K knots.

    Source: pooled adjacent violators with a knot at the centre of each pool (Oron and Flournoy,
    "Centered Isotonic Regression", 2017).
    """
    rounded = np.round(np.asarray(scores, float), _DECIMALS)
    score_N, index_of_each = np.unique(rounded, return_inverse=True)
    num_N = np.bincount(index_of_each).astype(float)
    right_N = np.bincount(index_of_each, np.asarray(are_right, float))
    pools = isotonic_regression(right_N / num_N, weights=num_N).blocks[:-1]
    num_P = np.add.reduceat(num_N, pools)
    score_P = np.add.reduceat(num_N * score_N, pools) / num_P
    # What was added moves small pools towards 0.5, maybe across their neighbours: pool again.
    smooth_P = (np.add.reduceat(right_N, pools) + 1) / (num_P + 2)
    levels = isotonic_regression(smooth_P, weights=num_P + 2)
    first_K = levels.blocks[:-1]
    score_K = np.add.reduceat(num_P * score_P, first_K) / np.add.reduceat(num_P, first_K)
    return CurveFacts(
        scores=tuple(round(float(score), _DECIMALS) for score in score_K),
        probabilities=tuple(round(float(value), _DECIMALS) for value in levels.x[first_K]),
        num_points=int(num_N.sum()),
    )


def fit(
    grounder: Grounder, *, seed: int, num_stills: int, num_clips: int, progress: Progress
) -> CalibrationFacts:
    """Ask an engine about held-out scenes and fit its curves.

    Args:
        grounder: with the engine; a calibration that it has is of no account.
        seed: of the scenes, FIRST_FIT_SEED at least.
        num_stills: scenes of one frame.
        num_clips: scenes of several frames.
        progress: as in `ask_held_out`.

    Raises:
        DataError: a seed whose scenes are for measuring, or no point to fit a curve on.
    """
    if seed < FIRST_FIT_SEED:
        raise DataError(
            f"seed {seed} is for measuring, expected {FIRST_FIT_SEED} at least: a curve that was "
            "fitted on the scenes of a measurement would look better than it is"
        )
    scenes = ask_held_out(
        grounder, seed=seed, num_stills=num_stills, num_clips=num_clips, progress=progress
    )
    points = list(judged_points(scenes))
    by_kind = [[p for p in points if (p.kind == "track") is wanted] for wanted in (False, True)]
    if not all(by_kind):
        raise DataError(
            f"{num_stills} stills and {num_clips} clips gave {len(by_kind[0])} points and "
            f"{len(by_kind[1])} points of tracks, expected some of both; use more scenes"
        )
    curves = [fit_curve([p.score for p in some], [p.is_right for p in some]) for some in by_kind]
    return CalibrationFacts(
        points=curves[0], tracks=curves[1], stills=num_stills, clips=num_clips, seed=seed
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, default=Path("engines/nano"))
    parser.add_argument("--scenes", type=int, default=500, help="stills")
    parser.add_argument("--clips", type=int, help="clips; default: a quarter of the stills")
    parser.add_argument("--seed", type=int, default=FIRST_FIT_SEED)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        calibration = fit(
            Grounder(load_engine(options.engine, threads=options.threads)),
            seed=options.seed,
            num_stills=options.scenes,
            num_clips=options.scenes // 4 if options.clips is None else options.clips,
            progress=show_progress,
        )
        manifest = dataclasses.replace(Manifest.load(options.engine), calibration=calibration)
    except Molmo2Error as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return 2
    manifest.write(options.engine)
    for name, curve in (("points", calibration.points), ("tracks", calibration.tracks)):
        print(f"{name}: {curve.num_points} points of held-out scenes")
        print(f"{'score':>9}  probability that it is right")
        for score, probability in zip(curve.scores, curve.probabilities, strict=True):
            print(f"{score:>9.3f}  {probability:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
