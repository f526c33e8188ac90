"""Videos, pictures and folders in; whatever is none of them refused."""

import struct

import cv2
import numpy as np
import pytest

from molmo2_ros.camera.sources import (
    PICTURE_RATE_HZ,
    DeviceSource,
    PictureSource,
    VideoSource,
    open_source,
    presentation_ns,
    read_picture,
)
from molmo2_ros.errors import ImageError


def read_all(source):
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames


def write_picture(path, red, size=(8, 12)):
    path.write_bytes(cv2.imencode(path.suffix, np.full((*size, 3), (0, 0, red), np.uint8))[1])
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Ten frames at 12.5 fps, red growing by 20."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, (64, 48))
    for index in range(10):
        writer.write(np.full((48, 64, 3), (0, 0, 20 * index), np.uint8))
    writer.release()
    return path


def test_video_gives_every_frame_in_rgb_with_the_times_of_the_file(video):
    source = open_source(str(video))

    assert isinstance(source, VideoSource)
    assert source.rate_hz == pytest.approx(12.5)
    assert source.num_frames == 10
    frames = read_all(source)
    assert [frame.stamp_ns for frame in frames] == [80_000_000 * index for index in range(10)]
    assert [int(frame.image[20, 20, 0]) for frame in frames] == pytest.approx(
        [20 * index for index in range(10)], abs=6
    )
    assert frames[9].image[..., 1:].max() < 12


def test_closed_video_gives_no_more_frames(video):
    source = open_source(str(video))
    source.read()
    source.close()
    source.close()

    assert source.read() is None


def test_cut_video_gives_the_frames_before_the_cut(tmp_path):
    whole, cut = tmp_path / "whole.avi", tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, (64, 48))
    for seed in range(10):
        writer.write(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])

    frames = read_all(open_source(str(cut)))

    assert 1 <= len(frames) < 10
    stamps = [frame.stamp_ns for frame in frames]
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize(
    ("reported_ms", "expected_ns"),
    [
        ([0, 40, 80], [0, 40_000_000, 80_000_000]),
        ([0, 0, 0], [0, 100_000_000, 200_000_000]),  # no times in the file: its rate of 10 Hz
        ([5, 30, 30, 900], [5_000_000, 30_000_000, 130_000_000, 900_000_000]),
        ([0, 70, 20], [0, 70_000_000, 170_000_000]),  # runs backwards
        ([-1, -1], [99_999_999, 199_999_999]),
        ([float("nan"), float("inf")], [99_999_999, 199_999_999]),
    ],
)
def test_stamps_of_a_file_always_increase(reported_ms, expected_ns):
    stamps = [-1]
    for reported in reported_ms:
        stamps.append(presentation_ns(reported, stamps[-1], 10.0))

    assert stamps[1:] == expected_ns


@pytest.mark.parametrize("content", [b"", b"this is no video", b"\x00" * 5000])
def test_file_that_is_no_video_is_refused(tmp_path, content):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)

    with pytest.raises(ImageError, match=rf"broken.mp4 \({len(content)} bytes\) cannot be opened"):
        open_source(str(path))


def test_folder_gives_its_pictures_in_natural_order(tmp_path):
    for name, red in (("a10.png", 30), ("a2.png", 20), ("a1.PNG", 10)):
        write_picture(tmp_path / name, red)
    (tmp_path / "notes.txt").write_text("not a picture")

    source = open_source(str(tmp_path))
    frames = read_all(source)

    assert isinstance(source, PictureSource)
    assert len(source) == 3
    assert [frame.image[0, 0].tolist() for frame in frames] == [[10, 0, 0], [20, 0, 0], [30, 0, 0]]
    assert [frame.stamp_ns for frame in frames] == [0, 500_000_000, 1_000_000_000]
    assert source.rate_hz == PICTURE_RATE_HZ


def test_pictures_are_played_at_the_rate_asked_for(tmp_path):
    names = [str(write_picture(tmp_path / f"{index}.png", index)) for index in range(3)]

    frames = read_all(open_source(names, rate_hz=3.0))

    assert [frame.stamp_ns for frame in frames] == [0, 333_333_333, 666_666_667]


def test_one_picture_is_a_source_of_one_frame(tmp_path):
    path = write_picture(tmp_path / "t\u00e4sse 1.jpg", 200)

    frames = read_all(open_source(str(path)))

    assert len(frames) == 1
    assert frames[0].image[4, 4] == pytest.approx([200, 0, 0], abs=4)


def test_picture_is_turned_upright_by_its_exif(tmp_path):
    jpeg = cv2.imencode(".jpg", np.zeros((20, 40, 3), np.uint8))[1].tobytes()
    # A TIFF directory of one entry: Orientation (0x0112), SHORT, 1 value, 6 = turn by 90 degrees.
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 0)
    segment = b"Exif\0\0" + tiff
    path = tmp_path / "phone.jpg"
    path.write_bytes(
        jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]
    )

    assert read_picture(path).shape == (40, 20, 3)


def test_grey_picture_with_16_bits_becomes_rgb_bytes(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(cv2.imencode(".png", np.full((4, 4), 40_000, np.uint16))[1])

    assert read_picture(path)[0, 0].tolist() == [156, 156, 156]


def test_picture_that_breaks_names_its_file(tmp_path):
    write_picture(tmp_path / "1.png", 10)
    (tmp_path / "2.png").write_bytes(b"nothing")
    source = open_source(str(tmp_path))
    source.read()

    with pytest.raises(ImageError, match=r"2\.png \(7 bytes\) is not a picture"):
        source.read()
    with pytest.raises(ImageError, match=r"3\.png cannot be read: No such file"):
        read_picture(tmp_path / "3.png")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ([], "no file was named"),
        ("", "no file was named"),
        ("nowhere.mp4", "nowhere.mp4 does not exist; check the path"),
        ("/dev/video97", "/dev/video97 does not exist; list the cameras"),
    ],
)
def test_source_that_does_not_exist_is_refused(spec, words):
    with pytest.raises(ImageError, match=words):
        open_source(spec)


def test_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ImageError, match="holds no picture; expected files that end in"):
        open_source(str(tmp_path))


def test_several_videos_are_refused(video):
    with pytest.raises(ImageError, match="clip.avi is not a picture; several files must all be"):
        open_source([str(video), str(video)])


@pytest.mark.parametrize("rate_hz", [0, -1, float("nan"), 5000])
def test_impossible_rate_is_refused(tmp_path, rate_hz):
    write_picture(tmp_path / "1.png", 0)

    with pytest.raises(ImageError, match="expected above 0 and at most 1000"):
        open_source(str(tmp_path), rate_hz=rate_hz)


def test_device_that_is_no_camera_is_refused(tmp_path):
    # A character device that knows none of V4L2's calls, and a file in a device's place.
    (tmp_path / "video0").symlink_to("/dev/null")
    (tmp_path / "video1").write_bytes(b"")

    for name in ("video0", "video1"):
        with pytest.raises(ImageError, match=f"{name} cannot be opened; check that no other"):
            DeviceSource(str(tmp_path / name))
