"""The camera node over real DDS: files, pace, stamps, the end, and what cannot be opened."""

import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.ros import images, qos
from molmo2_ros.ros.camera_node import CameraNode

WIDTH, HEIGHT, NUM_FRAMES, RATE_HZ = 64, 48, 8, 20.0


def grey_level(index):
    return 20 + 25 * index


def write_video(path):
    """A short video whose frames are told apart by their grey level."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), RATE_HZ, (WIDTH, HEIGHT))
    for index in range(NUM_FRAMES):
        writer.write(np.full((HEIGHT, WIDTH, 3), grey_level(index), np.uint8))
    writer.release()
    return path


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "levels.avi")


def index_of(message):
    """Which frame of the video an image is."""
    return round((float(images.rgb_of(message).mean()) - 20) / 25)


def test_a_video_is_played_at_its_rate_with_true_stamps_and_looped(node_under_test, video):
    node_under_test.listen("image", Image, qos.image_qos("reliable"))
    node_under_test.listen("camera_info", CameraInfo)
    camera = node_under_test.start(
        CameraNode, source=str(video), frame_id="left_optical", horizontal_fov_deg=90.0
    )
    started_ns = camera.get_clock().now().nanoseconds

    node_under_test.wait_for("image", lambda _: len(node_under_test.received["image"]) >= 20)

    frames = node_under_test.received["image"]
    assert {(m.width, m.height, m.encoding) for m in frames} == {(WIDTH, HEIGHT, "rgb8")}
    assert {m.header.frame_id for m in frames} == {"left_optical"}
    # Stamps of one pass keep the file's times to the nanosecond, whenever the frames came.
    period_ns = NS_PER_S / RATE_HZ
    for one, other in zip(frames, frames[1:], strict=False):
        steps = index_of(other) - index_of(one)
        if steps > 0:
            apart_ns = images.stamp_ns_of(other) - images.stamp_ns_of(one)
            assert apart_ns == pytest.approx(steps * period_ns, abs=2e6)
    assert images.stamp_ns_of(frames[0]) >= started_ns - 10 * period_ns
    indices = [index_of(message) for message in frames]
    assert any(other < one for one, other in zip(indices, indices[1:], strict=False)), "no loop"
    # In real time: none before its moment, few long after it.
    arrived_ns = node_under_test.arrived_ns["image"]
    ages_ns = [at - images.stamp_ns_of(m) for at, m in zip(arrived_ns, frames, strict=True)]
    assert min(ages_ns) >= 0
    assert sorted(ages_ns)[len(ages_ns) // 2] < 0.5 * NS_PER_S
    # 90 degrees over 64 pixels: a focal length of 32.
    assert node_under_test.received["camera_info"][0].k[0] == pytest.approx(32.0)


def test_live_parameters_act_at_once_and_the_others_say_why_not(node_under_test, video):
    node_under_test.listen("image", Image, qos.image_qos("reliable"))
    node_under_test.listen("image/compressed", CompressedImage)
    node_under_test.start(CameraNode, source=str(video))

    assert node_under_test.set_parameter("camera", "encoding", "bgr8").successful
    assert node_under_test.set_parameter("camera", "publish_compressed", True).successful

    node_under_test.wait_for("image", lambda message: message.encoding == "bgr8")
    compressed = node_under_test.wait_for("image/compressed")
    assert images.rgb_of_compressed(compressed).shape == (HEIGHT, WIDTH, 3)
    refused = node_under_test.set_parameter("camera", "source", "table")
    assert not refused.successful
    assert "start the node again" in refused.reason
    refused = node_under_test.set_parameter("camera", "encoding", "cmyk")
    assert "encoding is 'cmyk', expected `rgb8` or `bgr8`" in refused.reason


def test_a_device_that_vanishes_is_reported_and_the_node_goes_on(node_under_test, video):
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.listen("image", Image, qos.image_qos("reliable"))
    node_under_test.start(CameraNode, source=str(video), diagnostics_period_s=0.1)
    node_under_test.wait_for("image")

    video.rename(video.with_suffix(".away"))

    broken = node_under_test.wait_for(
        "/diagnostics", lambda m: m.status[0].level == DiagnosticStatus.ERROR
    )
    assert "levels.avi does not exist; check the path" in broken.status[0].message
    video.with_suffix(".away").rename(video)
    num_before = len(node_under_test.received["image"])
    node_under_test.wait_for("image", after=num_before + NUM_FRAMES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "later.avi does not exist; check the path"),
        (
            b"RIFF of nothing",
            "(15 bytes) cannot be opened as a video or holds no frame; check",
        ),
    ],
    ids=["missing", "broken"],
)
def test_a_source_that_cannot_be_opened_is_reported_and_plays_once_it_can(
    node_under_test, tmp_path, content, words
):
    path = tmp_path / "later.avi"
    if content is not None:
        path.write_bytes(content)
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.listen("image", Image, qos.image_qos("reliable"))
    node_under_test.start(CameraNode, source=str(path), diagnostics_period_s=0.1)

    told = node_under_test.wait_for("/diagnostics", lambda m: words in m.status[0].message)
    assert told.status[0].level == DiagnosticStatus.ERROR
    assert told.status[0].hardware_id == str(path)
    assert not node_under_test.received["image"]
    write_video(tmp_path / "whole.avi").rename(path)

    first = node_under_test.wait_for("image")
    assert index_of(first) <= 1, "it begins at its start"
    assert (first.width, first.height) == (WIDTH, HEIGHT)


def test_a_camera_that_is_not_there_is_waited_for_without_a_flood_of_log_lines(node_under_test):
    node_under_test.listen("/diagnostics", DiagnosticArray)
    started_s = time.monotonic()
    node_under_test.start_process("molmo2_ros.ros.camera_node", source="/dev/video97")

    def attempts(message):
        values = {entry.key: entry.value for entry in message.status[0].values}
        return int(values.get("problems_ImageError", 0))

    last = node_under_test.wait_for("/diagnostics", lambda m: attempts(m) >= 3)
    words = "/dev/video97 does not exist; list the cameras with `ls /dev/video*`"
    assert words in last.status[0].message
    assert attempts(last) <= 1 + (time.monotonic() - started_s), "more than one in a second"
    node_under_test.interrupt()
    code, output = node_under_test.wait_for_exit()

    assert code == 0, output
    assert 1 <= output.count(words) < attempts(last)
    assert "Traceback" not in output


def test_a_picture_that_is_broken_is_reported_and_the_folder_begins_again(
    node_under_test, tmp_path
):
    cv2.imwrite(str(tmp_path / "1.png"), np.full((HEIGHT, WIDTH, 3), grey_level(1), np.uint8))
    (tmp_path / "2.png").write_bytes(b"nothing")
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.listen("image", Image, qos.image_qos("reliable"))
    node_under_test.start(CameraNode, source=str(tmp_path), rate_hz=20.0, diagnostics_period_s=0.1)

    words = "2.png (7 bytes) is not a picture that OpenCV reads, or was cut; fetch it again"
    node_under_test.wait_for("/diagnostics", lambda m: words in m.status[0].message)
    node_under_test.wait_for("image", after=1)
    assert {index_of(message) for message in node_under_test.received["image"]} == {1}
    cv2.imwrite(str(tmp_path / "2.png"), np.full((HEIGHT, WIDTH, 3), grey_level(2), np.uint8))
    node_under_test.wait_for("image", lambda message: index_of(message) == 2)


def test_a_folder_of_pictures_is_played_in_order_at_the_rate_asked_for(node_under_test, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH, 3), np.uint8)
    for name, picture in zip(("1", "2", "10"), pictures, strict=True):
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture[..., ::-1])
    node_under_test.listen("image", Image, qos.image_qos("reliable"))
    node_under_test.start(CameraNode, source=str(tmp_path), rate_hz=10.0)

    node_under_test.wait_for("image", lambda _: len(node_under_test.received["image"]) >= 8)

    def number_of(message):
        shown = images.rgb_of(message)
        return next(i for i, picture in enumerate(pictures) if np.array_equal(shown, picture))

    frames = node_under_test.received["image"]
    numbers = [number_of(message) for message in frames]
    assert set(numbers) == {0, 1, 2}
    for (one, before), (other, after) in pairwise(zip(frames, numbers, strict=True)):
        apart_ns = images.stamp_ns_of(other) - images.stamp_ns_of(one)
        if after > before:  # of one pass
            assert apart_ns == pytest.approx((after - before) * 1e8, abs=2)
        assert apart_ns > 0


def test_a_renderer_that_cannot_be_had_ends_the_process_with_the_reason(
    node_under_test, monkeypatch
):
    monkeypatch.setenv("GLCONTEXT_DEVICE_INDEX", "99")
    node_under_test.start_process(
        "molmo2_ros.ros.camera_node", source="table", table_renderer="egl"
    )

    code, output = node_under_test.wait_for_exit()

    assert code == 2
    assert "ConfigError: EGL gives no context of OpenGL 3.3" in output
    assert output.strip().endswith("or let rays draw the table")


def test_a_file_that_is_not_looped_ends_the_process_cleanly(node_under_test, video):
    node_under_test.listen("image", Image, qos.image_qos("reliable"))
    # At 2 Hz the film is long enough to be found before it ends.
    node_under_test.start_process(
        "molmo2_ros.ros.camera_node", source=video, loop="false", rate_hz=2.0
    )

    code, output = node_under_test.wait_for_exit()

    assert code == 0, output
    assert "shared memory on" in output
    assert node_under_test.received["image"]


@pytest.mark.parametrize("apart_s", [0.002, 0.05])
def test_two_sigints_end_the_process_cleanly(node_under_test, video, apart_s):
    node_under_test.listen("image", Image, qos.image_qos("reliable"))
    node_under_test.start_process("molmo2_ros.ros.camera_node", source=video)
    node_under_test.wait_for("image")

    node_under_test.interrupt(times=2, apart_s=apart_s)
    code, output = node_under_test.wait_for_exit()

    assert code == 0, output
    assert "Traceback" not in output


def test_the_process_has_a_shared_memory_segment_for_large_images(node_under_test, video):
    def segments():
        # Fast DDS 2 names them fastrtps_, Fast DDS 3 fastdds_; 0.5 MiB by default.
        return {
            path for path in Path("/dev/shm").glob("fast*_*") if path.stat().st_size >= 32 * 2**20
        }

    before = segments()
    node_under_test.listen("image", Image, qos.image_qos("reliable"))
    node_under_test.start_process("molmo2_ros.ros.camera_node", source=video)
    node_under_test.wait_for("image")

    assert segments() - before
