"""Curves fitted to scores: against brute force, and on the shipped engine."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from molmo2_ros.answers.answer import read_answer
from molmo2_ros.answers.confidence import WrittenToken, confidence
from molmo2_ros.errors import DataError
from molmo2_ros.grounder import Grounder
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.manifest import FILE_NAME, CalibrationFacts, Manifest
from molmo2_ros.simulation.objects import CATEGORY_NAMES, OWN_COLOUR
from molmo2_ros.training.calibrate import fit, fit_curve, judged_points, main
from molmo2_ros.training.evaluation.rendered import AskedScene, as_clip, as_query, ask_held_out
from molmo2_ros.training.held_out import FIRST_FIT_SEED
from molmo2_ros.training.scenes import locate, still_question

LEMON = CATEGORY_NAMES.index("lemon")


def levels(values, weights):
    """Isotonic regression by its minimax formula: nothing pooled, everything tried."""
    number = len(values)

    def mean(first, last):
        part = slice(first, last + 1)
        return np.average(values[part], weights=weights[part])

    return [
        max(min(mean(first, last) for last in range(at, number)) for first in range(at + 1))
        for at in range(number)
    ]


def pools(values, weights):
    """Start and end of each run of equal levels."""
    fitted = levels(values, weights)
    starts = [at for at in range(len(fitted)) if not at or fitted[at] > fitted[at - 1] + 1e-9]
    return list(zip(starts, [*starts[1:], len(fitted)], strict=True))


def brute_force(scores, are_right):
    """Knots by the definition: pool, add one right and one wrong point each, pool again."""
    distinct = sorted(set(scores))
    number = np.array([scores.count(score) for score in distinct])
    right = np.array(
        [sum(r for s, r in zip(scores, are_right, strict=True) if s == score) for score in distinct]
    )
    pooled = [
        (number[a:b].sum(), right[a:b].sum(), np.average(distinct[a:b], weights=number[a:b]))
        for a, b in pools(right / number, number)
    ]
    num, num_right, centre = (np.array(column) for column in zip(*pooled, strict=True))
    smooth = (num_right + 1) / (num + 2)
    return [
        (np.average(centre[a:b], weights=num[a:b]), np.average(smooth[a:b], weights=num[a:b] + 2))
        for a, b in pools(smooth, num + 2)
    ]


SCORED = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.375, 0.5, 1.0]), st.booleans()), min_size=1, max_size=20
)


@given(SCORED)
# Adding one of each turns 4 of 5 and 1 of 1 round: 5/7 and 2/3, which become 7/10.
@example([(0.25, True)] * 4 + [(0.25, False), (0.5, True)])
def test_fit_is_what_brute_force_finds(scored):
    scores, are_right = ([pair[place] for pair in scored] for place in (0, 1))
    curve = fit_curve(scores, are_right)
    expected = brute_force(scores, are_right)
    assert curve.num_points == len(scored)
    assert np.allclose(list(zip(curve.scores, curve.probabilities, strict=True)), expected, 0, 1e-5)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
@example([(0.123451, False), (0.123454, True)])  # one knot in five decimals
def test_any_fit_rises_and_comes_back_from_the_manifest(scored):
    curve = fit_curve(*zip(*scored, strict=True))
    assert all(low < high for low, high in zip(curve.scores, curve.scores[1:], strict=False))
    assert list(curve.probabilities) == sorted(curve.probabilities)
    assert all(0 < probability < 1 for probability in curve.probabilities)
    calibration = CalibrationFacts(points=curve, tracks=curve, stills=1, clips=1, seed=100)
    manifest = dataclasses.replace(Manifest.load(NANO, verify=False), calibration=calibration)
    assert Manifest.parse(json.loads(json.dumps(dataclasses.asdict(manifest)))) == manifest


def test_worked_example():
    curve = fit_curve([0.2, 0.4, 0.6, 0.8], [True, False, True, True])
    assert curve.scores == pytest.approx((0.3, 0.7))
    assert curve.probabilities == pytest.approx((0.5, 0.75))


def test_a_curve_finds_the_probabilities_that_points_were_drawn_with():
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    curve = fit_curve(scores, rng.random(20_000) < scores**2)
    calibration = CalibrationFacts(points=curve, tracks=curve, stills=1, clips=1, seed=100)
    for score in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert confidence(score, calibration, is_track=False) == pytest.approx(score**2, abs=0.05)


def test_points_are_right_on_what_was_asked_and_nowhere_else(make_clip, make_thing):
    # Two lemons, and a third too small to count; a mug, which nobody asked for.
    boxes = [(20, 60, 40, 80), (120, 60, 140, 80), (100, 140, 108, 148), (60, 20, 90, 50)]
    clip = make_clip([make_thing(name) for name in ("lemon", "lemon", "lemon", "mug")], [boxes])
    sightings = locate(clip)
    seen = locate(make_clip([make_thing("lemon")], [boxes[:1]]))
    question = dataclasses.replace(
        still_question(seen, "point_all", LEMON, OWN_COLOUR, None), instances=(1, 2, 3)
    )
    places = ((180, 420), (190, 430), (770, 420), (620, 855), (450, 200), (950, 950))
    written = " ".join(f"{number} {x:03d} {y:03d}" for number, (x, y) in enumerate(places, 1))
    text = f'<points coords="0.0 {written}">lemons</points>'
    answer = read_answer(
        as_query(question, "q"),
        text,
        as_clip(clip).frames,
        tokens=[WrittenToken(start=0, end=len(text), probability=0.5)],
    )
    scene = AskedScene(
        clip=clip,
        sightings=sightings,
        questions=(question,),
        answers=(answer,),
        is_clip=False,
    )
    judged = list(judged_points([scene]))
    assert [point.is_right for point in judged] == [True, True, True, False, False]
    assert {(point.kind, point.frame, point.score) for point in judged} == {("point_all", 0, 0.25)}


def test_scenes_for_measuring_are_refused():
    with pytest.raises(DataError, match="seed 99 is for measuring, expected 100 at least"):
        fit(None, seed=FIRST_FIT_SEED - 1, num_stills=1, num_clips=1, progress=None)


def test_too_few_scenes_are_named():
    few = r"3 stills and 0 clips gave [1-9]\d* points and 0 points of tracks"
    with pytest.raises(DataError, match=few):
        fit(
            Grounder(load_engine(NANO, threads=1)),
            seed=FIRST_FIT_SEED,
            num_stills=3,
            num_clips=0,
            progress=lambda scenes, total, title: scenes,
        )


def test_command_writes_curves_that_the_engine_then_answers_with(tmp_path, capsys):
    folder = tmp_path / "engine"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
    assert main(["--engine", str(folder), "--scenes", "12", "--clips", "4"]) == 0
    assert "points of held-out scenes" in capsys.readouterr().out
    calibration = Manifest.load(folder).calibration
    assert (calibration.seed, calibration.stills, calibration.clips) == (FIRST_FIT_SEED, 12, 4)
    scenes = ask_held_out(
        Grounder(load_engine(folder, threads=1)),
        seed=5,
        num_stills=3,
        num_clips=2,
        num_frames=3,
        progress=lambda scenes, total, title: scenes,
    )
    points = list(judged_points(scenes))
    assert {point.kind for point in points} >= {"point", "track"}
    for point in points:
        curve = calibration.tracks if point.kind == "track" else calibration.points
        probability = np.interp(point.score, curve.scores, curve.probabilities)
        assert point.confidence == pytest.approx(probability)


def test_command_leaves_the_manifest_alone_when_it_refuses(tmp_path, capsys):
    folder = tmp_path / "engine"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
    before = (folder / FILE_NAME).read_bytes()
    assert main(["--engine", str(folder), "--scenes", "1", "--seed", "0"]) == 2
    assert "seed 0 is for measuring" in capsys.readouterr().err
    assert (folder / FILE_NAME).read_bytes() == before
