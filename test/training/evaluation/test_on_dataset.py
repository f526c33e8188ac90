"""A data set asked of engines: figures, what is left out, and what is refused at once."""

import json
import shutil

import cv2
import numpy as np
import pytest

from benchmarks.nano_server import NanoServer
from molmo2_ros.errors import ConfigError, DataError, QueryError
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.training.data.dataset import Dataset
from molmo2_ros.training.data.dataset_writer import DatasetWriter
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.evaluate import main
from molmo2_ros.training.evaluation.any_engine import open_any
from molmo2_ros.training.evaluation.asking import LeftOut, ask_dataset
from molmo2_ros.training.evaluation.on_dataset import evaluate_dataset

FIGURES = {
    "pointing_f1",
    "counting_exact",
    "counting_close",
    "absent_accuracy",
    "tracking_f1",
    "hota",
    "format_valid",
}


def quietly(items, total, title):
    return items


def run(grounder, folder, **options):
    return evaluate_dataset(grounder, Dataset.open(folder), progress=quietly, **options)


def write(folder, *annotations, video=False, num_frames=3, size=(60, 80), subtitles=()):
    """One example of grey pictures with these annotations."""
    with DatasetWriter(folder) as writer:
        grey = np.full((*size, 3), 120, np.uint8)
        frames = writer.add_frames("e", [grey] * num_frames)
        times_s = tuple(0.5 * i for i in range(num_frames))
        media = Media(images=frames)
        if num_frames > 1:
            media = Media(frames=frames, times_s=times_s, subtitles=subtitles)
        if video:
            path = folder / "e.mp4"
            target = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 4.0, size[::-1])
            for _ in range(2 * num_frames):
                target.write(grey)
            target.release()
            media = Media(video="e.mp4")
        writer.add(Example(name="e", media=media, annotations=annotations))
    return folder


def track(label, *times_s):
    points = tuple(LabelledPoint(x=0.5, y=0.5, time_s=t) for t in times_s)
    return Annotation(task=Task.TRACK, label=label, objects=(LabelledObject(points=points),))


@pytest.fixture(scope="module")
def outcome(nano, scenes):
    return run(nano, scenes)


def test_the_shipped_engine_finds_counts_denies_and_tracks_what_a_data_set_knows(outcome):
    result = outcome.result
    assert set(result["figures"]) >= FIGURES
    assert result["figures"]["pointing_f1"] > 0.6
    assert result["figures"]["tracking_f1"] > 0.5
    assert result["figures"]["absent_accuracy"] > 0.7
    for name, value in result["figures"].items():
        assert result["low"][name] <= value <= result["high"][name]
        assert result["cases"][name] >= 1
    assert any(name.startswith("pointing_f1, size ") for name in result["finer"])
    assert any(name.startswith("pointing_f1, visible ") for name in result["finer"])
    assert any(name.startswith("tracking_f1, speed ") for name in result["finer"])
    assert outcome.settings["examples"] == 11
    assert outcome.settings["questions"] == len(outcome.scored)


def test_the_first_examples_alone_are_the_first_of_the_whole(nano, scenes, outcome):
    few = run(nano, scenes, limit=3)
    names = list(dict.fromkeys(one.example for one in outcome.scored))[:3]
    assert [one.said for one in few.scored] == [
        one.said for one in outcome.scored if one.example in names
    ]


@pytest.fixture
def clips(scenes, tmp_path):
    """The clips of the set alone: a server's model is taken to read images in tiles."""
    with DatasetWriter(tmp_path / "clips") as writer:
        for example in Dataset.open(scenes):
            if example.media.is_clip:
                writer.add(example)
    for name in ("frames", "masks"):
        (tmp_path / "clips" / name).symlink_to(scenes / name)
    return tmp_path / "clips"


def test_a_server_is_asked_the_same_questions(clips, nano):
    server = NanoServer(load_engine(threads=1))
    try:
        opened = open_any(server.url)
        assert opened.name == "molmo2-nano"
        assert not opened.pairs_excluded
        asked = run(opened.grounder, clips)
    finally:
        server.stop()
    local = run(nano, clips)
    assert [one.question for one in asked.scored] == [one.question for one in local.scored]
    # Its pictures are squares of 378 pixels in JPEG: not the same to the last digit.
    assert asked.result["figures"]["tracking_f1"] > 0.4


def test_what_an_engine_cannot_do_is_counted_and_the_rest_is_asked(nano, tmp_path):
    caption = Annotation(task=Task.CAPTION, answer="A grey nothing.")
    pointing = Annotation(task=Task.POINT, label="lemon")
    folder = write(tmp_path / "set", track("lemon", 0.0, 0.5), caption, pointing)
    outcome = run(nano, folder)
    assert [one.kind.value for one in outcome.scored] == ["tracking"]
    (refused,) = outcome.settings["questions_refused"]
    assert "cannot do 'clip'" in refused
    assert sum(outcome.settings["questions_unscored"].values()) == 1
    notes = "\n".join(outcome.notes)
    assert "1 refused by the engine:\n  1: molmo2-nano cannot do 'clip'" in notes
    assert "a caption: no measure without a judge is defined (first: e)" in notes


def test_a_clip_is_asked_about_as_a_whole_where_the_engine_can(able, tmp_path):
    thing = LabelledObject(points=(LabelledPoint(x=0.5, y=0.5, time_s=0.5),))
    reply = Annotation(task=Task.REPLY, question="Is it grey?", answer="yes", choices=("no", "yes"))
    folder = write(
        tmp_path / "set",
        Annotation(task=Task.POINT, label="lemon", objects=(thing,)),
        Annotation(task=Task.COUNT, label="lemon", objects=(thing,), question="How many lemons?"),
        Annotation(
            task=Task.TRACK_FROM_POINT, label="lemon", objects=track("x", 0, 0.5, 1).objects
        ),
        reply,
        video=True,
    )
    figures = run(able, folder).result["figures"]
    assert {"video_pointing_f1", "counting_exact", "tracking_f1", "choice_accuracy"} <= set(figures)


def test_subtitles_stand_in_the_prompt_of_questions_in_words(able, tmp_path):
    reply = Annotation(task=Task.REPLY, question="Is it?", answer="yes", choices=("no", "yes"))
    num_tokens = []
    for name, subtitles in (("silent", ()), ("told", ((0.0, 1.0, "Take the red mug now."),))):
        folder = write(tmp_path / name, reply, track("lemon", 0.0, 0.5), subtitles=subtitles)
        asked = ask_dataset(able, Dataset.open(folder), LeftOut(), progress=quietly)
        num_tokens.append([one.answer.timing.num_prompt_tokens for one in asked])
    (silent_words, silent_track), (told_words, told_track) = num_tokens
    assert told_words > silent_words + 5
    assert told_track == silent_track


def test_of_a_long_track_the_beginning_is_scored_and_that_is_told(nano, tmp_path):
    times_s = [0.5 * i for i in range(12)]
    folder = write(tmp_path / "set", track("lemon", *times_s), num_frames=12)
    outcome = run(nano, folder)
    assert outcome.settings["tracks_cut"] == 1
    assert "1 tracks go on behind the last frame" in "\n".join(outcome.notes)
    places = {mark.at for mark in outcome.scored[0].marks if mark.is_truth}
    assert max(places) == 3.5  # of eight frames


@pytest.mark.parametrize(
    ("annotation", "error", "message"),
    [
        (Annotation(task=Task.CAPTION, answer="x"), DataError, "none of the 1 questions of .* can "
         "be scored: a caption: .*; expected points or masks, multiple choice, or replies"),
        (Annotation(task=Task.POINT, label="x", objects=(LabelledObject(points=()),)), DataError,
         "without a point or a mask to hold answers to"),
        (Annotation(task=Task.POINT, label="lemon"), QueryError, "none of the 1 questions of .* "
         "can be asked of molmo2-nano: molmo2-nano cannot do 'clip'"),
    ],
)  # fmt: skip
def test_a_data_set_that_measures_nothing_is_an_error(nano, tmp_path, annotation, error, message):
    with pytest.raises(error, match=message):
        run(nano, write(tmp_path / "set", annotation))


def test_bad_input_is_told_in_one_line(tmp_path, scenes, capsys):
    empty = tmp_path / "empty"
    with DatasetWriter(empty):
        pass
    broken = tmp_path / "broken"
    shutil.copytree(scenes, broken)
    next((broken / "frames").rglob("*.jpg")).write_bytes(b"")
    for options, message in (
        (["--dataset", str(empty)], "has no example, expected at least one"),
        (["--dataset", str(tmp_path)], "no dataset.json in"),
        (["--dataset", str(broken)], "is no picture that OpenCV reads"),
        (["--dataset", str(scenes), "--limit", "0"], "--limit is 0, expected one example at least"),
        (["--dataset", str(scenes), "--write"], "--write keeps figures of rendered scenes"),
        (
            ["--dataset", str(scenes), "--source", "hog"],
            "has labels of synthetic, expected some of",
        ),
        (
            ["--dataset", str(scenes), "--engine", "torch:/nowhere"],
            "/nowhere/config.json is missing",
        ),
        (["--scenes", "1", "--engine", "http://"], "expected one such as http://host:8000/v1"),
    ):
        assert main(options) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("evaluate: ")
        assert message in told


def test_the_command_prints_a_table_or_json_of_a_data_set(scenes, capsys):
    options = ["--dataset", str(scenes), "--limit", "2"]
    assert main([*options, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["settings"]["dataset"] == str(scenes)
    assert whole["settings"]["examples"] == 2
    assert set(whole["figures"]) == set(whole["low"]) & set(whole["figures"])
    assert main(options) == 0
    out = capsys.readouterr().out
    assert f"pointing_f1  {whole['figures']['pointing_f1']:>20.3f}"[:11] in out
    assert "questions about 2 examples" in out


def test_a_dtype_that_torch_does_not_run_is_refused():
    with pytest.raises(ConfigError, match="dtype is 'int8', expected float32 or bfloat16"):
        open_any("torch:nowhere", dtype="int8")
