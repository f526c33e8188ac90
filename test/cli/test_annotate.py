"""Annotated copies: every frame of a video shows the target where it truly is."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from molmo2_ros.answers.answer import read_answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.sources import open_source
from molmo2_ros.cli.annotate import annotate_pictures, annotate_stream, check_output
from molmo2_ros.cli.findings import Finding, Result
from molmo2_ros.errors import ConfigError
from molmo2_ros.overlay import track_colour
from molmo2_ros.prompt.query import parse_query

NUM_FRAMES, RATE_HZ, STEP_PX = 20, 10.0, 6
WIDTH, HEIGHT = 320, 240


@pytest.fixture
def video(tmp_path):
    """Ten frames a second of a grey texture that moves 6 px to the right with each."""
    rng = np.random.default_rng(0)
    grey = np.kron(rng.integers(40, 200, (30, 60)), np.ones((8, 8))).astype(np.uint8)
    wide = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    path = tmp_path / "moving.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), RATE_HZ, (WIDTH, HEIGHT))
    for index in range(NUM_FRAMES):
        left = 120 - STEP_PX * index
        writer.write(wide[:, left : left + WIDTH])
    writer.release()
    return path


def make_result(*places, answers=(), question="Track the red mug"):
    """Findings as (seconds, u, v, track id)."""
    return Result(
        query=parse_query(question),
        engine="molmo2-nano",
        files=("moving.avi",),
        answers=tuple(answers),
        findings=tuple(
            Finding(
                stamp_ns=round(time_s * 1e9),
                image=None,
                track_id=track_id,
                u=u,
                v=v,
                label="red mug",
                confidence=0.9,
            )
            for time_s, u, v, track_id in places
        ),
    )


def marks(picture, track_id=1):
    """Where a target's colour is, centre in pixels; None without."""
    shade = picture.astype(int) - picture.astype(int).mean(axis=2, keepdims=True)
    colour = np.array(track_colour(track_id), float)
    likeness = shade @ (colour - colour.mean()) / np.linalg.norm(colour - colour.mean())
    # Opened: the trail, a thin line behind the target, would pull the centre back.
    shown = cv2.morphologyEx((likeness > 80).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 1)))
    ys, xs = np.nonzero(shown)
    return None if len(xs) < 20 else np.array([xs.mean(), ys.mean()])


def read_all(path):
    source = open_source(str(path))
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame.image)
    return frames


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_every_frame_of_the_copy_shows_the_target_where_it_is(video, tmp_path, suffix):
    out = tmp_path / f"copy{suffix}"
    annotate_stream(lambda: open_source(str(video)), make_result((0.0, 80, 120, 1)), out)
    frames = read_all(out)
    assert len(frames) == NUM_FRAMES
    assert frames[0].shape == (HEIGHT, WIDTH, 3)
    for index, picture in enumerate(frames):
        x, y = marks(picture[90:150])
        # The label to the right of the ring has the same colour: only the ring's side is checked.
        assert 80 + STEP_PX * index - 6 < x < 80 + STEP_PX * index + 70
        assert abs(y - 30) < 20


def test_a_target_moves_to_where_it_was_found_again_and_ends_when_it_was_not(video, tmp_path):
    query = parse_query("Track the red mug")
    source = open_source(str(video))
    frames = [source.read() for _ in range(NUM_FRAMES)]
    gone = read_answer(query, "There are none.", frames[15:16])
    out = tmp_path / "copy.avi"
    result = make_result((0.0, 80, 120, 1), (1.0, 60, 200, 2), answers=[gone])
    annotate_stream(lambda: open_source(str(video)), result, out)
    pictures = read_all(out)
    assert marks(pictures[9], 1) is not None
    assert marks(pictures[10], 1) is None
    assert marks(pictures[10], 2) is not None
    assert marks(pictures[14], 2) is not None
    assert marks(pictures[15], 2) is None


def test_things_counted_over_a_clip_stay_from_where_each_was_found(video, tmp_path):
    result = make_result((0.0, 80, 60, 1), (1.0, 60, 180, 2), question="count[clip]: mugs")
    out = tmp_path / "copy.avi"
    annotate_stream(lambda: open_source(str(video)), result, out)
    pictures = read_all(out)
    assert [marks(pictures[9], track_id) is not None for track_id in (1, 2)] == [True, False]
    assert [marks(pictures[11], track_id) is not None for track_id in (1, 2)] == [True, True]


def test_a_still_of_a_video_shows_the_last_frame_with_a_target(video, tmp_path):
    out = tmp_path / "still.png"
    annotate_stream(lambda: open_source(str(video)), make_result((0.0, 80, 120, 1)), out)
    picture = cv2.cvtColor(cv2.imread(str(out)), cv2.COLOR_BGR2RGB)
    assert marks(picture[90:150])[0] > 80 + STEP_PX * (NUM_FRAMES - 2)


def test_several_pictures_become_numbered_files_or_a_video(tmp_path):
    frames = [Frame(image=np.full((61, 81, 3), 90, np.uint8), stamp_ns=i) for i in range(2)]
    result = make_result((0.0, 40, 30, 1))
    annotate_pictures(frames[:1], result, tmp_path / "one.png")
    annotate_pictures(frames, result, tmp_path / "two.jpg")
    annotate_pictures(frames, result, tmp_path / "two.avi")
    written = sorted(Path(tmp_path).iterdir())
    assert [path.name for path in written] == ["one.png", "two-1.jpg", "two-2.jpg", "two.avi"]
    assert marks(cv2.cvtColor(cv2.imread(str(written[0])), cv2.COLOR_BGR2RGB)) is not None
    assert read_all(written[3])[0].shape == (60, 80, 3)  # encoders want even sizes


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    check_output(tmp_path / "fine.mp4")
    with pytest.raises(ConfigError, match="ends in '.gif', expected one of"):
        check_output(tmp_path / "film.gif")
    with pytest.raises(ConfigError, match="does not exist; make it first"):
        check_output(tmp_path / "none" / "film.mp4")


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "folder.png").mkdir()
    frames = [Frame(image=np.full((60, 80, 3), 90, np.uint8), stamp_ns=0)]
    with pytest.raises(ConfigError, match="cannot be written"):
        annotate_pictures(frames, make_result(), tmp_path / "folder.png")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ConfigError, match="cannot be written as mp4v video"):
        annotate_pictures(frames, make_result(), tmp_path / "folder.mp4")
