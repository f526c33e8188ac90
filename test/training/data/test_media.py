import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.example import Media
from molmo2_ros.training.data.media import (
    Sampling,
    each_frame,
    load_clip,
    load_images,
    sample_times,
)

DENSE = Sampling(fps=10.0, dense=True)


@pytest.mark.parametrize(
    ("duration_s", "native_fps", "sampling", "expected"),
    [
        # Two a second, and the last frame.
        (1.2, 30.0, Sampling(), [0.0, 0.5, 1.0, 1.2]),
        (1.0, 30.0, Sampling(), [0.0, 0.5, 1.0]),
        (0.0, 30.0, Sampling(), [0.0]),
        # Too long: evenly, both ends among them.
        (10.0, 30.0, Sampling(max_frames=5), [0.0, 2.5, 5.0, 7.5, 10.0]),
        # Tracks: 24 fps has divisors 8, 6, 4, 2; the densest at most 10 is 8.
        (0.5, 24.0, DENSE, [0.0, 0.125, 0.25, 0.375, 0.5]),
        # Of 30 fps 10 is the densest that suits 2 fps, but takes 21 frames; 6 takes 13.
        (2.0, 30.0, Sampling(fps=10.0, dense=True, max_frames=13), [i / 6 for i in range(13)]),
        # Nothing fits: the beginning, at the lowest rate.
        (100.0, 30.0, Sampling(fps=10.0, dense=True, max_frames=3), [0.0, 0.5, 1.0]),
        (
            1.0,
            30.0,
            Sampling(fps=10.0, dense=True, answer_fps=1.0, max_frames=4),
            [0, 1 / 3, 2 / 3, 1],
        ),
    ],
)
def test_moments_are_chosen_by_time(duration_s, native_fps, sampling, expected):
    assert sample_times(duration_s, native_fps, sampling) == pytest.approx(expected)


@given(
    duration_s=st.floats(0, 300),
    native_fps=st.floats(1, 60),
    dense=st.booleans(),
    max_frames=st.integers(2, 64),
)
def test_moments_rise_within_the_clip_and_are_not_too_many(
    duration_s, native_fps, dense, max_frames
):
    sampling = Sampling(fps=10.0 if dense else 2.0, dense=dense, max_frames=max_frames)
    times = sample_times(duration_s, native_fps, sampling)
    assert times[0] == 0
    assert 1 <= len(times) <= max_frames
    assert all(b > a for a, b in zip(times, times[1:], strict=False))
    assert times[-1] <= duration_s + 1e-6


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Thirty frames at 10 fps whose brightness tells their number."""
    folder = tmp_path_factory.mktemp("video")
    writer = cv2.VideoWriter(str(folder / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(30):
        writer.write(np.full((48, 64, 3), 8 * number, np.uint8))
    writer.release()
    return folder


def brightness(frames):
    return [round(float(frame.mean()) / 8) for frame in frames]


def test_a_video_is_shown_by_time(video):
    clip = load_clip(video, Media(video="v.avi"), Sampling())
    assert clip.times_s == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 2.9])
    assert brightness(clip.frames) == [0, 5, 10, 15, 20, 25, 29]
    part = load_clip(video, Media(video="v.avi", start_s=1.0, end_s=2.0), DENSE)
    assert part.times_s == pytest.approx([i / 10 for i in range(11)])
    assert brightness(part.frames) == list(range(10, 21))


def test_all_frames_of_a_clip_come_one_at_a_time(video, tmp_path):
    part = list(each_frame(video, Media(video="v.avi", start_s=1.0, end_s=1.3)))
    assert [time_s for time_s, _ in part] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert brightness([image for _, image in part]) == [10, 11, 12, 13]
    for name, value in (("0.png", 40), ("1.png", 80)):
        cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), value, np.uint8))
    frames = list(each_frame(tmp_path, Media(frames=("0.png", "1.png"), times_s=(7.0, 7.6))))
    assert [time_s for time_s, _ in frames] == pytest.approx([0.0, 0.6])
    assert brightness([image for _, image in frames]) == [5, 10]


def test_frames_and_images_are_rgb(tmp_path):
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 2] = 255
    for name in ("0.png", "1.png", "2.png"):
        cv2.imwrite(str(tmp_path / name), red)
    media = Media(frames=("0.png", "1.png", "2.png"), times_s=(7.0, 7.5, 8.1))
    clip = load_clip(tmp_path, media, Sampling())
    assert clip.times_s == pytest.approx([0.0, 0.5, 1.1])
    assert clip.frames[0][0, 0].tolist() == [255, 0, 0]
    (image,) = load_images(tmp_path, Media(images=("1.png",)))
    assert image[0, 0].tolist() == [255, 0, 0]


def test_what_cannot_be_shown_is_named(video, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(DataError, match="missing.avi is missing"):
        load_clip(tmp_path, Media(video="missing.avi"), Sampling())
    with pytest.raises(DataError, match="text.avi is no video"):
        load_clip(tmp_path, Media(video="text.avi"), Sampling())
    with pytest.raises(DataError, match=r"v.avi ends after 2.90 s, the clip begins at 9"):
        load_clip(video, Media(video="v.avi", start_s=9.0), Sampling())
    with pytest.raises(DataError, match="text.png is no picture"):
        load_images(tmp_path, Media(images=("text.png",)))
    whole = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:-20])
    with pytest.raises(DataError, match="cut.jpg is no picture .* or is cut off; copy it anew"):
        load_images(tmp_path, Media(images=("cut.jpg",)))
    with pytest.raises(DataError, match="gone.png cannot be read: No such file"):
        load_images(tmp_path, Media(images=("gone.png",)))
