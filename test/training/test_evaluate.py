"""The evaluator on the shipped engine, and its scoring on answers written by hand."""

import json
import re
import shutil

import numpy as np
import pytest

from molmo2_ros.answers.answer import read_answer
from molmo2_ros.grounder import Grounder
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.simulation.objects import CATEGORY_NAMES, COLOUR_NAMES, OWN_COLOUR
from molmo2_ros.training.evaluate import main
from molmo2_ros.training.evaluation.rendered import as_clip, as_query
from molmo2_ros.training.evaluation.rendered_scores import (
    Tally,
    evaluate,
    is_valid,
    report,
    score_still,
    score_track,
    with_metrics,
)
from molmo2_ros.training.scenes import locate, still_question, track_question

LEMON, MUG = CATEGORY_NAMES.index("lemon"), CATEGORY_NAMES.index("mug")
RED, YELLOW = COLOUR_NAMES.index("red"), COLOUR_NAMES.index("yellow")
LEFT, RIGHT = (20, 60, 40, 80), (120, 60, 140, 80)  # centres at 0.18 and 0.77 of the width
HEADLINES = {
    "pointing_f1",
    "tracking_f1",
    "hidden_left_out",
    "counting_exact",
    "absent_accuracy",
    "format_valid",
}


@pytest.fixture
def track(make_clip, make_thing):
    """A lemon that is away in the middle frame, and what is asked about it."""
    clip = make_clip([make_thing("lemon")], [[LEFT], [None], [RIGHT]])
    sightings = locate(clip)
    question = track_question(sightings, (0.0, 0.5, 1.0), LEMON, OWN_COLOUR, None)
    return clip, sightings, question


def answered(question, clip, text, **changes):
    return read_answer(as_query(question, "q"), text, as_clip(clip).frames, **changes)


def score(track, coords):
    clip, sightings, question = track
    tally = Tally()
    text = f'<tracks coords="{coords}">lemon</tracks>'
    score_track(question, answered(question, clip, text), clip, sightings, tally)
    return tally.mean("tracking_f1"), tally.mean("hidden_left_out")


@pytest.mark.parametrize(
    ("coords", "f1", "left_out"),
    [
        ("0.0 1 180 420;1.0 1 770 420", 1.0, 1.0),
        ("0.0 1 180 420;0.5 1 400 420;1.0 1 770 420", 2 / 3, 0.0),  # frames 1, 0, 1
        ("0.0 1 180 420", 0.5, 1.0),  # the last frame is missed
        ("0.0 1 500 420;1.0 1 770 420", 0.5, 1.0),  # beside the lemon in the first frame
    ],
)
def test_a_track_is_scored_frame_by_frame(track, coords, f1, left_out):
    assert score(track, coords) == (pytest.approx(f1), left_out)


def test_a_single_point_is_scored_by_the_mask_and_counts_by_equality(make_clip, make_thing):
    clip = make_clip([make_thing("lemon"), make_thing("lemon")], [[LEFT, RIGHT]])
    sightings = locate(clip)
    tally = Tally()
    both = still_question(sightings, "point_all", LEMON, OWN_COLOUR, None)
    one_found = '<points coords="0.0 1 180 420">lemons</points>'
    score_still(both, answered(both, clip, one_found), clip, sightings, tally)
    assert tally.mean("pointing_f1") == pytest.approx(2 / 3)
    count = still_question(sightings, "count", LEMON, OWN_COLOUR, None)
    for stated in (1, 2):
        text = (
            'Counting the <points coords="0.0 1 180 420 2 770 420">lemons</points> '
            f"shows a total of {stated}."
        )
        score_still(count, answered(count, clip, text), clip, sightings, tally)
    assert tally.scores["counting_exact"] == [0.0, 1.0]
    assert tally.scores["counting_close"] == [1.0, 1.0]


def test_what_was_found_in_a_still_is_shown_by_area_and_by_visible_fraction(make_clip, make_thing):
    # 30 x 30 pixels, whole; 10 x 15 pixels, 40 % of it visible. The first is found.
    boxes, fraction = [(20, 60, 50, 90), (120, 60, 130, 75)], [[1.0, 0.4]]
    clip = make_clip([make_thing("lemon")] * 2, [boxes], fraction)
    sightings, tally = locate(clip), Tally()
    both = still_question(sightings, "point_all", LEMON, OWN_COLOUR, None)
    text = '<points coords="0.0 1 200 440">lemons</points>'
    score_still(both, answered(both, clip, text), clip, sightings, tally)
    result = report(tally)
    rows = {n: (v, result["cases"][n]) for n, v in result["finer"].items() if ">=" in n}
    assert rows == {
        "area >= 900": (1.0, 1),
        "area >= 100": (0.0, 1),
        "visible >= 0.9": (1.0, 1),
        "visible >= 0.3": (0.0, 1),
    }


def test_what_was_found_in_a_clip_is_shown_by_area_and_by_visible_fraction(make_clip, make_thing):
    # 20 x 20 pixels, whole; the same, 60 % visible; 20 x 12 pixels, 40 % visible; too hidden to
    # count. The first and the third are found.
    boxes = [[LEFT], [LEFT], [(20, 60, 40, 72)], [LEFT]]
    clip = make_clip([make_thing("lemon")], boxes, [[1.0], [0.6], [0.4], [0.25]])
    sightings, tally = locate(clip), Tally()
    question = track_question(sightings, (0.0, 0.5, 1.0, 1.5), LEMON, OWN_COLOUR, None)
    text = '<tracks coords="0.0 1 180 420;1.0 1 180 380">lemon</tracks>'
    score_track(question, answered(question, clip, text), clip, sightings, tally)
    result = report(tally)
    rows = {n: (v, result["cases"][n]) for n, v in result["finer"].items() if ">=" in n}
    assert rows == {
        "track area >= 300": (0.5, 2),
        "track area >= 200": (1.0, 1),
        "track visible >= 0.9": (1.0, 1),
        "track visible >= 0.5": (0.0, 1),
        "track visible >= 0.3": (1.0, 1),
    }


def test_absent_things_are_told_apart_by_what_is_wrong_with_them(make_clip, make_thing):
    clip = make_clip([make_thing("mug", "yellow"), make_thing("book", "red")], [[LEFT, RIGHT]])
    sightings, tally = locate(clip), Tally()
    texts = ("There are none.", '<points coords="0.0 1 180 420">x</points>')
    for thing, hard, text in (
        ((LEMON, OWN_COLOUR), False, texts[0]),
        ((MUG, RED), True, texts[0]),
        ((CATEGORY_NAMES.index("bowl"), YELLOW), True, texts[1]),
    ):
        question = still_question(sightings, "point", *thing, None, hard=hard)
        score_still(question, answered(question, clip, text), clip, sightings, tally)
    result = report(tally)
    assert result["figures"]["absent_plain"] == 1.0
    assert result["figures"]["absent_hard"] == 0.5
    assert result["figures"]["absent_accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert result["finer"]["absent, wrong colour"] == 1.0
    assert result["finer"]["absent, wrong thing"] == 0.0


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("There are none.", True),
        ('<points coords="0.0 1 180 420">lemon</points>', True),
        ('<tracks coords="0.0 1 180 420;0.5 1 190 430 2 500 500">lemons</tracks>', True),
        ('<points coords="0.0 1 180 42">lemon</points>', False),  # two digits
        ('<points coords="0.0 1 180 420">lemon', False),
        ("", False),
    ],
)
def test_only_whole_answers_in_a_trained_form_are_valid(track, text, valid):
    clip, _, question = track
    assert is_valid(answered(question, clip, text)) is valid


def test_the_shipped_engine_points_counts_denies_and_tracks():
    tally = evaluate(
        Grounder(load_engine(None, threads=1)),
        seed=3,
        num_stills=16,
        num_clips=5,
        progress=lambda scenes, total, title: scenes,
    )
    figures = report(tally)["figures"]
    assert set(figures) >= HEADLINES
    # Far below the shipped figures (manifest.json), far above chance: a few scenes scatter.
    assert figures["pointing_f1"] > 0.65
    assert figures["absent_accuracy"] > 0.75
    assert figures["tracking_f1"] > 0.45
    assert figures["format_valid"] > 0.95


def test_json_holds_figures_cases_and_where_they_were_made(capsys):
    assert main(["--scenes", "2", "--clips", "1", "--frames", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"figures", "low", "high", "cases", "settings", "commit", "date", "versions"} <= set(
        result
    )
    assert set(result["figures"]) <= set(result["low"]) & set(result["high"]) & set(result["cases"])
    assert "phrasing_spread" in result["figures"]
    assert result["settings"]["held_out_pairs"] == "excluded from training"
    assert result["settings"]["seed"] == 0
    assert result["settings"]["clips"] == 1
    assert all(0 <= value <= 1 for value in result["figures"].values())


def test_the_table_names_every_figure_and_there_are_as_many_clips_as_stills(capsys):
    assert main(["--scenes", "2", "--frames", "2", "--seed", "5"]) == 0
    out, progress = capsys.readouterr()
    assert "pointing_f1" in out
    assert "95 % interval" in out
    assert re.search(r"\ntrack visible >= 0\.9 +\d\.\d{3} +\d+\n", out)
    assert "clips: 100%" in progress
    assert "2/2" in progress.rpartition("clips: 100%")[2]


def test_a_report_of_rendered_scenes_has_its_plots_and_worst_answers(capsys, tmp_path):
    options = ["--scenes", "3", "--frames", "3", "--seed", "5", "--no-phrasings", "--json"]
    assert main([*options, "--report", str(tmp_path / "report")]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert "phrasing_spread" not in figures
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"failures.html", "by_size.png", "by_speed.png", "reliability.png"} <= names
    page = (tmp_path / "report" / "failures.html").read_text(encoding="utf-8")
    assert "Worst answers: molmo2-nano on rendered scenes" in page


def test_options_that_do_not_belong_together_are_refused(capsys, tmp_path):
    for options, message in (
        (["--sam2", str(tmp_path)], "--sam2 is for data sets, expected --dataset with it"),
        (["--answers", str(tmp_path / "a")], "--answers is for data sets"),
        (["--write", "--engine", "http://localhost:1"], "--write needs an engine folder"),
    ):
        assert main(["--scenes", "1", *options]) == 2
        assert message in capsys.readouterr().err


def test_written_figures_change_nothing_else_in_the_manifest(capsys, tmp_path):
    folder = tmp_path / "engine"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
    options = ["--engine", str(folder), "--scenes", "1", "--frames", "2", "--seed", "5"]
    assert main([*options, "--write", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    shipped, written = Manifest.load(NANO), Manifest.load(folder)
    assert written.training.metrics == {"scenes": 1, "clips": 1, "seed": 5, **figures}
    assert written == with_metrics(shipped, figures, num_stills=1, num_clips=1, seed=5)


def test_a_missing_engine_is_named(capsys, tmp_path):
    assert main(["--engine", str(tmp_path / "nowhere"), "--scenes", "1"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_clips_are_half_a_second_apart(track):
    clip, _, _ = track
    assert as_clip(clip).times_s == (0.0, 0.5, 1.0)
    assert np.array_equal(as_clip(clip).frames[2].image, clip.frames[2])
