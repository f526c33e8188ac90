"""`molmo2 bag`: what a node says of a camera, in a copy of the bag."""

import json

import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import String

from benchmarks.recorded_bags import START_NS, camera, jpeg, text, write_bag
from molmo2_ros.bags.bag import Bag
from molmo2_ros.bags.skips import Skips
from molmo2_ros.cli.main import main
from molmo2_ros.ros import images
from molmo2_ros.ros.clouds import rows_of
from molmo2_ros.simulation.source import TableSource

NS = 10**9
IMAGE, INFO = "/front/color/image_raw", "/front/color/camera_info"
DEPTH = "/front/aligned_depth_to_color/image_raw"
FRAME_ID = "front_optical"
LATE_NS = 3_000_000  # of the recorder behind the camera
NUM = 12


@pytest.fixture(scope="module")
def table():
    """Frames of the simulated table with what is true of each."""
    source = TableSource(seed=0, width=320, height=240, rate_hz=5.0)
    return [source.read_table() for _ in range(NUM)]


def recorded(table):
    """What a recorder writes of a camera with depth, and of something else."""
    for index, seen in enumerate(table):
        stamp_ns = START_NS + index * NS // 5
        at_ns = stamp_ns + LATE_NS
        frame = seen.frame
        size = (frame.width, frame.height)
        depth = images.depth_message(frame.depth_m, stamp_ns, FRAME_ID)
        info = images.camera_info_message(frame.camera, *size, stamp_ns, FRAME_ID)
        image = images.image_message(frame.image, stamp_ns, FRAME_ID)
        yield INFO, at_ns - 2, "sensor_msgs/msg/CameraInfo", serialize_message(info)
        yield DEPTH, at_ns - 1, "sensor_msgs/msg/Image", serialize_message(depth)
        yield IMAGE, at_ns, "sensor_msgs/msg/Image", serialize_message(image)
        yield "/words", at_ns + 1, *text(f"step {index}")


@pytest.fixture(scope="module")
def bag(tmp_path_factory, table):
    return write_bag(tmp_path_factory.mktemp("bags") / "table", recorded(table))


def replay(bag, out, *options):
    return main(["bag", str(bag), str(out), "--query", "point: the red mug", *options])


def messages_of(path):
    with Bag(path, Skips()) as bag:
        return list(bag.messages(list(bag.topics)))


def clouds_of(path, topic="/grounding/points"):
    return [
        (message.log_ns, deserialize_message(message.data, PointCloud2))
        for message in messages_of(path)
        if message.topic == topic
    ]


def whole_answers(path):
    told = [
        json.loads(deserialize_message(message.data, String).data)
        for message in messages_of(path)
        if message.topic == "/grounding/answer"
    ]
    return [answer for answer in told if not answer["partial"]]


@pytest.fixture(scope="module")
def out(bag, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "answered.mcap"
    assert replay(bag, path, "--depth", DEPTH, "--topic", IMAGE) == 0
    return path


def test_each_frame_has_its_points_on_the_red_mug_with_its_stamp(out, table):
    clouds = clouds_of(out)
    assert [images.stamp_ns_of(cloud) for _, cloud in clouds] == [
        START_NS + index * NS // 5 for index in range(NUM)
    ]
    assert all(log_ns == images.stamp_ns_of(cloud) + LATE_NS for log_ns, cloud in clouds)
    assert {cloud.header.frame_id for _, cloud in clouds} == {FRAME_ID}

    # The first frame is shown before it is asked about.
    for seen, (_, cloud) in list(zip(table, clouds, strict=True))[1:]:
        truth = next(t for t in seen.truth if t.name == "red mug")
        rows = rows_of(cloud)
        assert len(rows) == 1
        assert abs(rows[0]["u"] - truth.point_px[0]) < 15
        assert abs(rows[0]["v"] - truth.point_px[1]) < 15
        assert rows[0]["z"] == pytest.approx(truth.point_m[2], abs=0.1)


def test_answers_come_at_the_wished_rate_of_the_bags_time(bag, out, tmp_path):
    def stamps(path):
        return [a["stamp"]["sec"] * NS + a["stamp"]["nanosec"] for a in whole_answers(path)]

    # Frames at 0, 0.2, ...; twice a second falls due at 0, 0.5, 1.0, 1.5 and 2.0.
    at_s = [(stamp - START_NS) / NS for stamp in stamps(out)]
    assert at_s == pytest.approx([0.0, 0.6, 1.0, 1.6, 2.0])

    every = tmp_path / "every"
    assert replay(bag, every, "--topic", IMAGE, "--rate", "0") == 0
    assert len(stamps(every)) == NUM


def test_all_of_the_bag_is_copied_as_it_was(bag, out):
    before, after = messages_of(bag), messages_of(out)
    added = [message for message in after if message.topic.startswith("/grounding/")]

    assert [m for m in after if not m.topic.startswith("/grounding/")] == before
    topics = {message.topic for message in added}
    assert {
        f"/grounding/{t}" for t in ("points", "tracks", "answer", "queries", "target")
    } <= topics
    assert "/grounding/overlay/compressed" not in topics


def test_two_runs_write_the_same(bag, out, tmp_path):
    again = tmp_path / "again.mcap"
    assert replay(bag, again, "--depth", DEPTH, "--topic", IMAGE) == 0

    assert messages_of(again) == messages_of(out)


def test_a_compressed_camera_and_the_overlay(table, tmp_path, capsys):
    def messages():
        for index, seen in enumerate(table[:3]):
            stamp_ns = START_NS + index * NS // 5
            yield "/cam/image/compressed", stamp_ns, *jpeg(seen.frame.image, stamp_ns)

    bag = write_bag(tmp_path / "in", messages())
    assert replay(bag, tmp_path / "out", "--overlay", "--name", "robot/eye", "--json") == 0

    told = json.loads(capsys.readouterr().out)
    assert told["frames"] == 3
    assert told["problems"] == {}
    topics = [message.topic for message in messages_of(tmp_path / "out")]
    assert topics.count("/robot/eye/overlay/compressed") == 3
    assert clouds_of(tmp_path / "out", "/robot/eye/points")[-1][1].width == 1


def test_damaged_pictures_are_told_and_copied_and_the_rest_is_answered(table, tmp_path, capsys):
    def messages():
        for index, seen in enumerate(table[:4]):
            stamp_ns = START_NS + index * NS // 5
            image = images.image_message(seen.frame.image, stamp_ns, FRAME_ID)
            data = serialize_message(image)
            if index == 1:
                data = data[:40]
            elif index == 2:
                image.step = 7
                data = serialize_message(image)
            yield IMAGE, stamp_ns, "sensor_msgs/msg/Image", data

    bag = write_bag(tmp_path / "in", messages())
    assert replay(bag, tmp_path / "out.mcap", "--json") == 0

    told = json.loads(capsys.readouterr().out)
    assert told["frames"] == 2
    assert sum(told["problems"].values()) == 2
    copied = [m for m in messages_of(tmp_path / "out.mcap") if m.topic == IMAGE]
    assert copied == messages_of(bag)


def test_time_that_runs_back_in_a_bag_is_lived_through(table, tmp_path, capsys):
    def messages():
        for index, seen in enumerate(table[:8]):
            shift_ns = 0 if index < 4 else -3600 * NS
            stamp_ns = START_NS + index * NS // 5 + shift_ns
            image = images.image_message(seen.frame.image, stamp_ns, FRAME_ID)
            log_ns = START_NS + index * NS // 5
            yield IMAGE, log_ns, "sensor_msgs/msg/Image", serialize_message(image)

    bag = write_bag(tmp_path / "in", messages())
    assert replay(bag, tmp_path / "out.mcap", "--rate", "0") == 0

    clouds = [cloud for _, cloud in clouds_of(tmp_path / "out.mcap")]
    assert [len(rows_of(cloud)) for cloud in clouds] == [0, 1, 1, 1, 0, 1, 1, 1]
    assert max(rows_of(c)["age"].max() for c in clouds if len(rows_of(c))) < 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--topic", "/nowhere"], "no topic /nowhere"),
        (["--topic", "/words"], "carries std_msgs/msg/String"),
        (["--topic", IMAGE, "--depth", "/words"], "carries std_msgs/msg/String"),
        (["--topic", IMAGE, "--query", "point: the submarine"], "submarine"),
        (["--topic", IMAGE, "--query", "nonsense"], "nonsense"),
        (["--topic", IMAGE, "--name", "/"], "--name"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(bag, tmp_path, capsys, options, words):
    assert replay(bag, tmp_path / "out", *options) == 2

    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_neither_overwritten_nor_mixed(bag, out, tmp_path, capsys):
    assert replay(bag, out, "--topic", IMAGE) == 2
    assert "nothing is overwritten" in capsys.readouterr().err

    assert replay(out, tmp_path / "twice.mcap", "--topic", IMAGE) == 2
    assert "another --name" in capsys.readouterr().err
    assert replay(out, tmp_path / "twice.mcap", "--topic", IMAGE, "--name", "second") == 0


def test_several_cameras_must_be_named(tmp_path, capsys):
    bag = write_bag(
        tmp_path / "in", [*camera(2, topic="/left/image"), *camera(2, topic="/right/image")]
    )
    assert replay(bag, tmp_path / "out") == 2
    assert "/left/image, /right/image" in capsys.readouterr().err
