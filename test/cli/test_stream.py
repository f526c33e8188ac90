"""A question to a video of any length, asked of the shipped model."""

import copy
import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from molmo2_ros.answers.answer import point_stamp_ns
from molmo2_ros.camera.clip import Sampling
from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.sources import open_source, read_picture
from molmo2_ros.cli.findings import as_table
from molmo2_ros.cli.main import main
from molmo2_ros.cli.stream import ask_stream, read_whole
from molmo2_ros.errors import ImageError
from molmo2_ros.grounder import Grounder
from molmo2_ros.prompt.query import label, parse_query, question_text
from molmo2_ros.prompt.subtitles import Subtitle, subtitle_text
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.golden import Golden
from molmo2_ros.runtime.manifest import SKILLS

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


def taught(engine, **sampling):
    """The shipped model, believed to have every skill: what it says is its own."""
    other = copy.copy(engine)
    facts = replace(engine.manifest.sampling, **sampling)
    other.manifest = replace(engine.manifest, skills=tuple(SKILLS), sampling=facts)
    return other


def test_points_of_a_whole_video_are_asked_for_once_and_stand_on_their_frames(engine, folder):
    result = ask(taught(engine), folder, "point[clip]: mugs")
    (answer,) = result.answers
    assert len(answer.stamps_ns) == 8  # the most that the nano reads
    assert (answer.stamps_ns[0], answer.stamps_ns[-1]) == (0, 6_000_000_000)
    assert answer.points
    frame = Frame(image=read_picture(f"{folder}/0.png"), stamp_ns=0)
    for finding, point in zip(result.findings, answer.points, strict=True):
        assert finding.track_id == point.object_id
        assert finding.stamp_ns == point_stamp_ns(answer, point)
        assert (finding.u, finding.v) == (point.x * frame.width, point.y * frame.height)
    table = as_table(result).splitlines()
    assert len(table) >= 1 + len(answer.points)


def test_a_caption_reads_the_subtitles_of_the_video(engine, folder):
    said = (Subtitle(start_s=1.0, end_s=2.0, text="Now take the red mug."),)
    without = ask(taught(engine), folder, "Describe this video in detail")
    with_subtitles = ask(taught(engine), folder, "Describe this video in detail", subtitles=said)
    (before,), (after,) = without.answers, with_subtitles.answers
    written = PromptTokenizer(engine.folder).encode_text(subtitle_text([1.0], said))
    added = after.timing.num_prompt_tokens - before.timing.num_prompt_tokens
    assert added == len(written)
    assert as_table(with_subtitles).startswith(after.text.strip())


def test_the_command_captions_a_video_with_its_subtitles(capsys, engine, folder, tmp_path):
    taught_folder, said = tmp_path / "engine", tmp_path / "said.srt"
    shutil.copytree(engine.folder, taught_folder, ignore=shutil.ignore_patterns("checkpoint"))
    taught(engine).manifest.write(taught_folder)
    said.write_text("1\n00:00:01,000 --> 00:00:02,000\nNow take the red mug.\n")
    question = "Describe this video in detail"
    arguments = ["ask", folder, question, "--json", "--threads", "1", "--rate", f"{RATE_HZ:g}"]
    options = ["--engine", str(taught_folder), "--subtitles", str(said)]
    assert main([*arguments, *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["query"] == {"kind": "caption", "words": question, "question": question}
    lines = (Subtitle(start_s=1.0, end_s=2.0, text="Now take the red mug."),)
    (answer,) = ask(taught(engine), folder, question, subtitles=lines).answers
    assert [given["text"] for given in told["answers"]] == [answer.text]
    assert told["answers"][0]["num_frames"] == len(answer.stamps_ns)


@pytest.mark.parametrize(
    ("max_frames", "expected_s"),
    [
        (20, [*np.arange(0, 6.1, 0.5)]),  # fits: twice a second
        (5, [0, 1.5, 3, 4.5, 6]),  # does not: evenly, the first and the last frame included
        (1, [6]),
    ],
)
def test_a_video_of_any_length_is_read_as_a_whole(folder, max_frames, expected_s):
    held = []

    def open_frames():
        held.append(open_source(folder, rate_hz=RATE_HZ))
        return held[-1]

    clip = read_whole(open_frames, Sampling(fps=2.0, max_frames=max_frames))
    assert clip.times_s[-1] + clip.stamps_ns[0] / 1e9 == pytest.approx(6.0)
    assert [stamp_ns / 1e9 for stamp_ns in clip.stamps_ns] == pytest.approx(expected_s)
    # Read twice only where its length had to be known first.
    assert len(held) == (1 if max_frames == 20 else 2)


def test_a_video_without_frames_is_told():
    class Empty:
        """A file that opens and gives nothing."""

        rate_hz = 2.0

        def read(self):
            return None

        def close(self):
            pass

    with pytest.raises(ImageError, match="no frame to choose from"):
        read_whole(Empty, Sampling())


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
