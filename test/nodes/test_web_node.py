"""The live page over DDS: what nodes publish is shown, what viewers want is published."""

import http.client
import json
import re
import time
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import String
from websockets.sync.client import connect

from molmo2_ros.ros import images, qos
from molmo2_ros.ros.clouds import rows_of
from molmo2_ros.ros.grounding_node import GroundingNode
from molmo2_ros.ros.recorder_node import RecorderNode
from molmo2_ros.ros.web_node import WebNode

ROOT = Path(__file__).parents[2]
QUERIES = ["mug=point: the red mug"]


def request(port, method, path, content=None):
    """Status and content of a response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = None if content is None else json.dumps(content)
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    if response.status == 429:  # who waits for something asks too often: 20 a second are allowed
        time.sleep(0.2)
        return request(port, method, path, content)
    return response.status, json.loads(text) if text else None


def scenes(port):
    """Scenes without pictures, as they come."""
    uri = f"ws://127.0.0.1:{port}/api/stream"
    with connect(uri, close_timeout=1) as socket:
        socket.send(json.dumps({"type": "watch", "pictures": False, "acknowledge": False}))
        while True:
            message = json.loads(socket.recv(timeout=120))
            if message["type"] == "scene":
                yield message


def stamp_ns_of(scene):
    return scene["stamp"]["sec"] * 10**9 + scene["stamp"]["nanosec"]


@pytest.fixture
def web(node_under_test, camera):
    """A grounding node about a table, and a web node of its own beside it."""
    node_under_test.start(GroundingNode, queries=QUERIES, diagnostics_period_s=0.2)
    grounding = node_under_test.node
    node = node_under_test.start(WebNode, port=0)
    node_under_test.play(camera, rate_hz=10.0)
    yield node
    grounding.close()


def test_points_are_shown_with_the_picture_that_they_are_on(node_under_test, web, camera):
    node_under_test.listen("grounding/points", PointCloud2, qos.result_qos())
    node_under_test.wait_for("grounding/points", lambda m: m.width > 0)
    shown = next(scene for scene in scenes(web.server.port) if scene["points"])
    assert stamp_ns_of(shown) in camera.stamps_ns
    published = {
        images.stamp_ns_of(message): rows_of(message)
        for message in node_under_test.received["grounding/points"]
    }
    (row,) = published[stamp_ns_of(shown)]
    (point,) = shown["points"]
    assert (point["u"], point["v"]) == pytest.approx((row["u"], row["v"]), abs=0.01)
    assert point["node"] == "grounding"
    assert 0.2 < point["xyz"][2] < 2


def test_what_viewers_ask_reaches_the_node_and_its_answer_comes_back(node_under_test, web):
    port = web.server.port
    node_under_test.until(lambda: web.hub.queries.get("grounding"), "~/queries")
    assert request(port, "GET", "/api/state")[1]["queries"]["grounding"]["queries"]
    node_under_test.until(lambda: web.hub.scenes, "picture")
    status, told = request(port, "POST", "/api/ask", {"text": "How many mugs are there?"})
    assert status == 200
    assert told["answer"]["query"]["kind"] == "count"
    assert told["answer"]["count"] is not None
    status, stood = request(port, "POST", "/api/queries", {"text": "lemon=track: the lemon"})
    assert status == 201, stood
    assert stood["query"]["given_by"] == "topic"
    change = {"name": "yellow", "paused": True, "rate_hz": 2}
    status, changed = request(port, "PATCH", "/api/queries/lemon", change)
    entry = changed["query"]
    assert (entry["name"], entry["paused"], entry["wanted_rate_hz"]) == ("yellow", True, 2.0)
    assert request(port, "DELETE", "/api/queries/yellow")[0] == 204
    node_under_test.until(lambda: "yellow" not in web.hub.standing("grounding"), "end of query")


def test_what_the_node_refuses_is_told_to_who_asked(node_under_test, web):
    port = web.server.port
    node_under_test.until(lambda: web.hub.statuses.get("grounding"), "diagnostics")
    status, refused = request(port, "POST", "/api/queries", {"text": "point: the elephant"})
    assert status == 409
    assert "does not know 'elephant'" in refused["detail"]


def test_a_correction_is_recorded_with_its_picture_and_taken_back(node_under_test, web, tmp_path):
    port = web.server.port
    node_under_test.until(lambda: web.hub.scenes, "picture")
    scene = web.hub.scenes["image"]
    stamp = {"sec": scene.stamp_ns // 10**9, "nanosec": scene.stamp_ns % 10**9}
    correction = {"camera": "image", "stamp": stamp, "query": "mugs", "points": [{"u": 9, "v": 8}]}
    status, refused = request(port, "POST", "/api/corrections", correction)
    assert status == 409
    assert "nobody records corrections" in refused["detail"]

    node_under_test.start(RecorderNode, folder=str(tmp_path), rate_hz=0.01, history_s=60.0)
    recorder = node_under_test.node
    node_under_test.listen("recorder/corrections", String, qos.result_qos())
    node_under_test.listen("/diagnostics", DiagnosticArray, qos.result_qos())
    # A picture that the recorder saw, and would not have kept.
    recorded = list(recorder._cameras)
    node_under_test.until(lambda: len(recorded[0].recent) > 3, "pictures that may be forgotten")
    stamp_ns = recorded[0].recent[-1][0]
    node_under_test.until(lambda: web.hub.scenes["image"].stamp_ns > stamp_ns, "newer picture")
    correction["stamp"] = {"sec": stamp_ns // 10**9, "nanosec": stamp_ns % 10**9}
    kept = {"camera": "image", "stamp": correction["stamp"]}
    assert request(port, "POST", "/api/keep", kept)[0] == 204
    node_under_test.until(
        lambda: stamp_ns not in [entry[0] for entry in recorded[0].recent], "the picture kept"
    )
    status, sent = request(port, "POST", "/api/corrections", correction)
    assert status == 201
    node_under_test.until(
        lambda: (
            request(port, "GET", "/api/corrections")[1]["corrections"][0]["state"] == "recorded"
        ),
        "word of the recorder",
    )
    assert request(port, "DELETE", f"/api/corrections/{sent['id']}")[0] == 204
    node_under_test.until(
        lambda: len(node_under_test.received["recorder/corrections"]) == 3, "all that was said"
    )
    said = [json.loads(m.data) for m in node_under_test.received["recorder/corrections"]]
    assert [(c["visible"], c["u"], c.get("retracted", False)) for c in said] == [
        (False, None, False), (True, 9.0, False), (False, None, True),
    ]  # fmt: skip
    assert {c["review_id"] for c in said} == {sent["id"]}
    recorder.close()


def test_the_page_lives_in_the_grounding_nodes_process_when_it_is_told_to(node_under_test, camera):
    node = node_under_test.start(GroundingNode, queries=QUERIES, web=True, web_port=0)
    port = node._web.node.server.port
    node_under_test.play(camera, rate_hz=10.0)
    shown = next(scene for scene in scenes(port) if scene["points"])
    assert shown["points"][0]["node"] == "/grounding"
    assert shown["camera"] == "/image"
    assert node_under_test.transition("grounding", "deactivate")
    state = request(port, "GET", "/api/state")[1]
    node_under_test.until(
        lambda: not request(port, "GET", "/api/state")[1]["queries"]["/grounding"]["active"], "rest"
    )
    assert state["nodes"] == ["/grounding"]


def test_a_port_that_is_taken_costs_the_page_and_not_the_answers(node_under_test, web, camera):
    node_under_test.listen("/other/grounding/answer", String, qos.result_qos())
    node = node_under_test.spin(
        lambda context: GroundingNode(
            context=context,
            namespace="/other",
            cli_args=["--ros-args", "-r", "image:=/image", "-p", "web:=true",
                      "-p", f"web_port:={web.server.port}",
                      "-p", "queries:=['point: the lemon']"],
        )
    )  # fmt: skip
    node.start()
    assert "choose another port" in node._problems.recent("web")
    node_under_test.wait_for("/other/grounding/answer")
    node.close()


def test_the_document_names_every_topic_of_the_web_node(node_under_test):
    node = node_under_test.start(WebNode, port=0)
    text = (ROOT / "docs" / "interfaces.md").read_text()
    section = re.split(r"^## ", text.split("\n## web_node\n")[1], flags=re.MULTILINE)[0]
    told = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| [^|]+ \| (in|out)", section, flags=re.MULTILINE)
    own = {"/parameter_events", "/rosout"}
    for way, endpoints in (("in", node.subscriptions), ("out", node.publishers)):
        found = {
            (e.topic_name, re.sub(r"^(\w+)\.msg\._\w+\.(\w+)$", r"\1/\2", kind_of(e)))
            for e in endpoints
            if e.topic_name not in own
        }
        promised = {
            (f"/{topic.replace('~', 'web').lstrip('/')}", kind)
            for topic, kind, w in told
            if w == way
        }
        assert found == promised


def kind_of(endpoint):
    return f"{endpoint.msg_type.__module__}.{endpoint.msg_type.__name__}"


def test_jpegs_of_a_camera_are_sent_on_as_they_come(node_under_test, table_frames):
    node = node_under_test.start(WebNode, port=0, image_transport="compressed")
    sent = images.jpeg_message(table_frames[0].image, 5 * 10**9, "camera", 70)
    reliable = qos.image_qos("reliable")

    def has_come():
        # A best-effort reader may not have found the writer yet that has found it.
        node_under_test.send("image/compressed", sent, reliable)
        return node.hub.scenes

    node_under_test.until(has_come, "scene")
    scene = node.hub.scenes["image"]
    assert (scene.width, scene.height, scene.stamp_ns) == (320, 240, 5 * 10**9)
    assert scene.marks is None
    assert scene.jpeg() == bytes(sent.data)


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("grounding/answer", "[]"),
        ("grounding/answer", '{"query": 3, "partial": false}'),
        ("grounding/answer", '{"query": {"id": 1}, "partial": false, "text": NaN}'),
        ("grounding/queries", '{"queries": [{"type": 1}]}'),
        ("grounding/queries", "{"),
        ("recorder/corrections", "null"),
    ],
)
def test_what_cannot_be_told_is_left_out(node_under_test, topic, text):
    node = node_under_test.start(WebNode, port=0)
    profile = qos.state_qos() if topic.endswith("queries") else qos.result_qos()
    node_under_test.send(topic, String(data=text), profile)
    told = {"active": True, "engine": "x", "skills": [], "queries": []}
    node_under_test.send("grounding/queries", String(data=json.dumps(told)), qos.state_qos())
    node_under_test.until(lambda: node.hub.queries.get("grounding") == told, "the next message")
    assert request(node.server.port, "GET", "/api/state")[0] == 200
    assert not node.hub.answers
