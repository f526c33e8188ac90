"""The grounding node over real DDS: a camera in, answers, points and tracks out."""

import json
import re
import time
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PointStamped
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import ImageMarker, MarkerArray

from molmo2_ros.ros import compat, images, qos
from molmo2_ros.ros.arm_node import ArmNode
from molmo2_ros.ros.camera_node import CameraNode
from molmo2_ros.ros.clouds import rows_of
from molmo2_ros.ros.grounding_node import GroundingNode
from molmo2_ros.runtime.engine import load_engine

ROOT = Path(__file__).parents[2]
QUERIES = ["point: the red mug", "count: mugs", "track: the lemon"]


def is_final(message):
    return not json.loads(message.data)["partial"]


def about(kind):
    """Whether an answer is whole and of a kind."""
    return lambda message: is_final(message) and json.loads(message.data)["query"]["kind"] == kind


def answer_stamp_ns(message):
    stamp = json.loads(message.data)["stamp"]
    return stamp["sec"] * images.NS_PER_S + stamp["nanosec"]


def status_of(message, part):
    return next(status for status in message.status if status.name == f"grounding: {part}")


def values_of(status):
    return {entry.key: entry.value for entry in status.values}


def test_a_camera_comes_in_and_points_tracks_and_answers_go_out(node_under_test, camera):
    for topic, kind in (
        ("grounding/points", PointCloud2),
        ("grounding/tracks", PointCloud2),
        ("grounding/answer", String),
        ("grounding/target", PointStamped),
        ("grounding/markers", ImageMarker),
        ("grounding/markers_3d", MarkerArray),
        ("grounding/overlay/compressed", CompressedImage),
    ):
        node_under_test.listen(topic, kind, qos.result_qos())
    node_under_test.start(GroundingNode, queries=QUERIES)

    node_under_test.play(camera, rate_hz=5.0)

    answers = {
        kind: json.loads(node_under_test.wait_for("grounding/answer", about(kind)).data)
        for kind in ("point", "count", "track")
    }
    points = node_under_test.wait_for("grounding/points", lambda m: len(rows_of(m)) >= 3)
    tracks = node_under_test.wait_for(
        "grounding/tracks", lambda m: len(np.unique(rows_of(m)["t"])) >= 2
    )
    picture = node_under_test.wait_for("grounding/overlay/compressed")
    node_under_test.wait_for("grounding/target")
    node_under_test.wait_for("grounding/markers", lambda m: len(m.points) >= 1)
    node_under_test.wait_for("grounding/markers_3d", lambda m: len(m.markers) >= 3)
    node_under_test.pause()
    # Everything is stamped with a frame of the camera, and in its frame_id.
    for topic in ("points", "tracks", "target", "markers", "overlay/compressed"):
        for message in node_under_test.received[f"grounding/{topic}"]:
            assert images.stamp_ns_of(message) in camera.stamps_ns, topic
            assert message.header.frame_id == "table_optical", topic
    assert answers["count"]["count"] is not None
    assert {answer["frame_id"] for answer in answers.values()} == {"table_optical"}
    rows = rows_of(points)
    assert ((rows["u"] >= 0) & (rows["u"] < 320) & (rows["v"] >= 0) & (rows["v"] < 240)).all()
    # The table is 0.4 to 1.2 m away, and its depth is whole.
    assert ((rows["z"] > 0.3) & (rows["z"] < 1.5)).all()
    assert (rows["age"] >= 0).all()
    assert (rows_of(tracks)["t"] <= 0).all()
    # Twice as large as the image, so that names are legible.
    assert images.rgb_of_compressed(picture).shape == (480, 640, 3)


def test_points_come_for_every_frame_while_a_slow_engine_takes_the_newest(node_under_test, camera):
    node_under_test.listen("grounding/points", PointCloud2, qos.result_qos())
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.start(GroundingNode, queries=["point: the red mug"], load=slow_engine)

    node_under_test.play(camera, rate_hz=10.0)
    for _ in range(3):
        node_under_test.wait_for(
            "grounding/answer",
            is_final,
            after=len(node_under_test.received["grounding/answer"]),
        )
    after = node_under_test.wait_for(
        "/diagnostics",
        lambda m: int(values_of(status_of(m, "engine")).get("frames_skipped", 0)) >= 3,
    )
    node_under_test.pause()

    stamps = camera.stamps_ns
    asked = [
        stamps.index(answer_stamp_ns(message))
        for message in node_under_test.received["grounding/answer"]
        if is_final(message)
    ]
    steps = np.diff(asked)
    assert (steps > 1).all(), "a slow engine must leave frames out, not queue them"
    seen = [images.stamp_ns_of(m) for m in node_under_test.received["grounding/points"]]
    assert len(seen) > 2 * len(asked), "points follow the camera, not the engine"
    assert seen == sorted(set(seen))
    assert int(values_of(status_of(after, "engine"))["answers"]) >= 1


def slow_engine(folder, *, threads=None):
    """The shipped engine, at a fraction of its speed."""
    engine = load_engine(folder, threads=threads)
    encode = engine.encode

    def slow_encode(*arguments):
        time.sleep(0.5)
        return encode(*arguments)

    engine.encode = slow_encode
    return engine


def test_queries_come_by_topic_and_by_parameter_and_go_again(node_under_test, camera):
    node_under_test.start(GroundingNode, queries=["point: the red mug"])
    node_under_test.listen("grounding/queries", String, qos.state_qos())
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    # Whoever comes late hears what stands: the topic is latched.
    late = json.loads(node_under_test.wait_for("grounding/queries").data)
    assert [entry["name"] for entry in late["queries"]] == ["red_mug"]
    node_under_test.play(camera, rate_hz=5.0)

    node_under_test.send("grounding/query", String(data="cups=count: mugs"))
    node_under_test.wait_for("grounding/answer", about("count"))
    result = node_under_test.set_parameter("grounding", "queries", ["track: the lemon"])
    assert result.successful, result.reason
    node_under_test.wait_for("grounding/answer", about("track"))

    def names(message):
        return [entry["name"] for entry in json.loads(message.data)["queries"]]

    node_under_test.wait_for("grounding/queries", lambda m: names(m) == ["cups", "lemon"])
    node_under_test.send("grounding/query", String(data="remove: cups"))
    node_under_test.wait_for("grounding/queries", lambda m: names(m) == ["lemon"])
    last = node_under_test.wait_for(
        "grounding/queries",
        lambda m: names(m) == ["lemon"] and json.loads(m.data)["queries"][0]["rate_hz"] > 0,
    )
    state = json.loads(last.data)
    assert state["active"]
    assert state["queries"][0]["given_by"] == "parameter"
    assert "track" in state["skills"]


def test_a_free_question_is_answered_once_and_stands_nowhere(node_under_test, camera):
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.start(GroundingNode)
    node_under_test.play(camera, rate_hz=5.0)

    node_under_test.send("grounding/ask", String(data="How many mugs are there?"))

    answer = json.loads(node_under_test.wait_for("grounding/answer", about("count")).data)
    assert answer["query"] == {
        "id": 0,
        "name": "ask",
        "kind": "count",
        "words": "mugs",
        "detail": "frames",
    }
    node_under_test.send("grounding/ask", String(data="ask: What is the meaning of this?"))
    refused = json.loads(node_under_test.wait_for("grounding/answer", about("ask")).data)
    assert refused["refused"]
    assert "cannot do 'ask'" in refused["problems"][0]
    assert sum(about("count")(m) for m in node_under_test.received["grounding/answer"]) == 1


BAD_IMAGES = {
    "encoding": ({"encoding": "vacuum"}, "unknown image encoding 'vacuum'; expected one of rgb8"),
    "step": ({"step": 7}, "step is 7 bytes, expected at least 960"),
    "length": ({"height": 241}, "data has 230400 bytes, expected 231360"),
    "size": ({"width": 0, "height": 0, "step": 0, "data": []}, "image is 0x0 pixels"),
}
BAD_QUERIES = {
    "empty": (" \n", "query is empty, expected words such as"),
    "long": ("x" * 100_000, "query has 100000 characters, expected at most 2000"),
    "patches": ("point: " + "<im_patch>" * 30, "query holds '<im_patch>', a control token"),
    "ends": ("track: the mug<|im_end|>" * 9, r"query holds '<\|im_end\|>', a control token"),
    "unknown": ("point: the spaceship", "does not know 'spaceship', it knows: .*mug"),
    "no such": ("remove: nothing", "no query is named 'nothing'; what stands: red_mug"),
}


def test_bad_images_and_bad_queries_are_told_apart_and_the_node_goes_on(node_under_test, camera):
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.start(
        GroundingNode,
        queries=["point: the red mug"],
        diagnostics_period_s=0.1,
        image_reliability="reliable",  # each bad image is sent once: none may be lost
    )
    image = images.image_message(np.zeros((240, 320, 3), np.uint8), 1, "table_optical")

    for change, words in BAD_IMAGES.values():
        bad = Image(**{n: getattr(image, n) for n in image.get_fields_and_field_types()})
        for name, value in change.items():
            setattr(bad, name, value)
        node_under_test.send("image", bad, qos.image_qos("reliable"))
        node_under_test.wait_for(
            "/diagnostics", lambda m, w=words: re.match(w, status_of(m, "camera").message)
        )
    for text, words in BAD_QUERIES.values():
        node_under_test.send("grounding/query", String(data=text))
        told = node_under_test.wait_for(
            "/diagnostics", lambda m, w=words: re.search(w, status_of(m, "queries").message)
        )
        assert len(status_of(told, "queries").message) <= 400
        refused = node_under_test.set_parameter("grounding", "queries", [text])
        assert not refused.successful
        assert text.startswith("remove") or re.search(words, refused.reason)

    node_under_test.play(camera, rate_hz=5.0)
    node_under_test.wait_for("grounding/answer", about("point"))
    last = node_under_test.received["/diagnostics"][-1]
    counts = values_of(status_of(last, "camera"))
    assert int(counts["problems_ImageError"]) == len(BAD_IMAGES)
    assert int(counts["problems_QueryError"]) == len(BAD_QUERIES)


def test_a_query_that_this_model_cannot_be_asked_stands_refused_with_the_reason(
    node_under_test, camera
):
    node_under_test.listen("grounding/queries", String, qos.state_qos())
    node_under_test.start(GroundingNode, queries=["ask: What is this?", "count: mugs"])

    node_under_test.play(camera, rate_hz=5.0)

    told = node_under_test.wait_for(
        "grounding/queries",
        lambda m: (
            json.loads(m.data)["queries"][0]["refused"]
            and json.loads(m.data)["queries"][1]["rate_hz"] > 0
        ),
    )
    asked, counted = json.loads(told.data)["queries"]
    assert "cannot do 'ask'" in asked["refused"]
    assert counted["refused"] is None


def test_live_parameters_act_at_once(node_under_test):
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.start(GroundingNode, queries=["count: mugs"], diagnostics_period_s=60.0)

    assert node_under_test.set_parameter("grounding", "diagnostics_period_s", 0.1).successful
    node_under_test.wait_for("/diagnostics")
    assert node_under_test.set_parameter("grounding", "max_queries", 1).successful
    node_under_test.send("grounding/query", String(data="point: the lemon"))

    node_under_test.wait_for(
        "/diagnostics",
        lambda m: "2 standing queries, expected at most 1" in status_of(m, "queries").message,
    )


def test_a_bad_list_of_queries_at_start_is_told_and_the_node_starts(node_under_test, camera):
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.start(GroundingNode, queries=["point: the mug", "track: the mug"])

    node_under_test.wait_for(
        "/diagnostics",
        lambda m: "two queries are named 'mug'" in status_of(m, "queries").message,
    )

    assert node_under_test.state("grounding") == "active"


def test_depth_of_another_camera_is_refused_and_points_have_no_metres(node_under_test, camera):
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.listen("grounding/points", PointCloud2, qos.result_qos())
    node_under_test.start(GroundingNode, queries=["count: mugs"], diagnostics_period_s=0.1)
    camera.depth_frame_id = "infrared_optical"

    node_under_test.play(camera, rate_hz=5.0)

    node_under_test.wait_for(
        "/diagnostics",
        lambda m: (
            "depth is in frame 'infrared_optical', the image in 'table_optical'"
            in status_of(m, "camera").message
        ),
    )
    found = node_under_test.wait_for("grounding/points", lambda m: len(rows_of(m)) > 0)
    assert np.isnan(rows_of(found)["z"]).all()
    assert not found.is_dense


def test_images_come_compressed_where_that_is_wanted(node_under_test, table_frames):
    node_under_test.listen("grounding/points", PointCloud2, qos.result_qos())
    node_under_test.start(
        GroundingNode, queries=["count: mugs"], image_transport="compressed", use_depth=False
    )
    robot_clock = node_under_test.node.get_clock()
    stamps = []

    def send_one():
        stamps.append(robot_clock.now().nanoseconds)
        message = images.jpeg_message(table_frames[0].image, stamps[-1], "table_optical", 95)
        node_under_test.send("image/compressed", message, qos.image_qos("reliable"))
        return any(len(rows_of(m)) for m in node_under_test.received["grounding/points"])

    node_under_test.until(send_one, "points from compressed images")

    rows = rows_of(node_under_test.wait_for("grounding/points", lambda m: len(rows_of(m)) > 0))
    assert np.isnan(rows["z"]).all()


def table_of(node_name, heading):
    """Topics and types of a table in docs/interfaces.md."""
    text = (ROOT / "docs" / "interfaces.md").read_text()
    section = re.split(r"^## ", text.split(f"\n## {node_name}\n")[1], flags=re.MULTILINE)[0]
    if heading:
        section = re.split(r"^### ", section.split(f"### {heading}\n")[1], flags=re.MULTILINE)[0]
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", section, flags=re.MULTILINE))


def test_the_document_names_every_topic_of_the_grounding_node(node_under_test):
    node = node_under_test.start(GroundingNode)

    subscribed = {s.topic_name: s.msg_type for s in node.subscriptions}
    published = {p.topic_name: p.msg_type for p in node.publishers}

    assert ros_names(subscribed) == absolute(table_of("grounding_node", "Subscribed"), "grounding")
    promised = absolute(table_of("grounding_node", "Published"), "grounding")
    if compat.vision_msgs() is None:
        promised = {k: v for k, v in promised.items() if not v.startswith("vision_msgs")}
    assert ros_names(published) == promised


def test_the_document_names_every_topic_of_the_camera_node(node_under_test):
    node = node_under_test.start(CameraNode)

    published = {p.topic_name: p.msg_type for p in node.publishers}

    assert ros_names(published) == absolute(table_of("camera_node", ""), "camera")


def test_the_document_names_every_topic_of_the_camera_node_with_an_arm(node_under_test):
    node = node_under_test.start(CameraNode, source="reach", table_width=64, table_height=48)

    published = {p.topic_name: p.msg_type for p in node.publishers}
    subscribed = {s.topic_name: s.msg_type for s in node.subscriptions}

    camera = absolute(table_of("camera_node", ""), "camera")
    robot = absolute(table_of("The simulated arm", "Published by camera_node"), "camera")
    assert ros_names(published) == {**camera, **robot}
    commands = absolute(table_of("The simulated arm", "Subscribed by camera_node"), "camera")
    assert ros_names(subscribed) == commands


def test_the_document_names_every_topic_of_the_arm_node(node_under_test):
    node = node_under_test.start(ArmNode)

    published = {p.topic_name: p.msg_type for p in node.publishers}
    subscribed = {s.topic_name: s.msg_type for s in node.subscriptions}

    assert ros_names(published) == absolute(table_of("arm_node", "Published"), "arm")
    assert ros_names(subscribed) == absolute(table_of("arm_node", "Subscribed"), "arm")
    assert set(ros_names(subscribed)) == {"/target", "/joint_states"}


def absolute(table, node_name):
    return {
        (topic if topic[0] == "/" else f"/{topic.replace('~', node_name)}"): kind
        for topic, kind in table.items()
    }


def ros_names(topics):
    """Our topics as 'package/Type', without those that every ROS node has."""
    common = ("/parameter_events", "/rosout")
    return {
        topic: f"{kind.__module__.split('.')[0]}/{kind.__name__}"
        for topic, kind in topics.items()
        if topic not in common and not topic.endswith("transition_event")
    }
