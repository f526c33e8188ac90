"""The model card says what the evaluator measured and what the manifest knows."""

import json
import shutil
from pathlib import Path

import pytest

from molmo2_ros.errors import DataError, EngineError
from molmo2_ros.training.nano.card import main, write_card

NANO = Path(__file__).parents[3] / "engines" / "nano"


def report():
    """What the evaluator prints, of two figures and some cells of its table."""
    return {
        "settings": {"scenes": 40, "clips": 20, "frames": 8, "seed": 3},
        "figures": {"pointing_f1": 0.8124, "tracking_f1": 0.7},
        "low": {"pointing_f1": 0.79, "tracking_f1": 0.6},
        "high": {"pointing_f1": 0.83, "tracking_f1": 0.8},
        "cases": {"pointing_f1": 61, "tracking_f1": 25},
        "finer": {"mug hit": 0.9, "hammer hit": 0.4, "lemon hit": 0.95, "area >= 100": 0.5},
    }


@pytest.fixture
def engine(tmp_path):
    folder = tmp_path / "engine"
    shutil.copytree(
        NANO, folder, ignore=shutil.ignore_patterns("checkpoint", "README.md", "*.svg", "*.jpg")
    )
    (folder / "evaluation.json").write_text(json.dumps(report()))
    return folder


def test_a_card_gives_each_figure_with_its_interval_and_the_weakest_things(engine):
    card = write_card(engine).read_text()
    assert "| pointing F1 | 0.812 | 0.790 .. 0.830 | 61 |" in card
    assert "| tracking F1, 8 frames | 0.700 | 0.600 .. 0.800 | 25 |" in card
    assert "40 stills and 20 clips of 8 frames" in card
    assert "Found least often: hammer 0.40, mug 0.90, lemon 0.95." in card
    assert "Licence: Apache-2.0." in card
    assert max(len(line) for line in card.splitlines() if not line.startswith("|")) <= 100


def test_learning_curves_are_drawn_and_a_repeated_step_counts_once(engine):
    lines = [
        {"stage": "vision", "step": 50, "patch": 0.2, "token": 0.1},
        {"stage": "vision", "step": 100, "patch": 0.4, "token": 0.3},
        {"stage": "vision", "step": 100, "patch": 0.5, "token": 0.4},  # after a kill
        {"stage": "clips", "step": 50, "patch": 0.6, "clip_token": 0.5},
    ]
    drawn = []
    for chosen in (lines, [lines[0], *lines[2:]]):
        (engine / "curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in chosen))
        assert "](curves.svg)" in write_card(engine).read_text()
        svg = (engine / "curves.svg").read_text()
        assert svg.startswith("<?xml")
        drawn.append(sum("L " in line for line in svg.splitlines()))
    assert drawn[0] == drawn[1] > 10


def test_pictures_of_failures_are_taken_from_the_report(engine, tmp_path, capsys):
    assert "failures.jpg" not in write_card(engine).read_text()
    (tmp_path / "failures.jpg").write_bytes(b"\xff\xd8 a picture")
    assert main(["--engine", str(engine), "--report", str(tmp_path)]) == 0
    assert "](failures.jpg)" in (engine / "README.md").read_text()
    assert (engine / "failures.jpg").read_bytes() == b"\xff\xd8 a picture"
    assert main(["--engine", str(engine), "--report", str(tmp_path / "gone")]) == 2
    assert "`evaluate --report` makes it" in capsys.readouterr().err


def test_without_curves_there_is_no_picture(engine):
    (engine / "curves.jsonl").unlink(missing_ok=True)
    assert "curves.svg" not in write_card(engine).read_text()


def test_a_card_without_a_report_or_an_engine_is_refused(engine, tmp_path, capsys):
    (engine / "evaluation.json").write_text('{"figures": {}}')
    with pytest.raises(DataError, match=r"lacks low, high, cases, finer; expected the evaluator"):
        write_card(engine)
    (engine / "evaluation.json").unlink()
    with pytest.raises(DataError, match=r"cannot read .*evaluation\.json: .*evaluate --json"):
        write_card(engine)
    with pytest.raises(EngineError, match=r"manifest\.json"):
        write_card(tmp_path)
    assert main(["--engine", str(engine)]) == 2
    assert capsys.readouterr().err.startswith("card: cannot read")
