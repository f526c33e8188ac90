"""A question to a video of any length, asked of the shipped model."""

import json

import cv2
import numpy as np
import pytest

from molmo2_ros.camera.sources import open_source
from molmo2_ros.cli.main import main
from molmo2_ros.cli.stream import ask_stream
from molmo2_ros.grounder import Grounder
from molmo2_ros.prompt.query import label, parse_query, question_text
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.golden import Golden

RATE_HZ = 10.0
NUM_FRAMES = 61  # six seconds


@pytest.fixture(scope="module")
def engine():
    return load_engine(threads=1)


@pytest.fixture(scope="module")
def golden(engine):
    return Golden.load(engine.folder / engine.manifest.golden.file)


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    """Six seconds of a still table, as a folder of pictures."""
    path = tmp_path_factory.mktemp("frames")
    picture = cv2.cvtColor(golden.frames[0], cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(path / "0.png"), picture)
    for index in range(1, NUM_FRAMES):
        (path / f"{index}.png").hardlink_to(path / "0.png")
    return str(path)


def ask(engine, folder, question, **options):
    return ask_stream(
        Grounder(engine),
        [folder],
        lambda: open_source(folder, rate_hz=RATE_HZ),
        parse_query(question),
        **options,
    )


@pytest.fixture(scope="module")
def thing(golden):
    """What the golden clip's question is about."""
    return label(parse_query(golden.question))


def test_points_are_asked_for_twice_a_second_and_keep_their_ids(engine, folder, thing):
    result = ask(engine, folder, f"point: the {thing}")
    times = [answer.stamps_ns[-1] / 1e9 for answer in result.answers]
    assert times == pytest.approx(np.arange(0, 6.5, 0.5))
    assert all(len(answer.stamps_ns) == 1 for answer in result.answers)
    # The picture stands still, so every answer is the same, and so is every object.
    assert len({answer.text for answer in result.answers}) == 1
    num_points = len(result.answers[0].points)
    ids = [finding.track_id for finding in result.findings]
    assert ids == list(range(1, num_points + 1)) * len(times)


def test_clips_of_a_track_slide_over_the_video_and_report_each_time_once(engine, folder, thing):
    result = ask(engine, folder, f"track: the {thing}")
    facts = engine.manifest.sampling
    ends = [answer.stamps_ns[-1] / 1e9 for answer in result.answers]
    step_s = facts.max_clip_s / 2
    expected = [*np.arange(facts.max_clip_s, 6.0, step_s), 6.0]
    assert ends == pytest.approx(expected, abs=1 / RATE_HZ)
    for answer in result.answers:
        assert answer.stamps_ns[-1] - answer.stamps_ns[0] <= facts.max_clip_s * 1e9
        assert len(answer.stamps_ns) <= facts.max_frames
    rows = [(finding.stamp_ns, finding.track_id) for finding in result.findings]
    assert rows == sorted(set(rows))


def test_the_time_between_answers_can_be_chosen(engine, folder, thing):
    result = ask(engine, folder, f"count: {thing}", every_s=2.0)
    times = [answer.stamps_ns[-1] / 1e9 for answer in result.answers]
    assert times == pytest.approx([0, 2, 4, 6])


def test_a_video_shorter_than_a_clip_is_asked_about_as_a_whole(engine, golden, tmp_path):
    for index, image in enumerate(golden.frames):
        cv2.imwrite(str(tmp_path / f"{index}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    result = ask_stream(
        Grounder(engine),
        [str(tmp_path)],
        lambda: open_source(str(tmp_path), rate_hz=2.0),
        parse_query(golden.question),
    )
    (answer,) = result.answers
    assert question_text(answer.query) == golden.question
    assert len(answer.stamps_ns) == len(golden.frames)
    assert answer.points
    assert len(result.findings) == len(answer.points)


def test_the_command_prints_the_table_and_writes_the_video(capsys, golden, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for index, image in enumerate(golden.frames):
        cv2.imwrite(str(frames / f"{index}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    out = tmp_path / "out.mp4"
    arguments = ["ask", str(frames), golden.question, "--threads", "1"]
    assert main([*arguments, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert " ".join(captured.out.splitlines()[0].split()) == (
        "time s id x px y px label confidence"
    )
    assert f"wrote {out}" in captured.err
    video = open_source(str(out))
    assert sum(1 for _ in iter(video.read, None)) == len(golden.frames)
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"]


def test_pictures_are_asked_about_one_by_one_and_numbered(capsys, golden, tmp_path, thing):
    paths = []
    for index, image in enumerate(golden.frames[:2]):
        paths.append(str(tmp_path / f"{index}.png"))
        cv2.imwrite(paths[-1], cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert main(["ask", *paths, f"point: the {thing}", "--json", "--threads", "1"]) == 0
    payload = json.loads(capsys.readouterr().out)
    assert len(payload["answers"]) == 2
    assert {point["image"] for point in payload["points"]} <= {1, 2}
    assert main(["ask", paths[0], f"point: the {thing}", "--json", "--threads", "1"]) == 0
    payload = json.loads(capsys.readouterr().out)
    assert all(point["image"] is None for point in payload["points"])
