"""The table that people read and the JSON that programs read."""

import json
import math
from dataclasses import replace

import numpy as np

from molmo2_ros.answers.answer import read_answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.cli.findings import Finding, Result, as_json, as_table
from molmo2_ros.prompt.query import parse_query

FRAME = Frame(image=np.zeros((48, 64, 3), np.uint8), stamp_ns=0)
LATER = Frame(image=np.zeros((48, 64, 3), np.uint8), stamp_ns=2_500_000_000)


def make_finding(track_id=1, **changes):
    return Finding(
        **{
            "stamp_ns": 500_000_000,
            "image": None,
            "track_id": track_id,
            "u": 203.46,
            "v": 50.2,
            "label": "red mug",
            "confidence": 0.934,
            **changes,
        }
    )


def make_result(question, texts, findings=(), frames=(FRAME, LATER)):
    query = parse_query(question)
    return Result(
        query=query,
        engine="molmo2-nano",
        files=("table.mp4",),
        answers=tuple(
            read_answer(query, text, [frame]) for text, frame in zip(texts, frames, strict=False)
        ),
        findings=tuple(findings),
    )


def test_points_stand_in_columns():
    result = make_result(
        "Track the red mug",
        ['<tracks coords="0.0 1 500 500">red mug</tracks>'],
        [make_finding(), make_finding(12, confidence=math.nan, label="mug")],
    )
    assert as_table(result) == (
        " time s   id     x px     y px  label    confidence\n"
        "    0.5    1    203.5     50.2  red mug        0.93\n"
        "    0.5   12    203.5     50.2  mug                "
    )


def test_points_on_several_pictures_name_the_picture():
    table = as_table(make_result("Point to mugs", [], [make_finding(image=2)]))
    assert table.splitlines()[0].startswith("  image   id")
    assert table.splitlines()[1].startswith("      2    1")


def test_counts_words_and_none_are_said_plainly():
    none = make_result("Point to the red mug", ["There are none."])
    assert as_table(none) == "There are none."
    count = make_result("count: mugs", ["3"])
    assert as_table(count) == "3 mugs"
    counts = make_result("count: mugs", ["3", "There are none."])
    assert as_table(counts) == "0.0 s: 3 mugs\n2.5 s: 0 mugs"
    words = make_result("Is the drawer open?", ["Yes, it is. "])
    assert as_table(words) == "Yes, it is."
    silent = make_result("Track the red mug", [""])
    assert as_table(silent) == "No point was found."


def test_what_was_odd_is_noted():
    result = make_result("Point to the red mug", ["I like tea."])
    assert as_table(result) == (
        "No point was found.\n\nnote: the answer has no point and does not say that there are none"
    )
    cut = replace(result, answers=(replace(result.answers[0], truncated=True, problems=()),))
    assert "note: the answer was cut off after 0 tokens" in as_table(cut)


def test_json_holds_points_answers_and_the_question_as_asked():
    result = make_result(
        "Track the red mug",
        ['<tracks coords="0.0 1 500 500">red mug</tracks>'],
        [make_finding(), make_finding(2, confidence=math.nan)],
    )
    payload = json.loads(as_json(result))
    assert payload["files"] == ["table.mp4"]
    assert payload["query"]["question"] == "Track the red mug."
    assert payload["points"][0] == {
        "time_s": 0.5,
        "image": None,
        "id": 1,
        "x_px": 203.46,
        "y_px": 50.2,
        "label": "red mug",
        "confidence": 0.934,
    }
    assert payload["points"][1]["confidence"] is None
    assert payload["answers"][0]["text"].startswith("<tracks")
    assert payload["answers"][0]["problems"] == []


def test_the_question_is_told_as_the_model_read_it():
    several = replace(make_result("count: mugs", ["3"]), files=("a.png", "b.png"))
    assert several.question == "How many mugs are there in all images?"  # shown together
    one_by_one = replace(make_result("count: mugs", ["3", "1"]), files=("a.png", "b.png"))
    assert one_by_one.question == "How many mugs are there?"
    as_clip = replace(make_result("count[clip]: mugs", ["3"]), files=("a.png", "b.png"))
    assert as_clip.question == "How many mugs are there?"
