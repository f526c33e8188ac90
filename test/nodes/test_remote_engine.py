"""The grounding node on a server over real DDS: away at the start, lost in mid-run, found again."""

import json
import socket

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import String

from benchmarks.nano_server import NanoServer
from molmo2_ros.ros import qos
from molmo2_ros.ros.grounding_node import GroundingNode
from molmo2_ros.runtime.engine import load_engine

ANSWER = "grounding/answer"
DIAGNOSTICS = "/diagnostics"


@pytest.fixture(scope="module")
def engine():
    """Of the server."""
    return load_engine(threads=1)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def engine_status(message):
    return next((s for s in message.status if s.name == "grounding: engine"), None)


def values(message):
    """What /diagnostics says of the engine and its answers."""
    names = ("grounding: engine", "grounding: answers")
    told = [s for s in message.status if s.name in names]
    return {entry.key: entry.value for status in told for entry in status.values}


def says(level, *words):
    """Whether the engine's line is of a level and holds some words."""

    def wanted(message):
        status = engine_status(message)
        return status.level == level and all(word in status.message for word in words)

    return wanted


def is_whole(message):
    return not json.loads(message.data)["partial"]


def start(node, camera, port, **parameters):
    node.listen(ANSWER, String, qos.result_qos())
    node.listen(DIAGNOSTICS, DiagnosticArray, qos.result_qos())
    node.listen("grounding/points", PointCloud2)
    node.start(
        GroundingNode,
        engine=f"http://127.0.0.1:{port}/v1",
        remote_frame_size=168,
        queries=["point: the red mug"],
        diagnostics_period_s=0.2,
        **parameters,
    )
    node.play(camera, rate_hz=5.0)


def test_a_server_may_be_away_at_the_start_and_go_in_mid_run(node_under_test, camera, engine):
    port = free_port()
    start(node_under_test, camera, port)
    # Nobody is there: the node is active all the same, and says what to do.
    assert node_under_test.state("grounding") == "active"
    node_under_test.wait_for(
        DIAGNOSTICS, says(DiagnosticStatus.ERROR, "nothing listens there", "check that the server")
    )
    assert node_under_test.received[ANSWER] == []

    server = NanoServer(engine, port=port)
    node_under_test.wait_for(ANSWER, is_whole)
    node_under_test.wait_for("grounding/points", lambda message: message.width > 0)
    num_diagnostics = len(node_under_test.received[DIAGNOSTICS])
    last = node_under_test.wait_for(
        DIAGNOSTICS,
        lambda message: int(values(message).get("answers", 0)) > 0,
        after=num_diagnostics,
    )
    assert values(last)["device"] == f"http://127.0.0.1:{port}/v1"
    assert int(values(last)["requests"]) > 5
    assert int(values(last)["requests_failed"]) >= 1
    assert int(values(last)["bytes_sent"]) > 1000
    assert engine_status(last).hardware_id == "molmo2-nano"

    server.stop()
    num_diagnostics = len(node_under_test.received[DIAGNOSTICS])
    node_under_test.wait_for(
        DIAGNOSTICS,
        says(DiagnosticStatus.ERROR, f"no answer from http://127.0.0.1:{port}/v1"),
        after=num_diagnostics,
    )
    assert node_under_test.state("grounding") == "active"

    server = NanoServer(engine, port=port)
    num_answers = len(node_under_test.received[ANSWER])
    node_under_test.wait_for(ANSWER, is_whole, after=num_answers)
    assert node_under_test.transition("grounding", "deactivate")
    assert node_under_test.transition("grounding", "cleanup")
    server.stop()


def test_a_server_that_cannot_tell_frames_apart_is_asked_about_one_only(
    node_under_test, camera, engine
):
    server = NanoServer(engine)
    server.manners.heeds_times = False
    start(node_under_test, camera, server.port)
    node_under_test.wait_for(DIAGNOSTICS, says(DiagnosticStatus.WARN, "numbers frames in its own"))
    node_under_test.send("grounding/query", String(data="track: the lemon"))
    node_under_test.wait_for(
        DIAGNOSTICS,
        lambda message: any(
            s.name == "grounding: queries" and "'the lemon' is asked about several" in s.message
            for s in message.status
        ),
    )
    node_under_test.wait_for(ANSWER, lambda message: '"red_mug"' in message.data)
    server.stop()


def test_what_a_server_cannot_be_is_refused(node_under_test):
    node_under_test.listen(DIAGNOSTICS, DiagnosticArray, qos.result_qos())
    node_under_test.start(GroundingNode, engine="ftp://127.0.0.1/v1", diagnostics_period_s=0.2)
    assert node_under_test.state("grounding") == "unconfigured"
    node_under_test.wait_for(DIAGNOSTICS, says(DiagnosticStatus.ERROR, "begins with ftp://"))
    url = "http://127.0.0.1:1/v1"
    assert node_under_test.set_parameter("grounding", "engine", url).successful
    refused = node_under_test.set_parameter("grounding", "constrained", True)
    assert not refused.successful
    assert "not told the grammar" in refused.reason
