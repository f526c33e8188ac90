"""The grounding node over real DDS: a camera in, answers, points and tracks out."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PointStamped
from sensor_msgs.msg import CompressedImage, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import ImageMarker, MarkerArray

from molmo2_ros.camera.stamp import stamp_from_json
from molmo2_ros.ros import compat, images, qos
from molmo2_ros.ros.arm_node import ArmNode
from molmo2_ros.ros.camera_node import CameraNode
from molmo2_ros.ros.clouds import rows_of
from molmo2_ros.ros.grounding_node import GroundingNode
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.manifest import SKILLS

ROOT = Path(__file__).parents[2]
QUERIES = ["point: the red mug", "count: mugs", "track: the lemon"]


def is_final(message):
    return not json.loads(message.data)["partial"]


def about(kind):
    """Whether an answer is whole and of a kind."""
    return lambda message: is_final(message) and json.loads(message.data)["query"]["kind"] == kind


def answer_stamp_ns(message):
    stamp = json.loads(message.data)["stamp"]
    return stamp_from_json(stamp)


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
        lambda m: int(values_of(status_of(m, "answers")).get("frames_skipped", 0)) >= 3,
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
    assert int(values_of(status_of(after, "answers"))["answers"]) >= 1


def slow_engine(folder, **options):
    """The shipped engine, at a fraction of its speed."""
    engine = load_engine(folder, **options)
    encode = engine.encode

    def slow_encode(*arguments):
        time.sleep(0.5)
        return encode(*arguments)

    engine.encode = slow_encode
    return engine


def test_a_query_without_a_list_stands_beside_the_list(node_under_test):
    node_under_test.start(GroundingNode, query="the red mug", queries=["count: mugs"])
    node_under_test.listen("grounding/queries", String, qos.state_qos())

    def names(message):
        return [entry["name"] for entry in json.loads(message.data)["queries"]]

    node_under_test.wait_for("grounding/queries", lambda m: names(m) == ["red_mug", "mugs"])
    refused = node_under_test.set_parameter("grounding", "query", "count: the mugs")
    assert not refused.successful  # two of one name
    assert node_under_test.set_parameter("grounding", "query", "").successful
    node_under_test.wait_for("grounding/queries", lambda m: names(m) == ["mugs"])


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
        "span": "newest",
    }
    node_under_test.send("grounding/ask", String(data="ask: What is the meaning of this?"))
    refused = json.loads(node_under_test.wait_for("grounding/answer", about("ask")).data)
    assert refused["refused"]
    assert "cannot do 'ask'" in refused["problems"][0]
    assert sum(about("count")(m) for m in node_under_test.received["grounding/answer"]) == 1


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


def test_what_the_nano_was_not_taught_is_refused_through_every_door(node_under_test, camera):
    node_under_test.listen("grounding/queries", String, qos.state_qos())
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.start(
        GroundingNode, queries=["whole=count[clip]: mugs"], diagnostics_period_s=0.1
    )
    node_under_test.play(camera, rate_hz=5.0)

    reason = "cannot do 'clip' (point and count over all frames of a clip)"
    answer = json.loads(node_under_test.wait_for("grounding/answer", about("count")).data)
    assert answer["refused"]
    assert answer["query"]["span"] == "clip"
    assert reason in answer["problems"][0]
    assert "it can: track, point, count, seed" in answer["problems"][0]
    told = node_under_test.wait_for(
        "grounding/queries", lambda m: json.loads(m.data)["queries"][0]["refused"]
    )
    assert reason in json.loads(told.data)["queries"][0]["refused"]

    node_under_test.send("grounding/ask", String(data="Describe this video in detail"))
    caption = json.loads(node_under_test.wait_for("grounding/answer", about("caption")).data)
    assert caption["refused"]
    assert "cannot do 'caption' (describe what it sees)" in caption["problems"][0]
    refused = node_under_test.set_parameter("grounding", "queries", ["point[clip]: mugs"])
    assert reason in refused.reason
    node_under_test.send("grounding/query", String(data="point[clip]: mugs"))
    node_under_test.wait_for("/diagnostics", lambda m: reason in status_of(m, "queries").message)


def test_a_model_with_the_skills_is_asked_about_clips_and_for_captions(node_under_test, camera):
    def load(folder, **options):
        """The shipped model, believed to have every skill: what it says is its own."""
        engine = load_engine(folder, **options)
        engine.manifest = replace(engine.manifest, skills=tuple(SKILLS))
        return engine

    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.start(
        GroundingNode,
        load=load,
        queries=["whole=point[clip]: the red mug", "now=point: the red mug"],
        constrained=True,
    )
    node_under_test.play(camera, rate_hz=5.0)

    def spans_s(name, least):
        """Whether an answer to a query is whole and about so many seconds."""

        def look(message):
            told = json.loads(message.data)
            stamps_s = [s["sec"] + s["nanosec"] / 1e9 for s in told["clip_stamps"]]
            is_it = is_final(message) and told["query"]["name"] == name
            return is_it and stamps_s[-1] - stamps_s[0] >= least

        return look

    over_clip = json.loads(node_under_test.wait_for("grounding/answer", spans_s("whole", 2.0)).data)
    assert over_clip["query"]["span"] == "clip"
    assert not over_clip["refused"]
    now = json.loads(node_under_test.wait_for("grounding/answer", spans_s("now", 0.0)).data)
    assert now["query"]["span"] == "newest"
    assert len(now["clip_stamps"]) == 1
    # Constrained: the nano was never taught to point over a clip, and still all can be read.
    answers = [json.loads(m.data) for m in node_under_test.received["grounding/answer"]]
    for answer in answers:
        assert answer["partial"] or answer["none"] or answer["points"] or answer["degenerate"]

    node_under_test.send("grounding/ask", String(data="caption: short"))
    caption = json.loads(node_under_test.wait_for("grounding/answer", about("caption")).data)
    assert not caption["refused"]
    assert caption["text"]
    assert node_under_test.set_parameter("grounding", "constrained", False).successful


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

    told = node_under_test.wait_for(
        "/diagnostics",
        lambda m: (
            "depth is in frame 'infrared_optical', the image in 'table_optical'"
            in status_of(m, "metres").message
        ),
    )
    assert values_of(status_of(told, "metres"))["cause"] == "depth_other_frame"
    found = node_under_test.wait_for("grounding/points", lambda m: len(rows_of(m)) > 0)
    assert np.isnan(rows_of(found)["z"]).all()
    assert not found.is_dense


def test_without_a_transform_nothing_is_given_in_another_frame(node_under_test, camera):
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.listen("grounding/points", PointCloud2, qos.result_qos())
    node_under_test.listen("grounding/target", PointStamped, qos.result_qos())
    node_under_test.start(
        GroundingNode, queries=["count: mugs"], diagnostics_period_s=0.1, target_frame="base_link"
    )
    # The wheels lack tf2; where it is installed, nobody publishes a transform here.
    words = "tf2_ros is not installed" if compat.tf2_ros() is None else "no transform from"

    node_under_test.play(camera, rate_hz=5.0)

    told = node_under_test.wait_for(
        "/diagnostics",
        lambda m: (
            words in status_of(m, "metres").message
            and values_of(status_of(m, "metres"))["points_in_metres"] != "0"
        ),
    )
    assert status_of(told, "metres").level == DiagnosticStatus.WARN
    assert values_of(status_of(told, "metres"))["cause"] == "no_transform"
    found = node_under_test.wait_for("grounding/points", lambda m: len(rows_of(m)) > 0)
    assert found.header.frame_id == "table_optical"
    assert np.isfinite(rows_of(found)["z"]).all()
    assert node_under_test.received["grounding/target"] == []


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


def test_a_camera_on_its_head_is_answered_in_its_own_pixels(node_under_test, table_frames):
    """The mug is where the pictures show it, and the overlay is upright."""
    node_under_test.listen("grounding/points", PointCloud2, qos.result_qos())
    node_under_test.listen("grounding/overlay/compressed", CompressedImage, qos.result_qos())
    node_under_test.start(
        GroundingNode, queries=["point: the red mug"], image_rotation=180, use_depth=False
    )
    table = table_frames[0]
    picture = np.rot90(table.image, 2)
    robot_clock = node_under_test.node.get_clock()

    def send_one():
        stamp_ns = robot_clock.now().nanoseconds
        message = images.image_message(picture, stamp_ns, "table_optical")
        node_under_test.send("image", message, qos.image_qos("reliable"))
        return any(len(rows_of(m)) for m in node_under_test.received["grounding/points"])

    node_under_test.until(send_one, "points of a camera on its head")

    rows = rows_of(node_under_test.wait_for("grounding/points", lambda m: len(rows_of(m)) > 0))
    u, v = round(float(rows["u"][0])), round(float(rows["v"][0]))
    red, green, blue = picture[v - 2 : v + 3, u - 2 : u + 3].reshape(-1, 3).astype(int).mean(0)
    assert red > 1.5 * max(green, blue)
    overlay = images.rgb_of_compressed(
        node_under_test.wait_for("grounding/overlay/compressed")
    ).astype(int)
    upright = np.kron(table.image, np.ones((2, 2, 1))).astype(int)
    assert np.median(abs(overlay - upright)) < np.median(abs(overlay[::-1, ::-1] - upright)) / 3


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
