"""The simulated table over DDS: image, depth, optics and truth that agree with each other."""

import json
import time

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from molmo2_ros.camera.stamp import stamp_from_json
from molmo2_ros.errors import ConfigError
from molmo2_ros.ros import images, qos
from molmo2_ros.ros.camera_node import CameraNode

TOPICS = {
    "image": Image,
    "depth": Image,
    "camera_info": CameraInfo,
    "depth/camera_info": CameraInfo,
    "truth": String,
}


def stamp_ns_of(message):
    if not isinstance(message, String):
        return images.stamp_ns_of(message)
    stamp = json.loads(message.data)["stamp"]
    return stamp_from_json(stamp)


def moments(node_under_test):
    """Of each stamp under which everything came: all of it, in the order of TOPICS."""
    by_topic = [{stamp_ns_of(m): m for m in node_under_test.received[topic]} for topic in TOPICS]
    stamps = set.intersection(*map(set, by_topic))
    return {stamp: [messages[stamp] for messages in by_topic] for stamp in sorted(stamps)}


@pytest.fixture
def table(node_under_test):
    """Everything of the table at four moments, and when it was asked for."""
    for topic, kind in TOPICS.items():
        node_under_test.listen(topic, kind, qos.image_qos("reliable"))
    before_ns = time.time_ns()
    node_under_test.start(CameraNode, source="table", frame_id="table_optical", rate_hz=5.0)
    node_under_test.until(lambda: len(moments(node_under_test)) >= 4, "four moments of the table")
    return moments(node_under_test), before_ns


def lifted_m(pixel, depth_mm, k):
    """Where the surface at a pixel is, by depth and optics alone."""
    (u, v), (fx, _, cx, _, fy, cy) = pixel, k[:6]
    z_m = depth_mm[v, u] / 1000
    return (u - cx) / fx * z_m, (v - cy) / fy * z_m, z_m


def test_depth_optics_and_truth_of_the_table_agree(table):
    at, before_ns = table
    assert before_ns <= min(at)
    assert max(at) <= time.time_ns()
    things = set()
    for image, depth, info, depth_info, truth in at.values():
        told = json.loads(truth.data)
        frame_ids = {m.header.frame_id for m in (image, depth, info, depth_info)}
        assert frame_ids == {told["frame_id"]} == {"table_optical"}
        assert (depth.encoding, depth.is_bigendian, depth.step) == ("16UC1", 0, 640)
        assert (depth.width, depth.height) == (image.width, image.height) == (320, 240)
        assert (info.width, info.height) == (320, 240)
        assert info.k.tolist() == depth_info.k.tolist()
        depth_mm = np.frombuffer(depth.data, "<u2").reshape(240, 320)
        for thing in told["objects"]:
            things.add((thing["id"], thing["name"]))
            assert (thing["point_px"] is None) == (thing["point_m"] is None)
            if thing["point_px"] is not None:
                point_m = lifted_m(thing["point_px"], depth_mm, info.k)
                # Depth is rounded to a millimetre, the truth to a tenth of one.
                assert thing["point_m"] == pytest.approx(point_m, abs=0.7e-3)
                assert 0.3 < point_m[2] < 1.5
    # The same seven things at all times.
    assert [number for number, _ in sorted(things)] == list(range(1, 8))
    assert {"red mug", "blue mug", "lemon"} <= {name for _, name in things}


def test_the_picture_shows_where_the_truth_says(table):
    at, _ = table
    for image, *_, truth in at.values():
        rgb = images.rgb_of(image).astype(float)
        shown = {}
        for thing in json.loads(truth.data)["objects"]:
            if thing["visible_fraction"] > 0.3:
                u, v = thing["point_px"]
                shown[thing["name"]] = rgb[v - 1 : v + 2, u - 1 : u + 2].mean(axis=(0, 1))
        red, _, blue = shown["red mug"]
        assert red > 1.5 * blue
        red, _, blue = shown["blue mug"]
        assert blue > 1.2 * red
        red, green, blue = shown["lemon"]
        assert min(red, green) > 1.3 * blue


def test_the_table_is_refused_at_a_rate_that_it_cannot_have(node_under_test):
    with pytest.raises(ConfigError, match=r"source is table, and its rate is 0\.5 Hz, expected 1"):
        node_under_test.start(CameraNode, source="table", rate_hz=0.5)
