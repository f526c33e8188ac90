"""A bag's camera played frame by frame: times, what cannot be read, and which camera."""

import numpy as np
import pytest

from benchmarks.recorded_bags import TOPIC, camera, text, write_bag
from molmo2_ros.bags.bag import is_bag
from molmo2_ros.camera.sources import FrameSource
from molmo2_ros.errors import DataError
from molmo2_ros.training.logs.bag_source import BagSource


def frames_of(source):
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    return frames


def test_frames_come_in_order_with_their_own_times(tmp_path):
    messages = camera(12, size=(64, 48))
    bag = write_bag(tmp_path / "drive", messages)
    source: FrameSource = BagSource(bag)
    frames = frames_of(source)
    assert len(frames) == 12
    assert frames[0].stamp_ns == 0
    steps = np.diff([frame.stamp_ns for frame in frames]) / 1e9
    assert 1 / np.median(steps) == pytest.approx(source.rate_hz)
    assert (frames[0].width, frames[0].height) == (64, 48)
    assert source.read() is None
    assert source.skips.counts == {}
    source.close()
    source.close()


def test_a_broken_picture_is_left_out_and_told(tmp_path):
    messages = list(camera(6, size=(64, 48)))
    topic, log_ns, kind, data = messages[2]
    messages[2] = (topic, log_ns, kind, data[: len(data) // 2])
    source = BagSource(write_bag(tmp_path / "drive", messages), TOPIC)
    assert len(frames_of(source)) == 5
    assert source.skips.counts == {"pictures": 1}
    source.close()


def test_pictures_whose_stamps_run_backwards_are_left_out_and_told(tmp_path):
    messages = list(camera(6, size=(64, 48)))
    log_times = [message[1] for message in messages]
    order = [0, 1, 4, 2, 3, 5]
    mixed = [
        (messages[i][0], log_ns, *messages[i][2:])
        for log_ns, i in zip(log_times, order, strict=True)
    ]
    source = BagSource(write_bag(tmp_path / "drive", mixed))
    stamps = [frame.stamp_ns for frame in frames_of(source)]
    assert stamps == sorted(stamps)
    assert len(stamps) == 4
    assert source.skips.counts == {"stamps": 2}
    source.close()


def test_which_camera_is_said_where_it_is_not_clear(tmp_path):
    left = list(camera(3, size=(64, 48)))
    right = [("/right", log_ns + 1, kind, data) for _, log_ns, kind, data in left]
    several = write_bag(tmp_path / "several", sorted([*left, *right], key=lambda m: m[1]))
    with pytest.raises(
        DataError, match=f"2 topics with pictures, expected one: name it: .*{TOPIC}"
    ):
        BagSource(several)
    source = BagSource(several, "/right")
    assert len(frames_of(source)) == 3
    source.close()
    with pytest.raises(DataError, match="has no topic /left"):
        BagSource(several, "/left")
    notes = write_bag(tmp_path / "notes", [("/notes", 1_000_000_000, *text("nothing"))])
    with pytest.raises(DataError, match="0 topics with pictures, expected one: was a camera"):
        BagSource(notes)


def test_a_bag_is_known_by_its_files(tmp_path):
    bag = write_bag(tmp_path / "drive", camera(2, size=(64, 48)))
    assert is_bag(bag)
    assert is_bag(next(bag.glob("*.mcap")))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "film.mp4").write_bytes(b"")
    assert not any(map(is_bag, (tmp_path / "pictures", tmp_path / "film.mp4", tmp_path / "gone")))
