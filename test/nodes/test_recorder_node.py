"""The recorder over real DDS: from a camera and an operator to a data set, full disks and kills."""

import json
import re
import signal
import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PointStamped
from sensor_msgs.msg import Image
from std_msgs.msg import String

from benchmarks.recorded_bags import scene
from molmo2_ros.bags.bag import Bag
from molmo2_ros.bags.skips import Skips
from molmo2_ros.errors import ConfigError
from molmo2_ros.ros import images, qos
from molmo2_ros.ros.recorder_node import RecorderNode
from molmo2_ros.training.logs.label_log import read_clips
from molmo2_ros.training.logs.sample_bag import sample_bag
from molmo2_ros.training.logs.sampling import ClipSettings
from molmo2_ros.training.logs.spoken import LogTopics
from molmo2_ros.training.logs.topics import Decoder

RECORDED = "/image/compressed"
FAST = {
    "image_reliability": "reliable",
    "rate_hz": 60.0,
    "flush_period_s": 0.05,
    "diagnostics_period_s": 0.1,
    "min_free_mb": 0.0,
}


class Film:
    """A camera that sees a square moving, and stamps pictures 0.1 s apart."""

    def __init__(self, robot):
        self._publisher = robot.create_publisher(Image, "image", qos.image_qos("reliable"))
        self.start_ns = robot.get_clock().now().nanoseconds
        self.num_sent = 0

    def stamp_ns(self, number):
        return self.start_ns + number * 100_000_000

    def send(self, node, num=1, apart_s=0.0, encoding="rgb8"):
        """Publish the next pictures, each once the last one arrived."""
        node.until(lambda: self._publisher.get_subscription_count() > 0, "a subscriber of image")
        for _ in range(num):
            stamp_ns = self.stamp_ns(self.num_sent)
            message = images.image_message(scene(self.num_sent), stamp_ns, "camera", encoding)
            self._publisher.publish(message)
            self.num_sent += 1
            time.sleep(apart_s)


@pytest.fixture
def film(node_under_test):
    return Film(node_under_test._robot)


def bags(folder):
    return sorted(path for path in folder.iterdir() if path.is_dir())


def recorded(folder):
    """All messages of all bags, by topic: (log_ns, data)."""
    found = {}
    for path in bags(folder):
        with Bag(path, Skips()) as bag:
            for message in bag.messages(bag.topics):
                found.setdefault(message.topic, []).append(message)
    return found


def values_of_line(line):
    return {entry.key: entry.value for entry in line.values}


def until_told(node, **wanted):
    """Wait until /diagnostics says so; returns the status line."""
    node.listen("/diagnostics", DiagnosticArray, qos.result_qos())

    def fits(message):
        values = values_of_line(message.status[0])
        return all(float(values.get(name) or 0) >= number for name, number in wanted.items())

    return node.wait_for("/diagnostics", fits).status[0]


def correction(x, y, z=0.0, stamp_ns=0, frame_id=""):
    message = PointStamped(header=images.header(stamp_ns, frame_id))
    message.point.x, message.point.y, message.point.z = float(x), float(y), float(z)
    return message


def test_what_is_recorded_becomes_clips_with_what_the_operator_said(
    node_under_test, film, tmp_path
):
    node_under_test.start(RecorderNode, folder=str(tmp_path / "logs"), **FAST)
    node_under_test.listen("recorder/corrections", String, qos.result_qos())
    for _ in range(20):
        film.send(node_under_test)
        until_told(node_under_test, pictures=film.num_sent)
    assert node_under_test.set_parameter("recorder", "correction_query", "red mug").successful
    node_under_test.send(
        "recorder/correction", correction(40, 60, stamp_ns=film.stamp_ns(6), frame_id="camera")
    )
    said = {"query": "dog", "visible": False}
    node_under_test.send("recorder/correction_json", String(data=json.dumps(said)))
    node_under_test.send("grounding/query", String(data="point: the red mug"))
    until_told(node_under_test, corrections=2, texts=1)
    echoed = node_under_test.received["recorder/corrections"]
    node_under_test.until(lambda: len(echoed) == 2, "both corrections")
    node_under_test.node.close()

    told = recorded(tmp_path / "logs")
    assert {topic: len(messages) for topic, messages in told.items()} == {
        RECORDED: 20, "/recorder/corrections": 2, "/grounding/query": 1,
    }  # fmt: skip
    assert Decoder().text(told["/grounding/query"][0]) == "point: the red mug"
    settings = ClipSettings(fps=5.0, clip_s=10.0, held_out=0.0)
    bag = bags(tmp_path / "logs")[0]
    report = sample_bag(bag, LogTopics(image=RECORDED), tmp_path / "out", settings)
    (clip,) = read_clips(tmp_path / "out" / "logs" / report.key)
    assert clip.stamps_ns[:3] == tuple(film.stamp_ns(n) for n in (0, 2, 4))
    newest = len(clip.stamps_ns) - 1
    assert clip.stamps_ns[newest] == film.stamp_ns(19)
    assert clip.corrections == ((3, "red mug", 0.25, 0.5), (newest, "dog", None, None))
    assert report.skips["counts"] == {}
    pixels = Decoder().frame(told[RECORDED][7]).image
    assert np.abs(pixels.astype(int) - scene(7)).mean() < 4


def test_pictures_are_sampled_and_one_that_is_corrected_is_recorded_afterwards(
    node_under_test, film, tmp_path
):
    wanted = {**FAST, "rate_hz": 0.01, "history_s": 60.0}
    node_under_test.start(RecorderNode, folder=str(tmp_path), correction_query="mug", **wanted)
    film.send(node_under_test)
    until_told(node_under_test, pictures=1)
    film.send(node_under_test, num=6, apart_s=0.05)
    node = node_under_test.node
    node_under_test.until(
        lambda: node._cameras[0].newest_ns == film.stamp_ns(6), "the last picture"
    )

    held = [stamp_ns for stamp_ns, _ in node._cameras[0].recent]
    meant_ns = held[len(held) // 2]
    for _ in range(2):  # the second time it is recorded already
        node_under_test.send("recorder/correction", correction(1, 2, stamp_ns=meant_ns))
    until_told(node_under_test, pictures=2, corrections=2)
    node.close()

    told = recorded(tmp_path)
    stamps_ns = [Decoder().stamp_ns(message) for message in told[RECORDED]]
    assert stamps_ns == [film.stamp_ns(0), meant_ns]
    log_ns = [message.log_ns for message in told[RECORDED]]
    assert log_ns == sorted(log_ns)


def test_compressed_pictures_are_recorded_byte_for_byte(node_under_test, tmp_path):
    node_under_test.start(RecorderNode, folder=str(tmp_path), image_transport="compressed", **FAST)
    sent = images.jpeg_message(scene(3), 5_000_000_000, "camera", 80)
    node_under_test.send("image/compressed", sent, qos.image_qos("reliable"))
    until_told(node_under_test, pictures=1)
    node_under_test.node.close()

    message = recorded(tmp_path)[RECORDED][0]
    assert Decoder().frame(message).stored == bytes(sent.data)
    assert message.kind == "sensor_msgs/msg/CompressedImage"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (correction(1, 2, 0.5), "z = 0.5, expected 0"),
        (correction(1, 2), "came without words"),
        (correction(1, 2, frame_id="rear"), "speaks of frame_id 'rear', expected .* 'camera'"),
    ],
)
def test_a_correction_that_cannot_be_taken_is_told_and_the_node_goes_on(
    node_under_test, film, tmp_path, message, words
):
    node_under_test.start(RecorderNode, folder=str(tmp_path), **FAST)
    film.send(node_under_test)
    until_told(node_under_test, pictures=1)
    if message.header.frame_id:
        node_under_test.set_parameter("recorder", "correction_query", "mug")
    node_under_test.listen("/diagnostics", DiagnosticArray, qos.result_qos())
    node_under_test.send("recorder/correction", message)

    told = node_under_test.wait_for(
        "/diagnostics", lambda m: m.status[0].level == DiagnosticStatus.WARN
    ).status[0]
    assert values_of_line(told)["corrections"] == "0"
    assert re.search(words, told.message)
    film.send(node_under_test)
    until_told(node_under_test, pictures=2)


def test_a_picture_that_cannot_be_read_is_told_and_the_next_one_is_recorded(
    node_under_test, film, tmp_path
):
    node_under_test.start(RecorderNode, folder=str(tmp_path), **FAST)
    broken = images.image_message(scene(0), 1_000_000_000, "camera")
    broken.encoding = "yuv444"
    node_under_test.send("image", broken, qos.image_qos("reliable"))
    line = until_told(node_under_test, problems_ImageError=1)
    assert "unknown image encoding 'yuv444'" in line.message

    def recorded():
        film.send(node_under_test)  # the recorder may not know of this camera yet
        return node_under_test.node._store.num_written > 0

    node_under_test.until(recorded, "recording after the picture that cannot be read")
    until_told(node_under_test, pictures=1)


def test_it_is_told_while_nobody_publishes_answers(node_under_test, film, tmp_path):
    node_under_test.start(RecorderNode, folder=str(tmp_path), **FAST)
    node_under_test.listen("/diagnostics", DiagnosticArray, qos.result_qos())
    film.send(node_under_test)

    def warning(message):
        return "nobody publishes grounding/answer" in message.status[0].message

    told = node_under_test.wait_for("/diagnostics", warning).status[0]
    assert told.level == DiagnosticStatus.WARN
    node_under_test.send("grounding/answer", String(data="{}"))
    num = len(node_under_test.received["/diagnostics"])
    node_under_test.wait_for("/diagnostics", lambda m: not warning(m), after=num)


def test_a_full_disk_is_an_error_on_diagnostics_and_passes(node_under_test, film, tmp_path):
    wanted = {**FAST, "max_disk_mb": 1.0, "split_mb": 0.5, "when_full": "stop"}
    wanted["text_topics"] = [""]
    full = tmp_path / "log_20000101_000000_000"
    full.mkdir()
    (full / "log.mcap").write_bytes(b"x" * 999_000)
    node_under_test.start(RecorderNode, folder=str(tmp_path), **wanted)
    node_under_test.listen("/diagnostics", DiagnosticArray, qos.result_qos())
    film.send(node_under_test)
    error = node_under_test.wait_for(
        "/diagnostics", lambda m: m.status[0].level == DiagnosticStatus.ERROR
    ).status[0]
    assert "take all of max_disk_mb 1" in error.message

    (full / "log.mcap").unlink()
    full.rmdir()

    def recorded_again():
        film.send(node_under_test)
        return node_under_test.node._store.num_written > 0

    node_under_test.until(recorded_again, "recording after room was made")
    num = len(node_under_test.received["/diagnostics"])
    node_under_test.wait_for(
        "/diagnostics", lambda m: m.status[0].level == DiagnosticStatus.OK, after=num
    )


def test_after_a_kill_the_bag_is_read_up_to_the_last_flush(node_under_test, film, tmp_path):
    process = node_under_test.start_process(
        "molmo2_ros.ros.recorder_node", folder=tmp_path, rate_hz=60.0, flush_period_s=0.05,
        min_free_mb=0.0, image_reliability="reliable",
    )  # fmt: skip
    film.send(node_under_test, num=30, apart_s=0.03)

    def num_bytes():
        return sum(path.stat().st_size for path in tmp_path.rglob("*.mcap"))

    node_under_test.until(lambda: num_bytes() > 20_000, "pictures on disk")
    process.send_signal(signal.SIGKILL)
    process.wait()

    skips = Skips()
    with Bag(bags(tmp_path)[0], skips) as bag:
        stamps_ns = [Decoder().stamp_ns(message) for message in bag.messages([RECORDED])]
    assert len(stamps_ns) >= 3
    assert stamps_ns == sorted(stamps_ns)
    assert skips.counts["end of a file"] == 1


def test_two_interrupts_end_the_node_cleanly_with_a_whole_bag(node_under_test, film, tmp_path):
    node_under_test.start_process(
        "molmo2_ros.ros.recorder_node",
        folder=tmp_path,
        rate_hz=60.0,
        min_free_mb=0.0,
        image_reliability="reliable",
    )
    film.send(node_under_test, num=5, apart_s=0.05)
    node_under_test.until(lambda: any(tmp_path.rglob("*.mcap")), "a bag")
    node_under_test.interrupt(times=2, apart_s=0.002)
    code, output = node_under_test.wait_for_exit()

    assert code == 0, output
    assert (bags(tmp_path)[0] / "metadata.yaml").exists()
    skips = Skips()
    with Bag(bags(tmp_path)[0], skips) as bag:
        assert len(list(bag.messages([RECORDED]))) >= 1
    assert skips.counts == {}


def test_space_that_no_bag_could_leave_is_refused_at_start(node_under_test, tmp_path):
    with pytest.raises(ConfigError, match="split_mb is 500 of max_disk_mb 600"):
        node_under_test.start(RecorderNode, folder=str(tmp_path), max_disk_mb=600.0)


def test_topics_are_those_of_the_document(node_under_test, tmp_path):
    node = node_under_test.start(RecorderNode, folder=str(tmp_path), **FAST)

    taken = {topic for topic, _ in node.get_subscriber_names_and_types_by_node("recorder", "/")}
    assert {
        "/image", "/grounding/answer", "/grounding/queries", "/grounding/query", "/grounding/ask",
        "/recorder/correction", "/recorder/correction_json",
    } <= taken  # fmt: skip
