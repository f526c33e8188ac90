"""Answers that are kept are not asked for again, whatever happened to the run."""

import json

import pytest

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.dataset import Dataset
from molmo2_ros.training.evaluate import main
from molmo2_ros.training.evaluation.answer_log import AnswerLog
from molmo2_ros.training.evaluation.on_dataset import evaluate_dataset


class Killed(Exception):
    pass


def quietly(items, total, title):
    return items


def run(nano, scenes, path, progress=quietly, limit=3):
    log = AnswerLog(path, model="nano", dataset="set")
    before = nano.num_answers
    dataset = Dataset.open(scenes)
    outcome = evaluate_dataset(nano, dataset, progress=progress, limit=limit, log=log)
    return outcome, nano.num_answers - before


def in_order(outcome):
    return sorted(outcome.scored, key=lambda one: (one.example, one.question))


def killed_after(num):
    def progress(items, total, title):
        for number, item in enumerate(items):
            if number == num:
                raise Killed
            yield item

    return progress


def test_a_killed_evaluation_goes_on_to_the_same_scores(nano, scenes, tmp_path):
    path = tmp_path / "answers" / "nano.jsonl"
    whole, num_whole = run(nano, scenes, tmp_path / "whole.jsonl")
    with pytest.raises(Killed):
        run(nano, scenes, path, killed_after(1))
    cut = path.read_bytes() + b'{"example": "cut o'  # the kill hit in the middle of a line
    path.write_bytes(cut)
    resumed, num_asked = run(nano, scenes, path)
    assert 0 < num_asked < num_whole
    assert in_order(resumed) == in_order(whole)
    again, num_asked = run(nano, scenes, path)
    assert num_asked == 0
    assert again.result == whole.result
    assert path.read_bytes().count(b"\n") == 1 + len(whole.scored)


def test_an_answer_that_was_cut_or_lost_the_thread_stays_one(able, scenes, tmp_path):
    log = AnswerLog(tmp_path / "a.jsonl", model="m", dataset="d")
    outcome = evaluate_dataset(
        able, Dataset.open(scenes), progress=quietly, limit=2, log=log
    )  # stills in tiles, which these weights never saw
    again = evaluate_dataset(
        able,
        Dataset.open(scenes),
        progress=quietly,
        limit=2,
        log=AnswerLog(tmp_path / "a.jsonl", model="m", dataset="d"),
    )
    assert again.scored == outcome.scored


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"model": "other", "dataset": "d"}, "line 1: answers of .*other.*, expected .*'m'"),
        ({"model": "m", "dataset": "e"}, "line 1: answers of"),
        ("no json", "line 1 is no JSON"),
    ],
)
def test_answers_of_another_model_or_data_set_are_not_mixed_in(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text((line if isinstance(line, str) else json.dumps(line)) + "\n")
    with pytest.raises(DataError, match=message):
        AnswerLog(path, model="m", dataset="d")


def test_the_command_keeps_its_answers(scenes, tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    options = ["--dataset", str(scenes), "--limit", "1", "--json", "--answers", str(path)]
    figures = []
    for _ in range(2):
        assert main(options) == 0
        figures.append(json.loads(capsys.readouterr().out)["figures"])
    assert figures[0] == figures[1]
    first = json.loads(path.read_text().splitlines()[0])
    assert first == {"model": "engines/nano", "dataset": "set"}
    assert main([*options, "--engine", "nano"]) == 2
    assert "answers of" in capsys.readouterr().err
    assert main([*options[:-1], str(scenes)]) == 2
    assert "cannot keep answers in" in capsys.readouterr().err
