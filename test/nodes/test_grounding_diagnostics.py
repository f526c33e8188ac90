"""/diagnostics has a line for each stage, and says within two seconds what has stopped."""

import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from benchmarks.nano_server import NanoServer
from molmo2_ros.ros import qos
from molmo2_ros.ros.grounding_node import GroundingNode
from molmo2_ros.runtime.engine import load_engine

DIAGNOSTICS = "/diagnostics"
STAGES = ["camera", "tracking", "metres", "engine", "answers", "queries", "process"]
SEEN_S = 2.0  # after it happened


@pytest.fixture(scope="module")
def engine():
    return load_engine()


def line(message, stage):
    return next((s for s in message.status if s.name == f"grounding: {stage}"), None)


def values(message, stage):
    return {entry.key: entry.value for entry in line(message, stage).values}


def says(stage, level, words=""):
    def wanted(message):
        status = line(message, stage)
        return status is not None and status.level == level and words in status.message

    return wanted


def test_every_stage_has_its_line_with_its_figures(node_under_test, camera):
    node_under_test.listen(DIAGNOSTICS, DiagnosticArray, qos.result_qos())
    node_under_test.start(GroundingNode, queries=["point: the red mug"], diagnostics_period_s=0.2)
    node_under_test.play(camera, rate_hz=10.0)

    told = node_under_test.wait_for(
        DIAGNOSTICS,
        lambda m: line(m, "answers") and float(values(m, "answers").get("answers", 0)) > 3,
    )

    assert [s.name for s in told.status] == [f"grounding: {stage}" for stage in STAGES]
    assert float(values(told, "camera")["age_s"]) < 1.0
    assert float(values(told, "tracking")["targets"]) == 1
    assert 0 < float(values(told, "tracking")["carry_ms"]) < 1000
    answers = values(told, "answers")
    assert float(answers["last_prefill_s"]) > 0
    assert float(answers["usual_s"]) > 0
    assert {"last_encode_s", "last_decode_s", "drafts_accepted_share", "answers_degenerate"} <= set(
        answers
    )
    assert len(values(told, "engine")["checksum"]) == 12
    assert float(values(told, "process")["memory_mb"]) > 50


def test_a_camera_that_stops_is_told_and_forgiven_when_it_comes_back(node_under_test, camera):
    node_under_test.listen(DIAGNOSTICS, DiagnosticArray, qos.result_qos())
    node_under_test.start(GroundingNode, queries=["count: mugs"])  # a line each second
    node_under_test.play(camera, rate_hz=10.0)
    node_under_test.wait_for(DIAGNOSTICS, says("camera", DiagnosticStatus.OK))

    node_under_test.pause()
    stopped_s = time.monotonic()
    node_under_test.wait_for(DIAGNOSTICS, says("camera", DiagnosticStatus.WARN, "no image on"))
    assert time.monotonic() - stopped_s < SEEN_S + 0.2  # until a frame on its way has come

    after = len(node_under_test.received[DIAGNOSTICS])
    node_under_test.play(camera, rate_hz=10.0)
    node_under_test.wait_for(DIAGNOSTICS, says("camera", DiagnosticStatus.OK), after=after)


def test_a_model_that_hangs_is_told(node_under_test, camera, engine):
    server = NanoServer(engine)
    node_under_test.listen(DIAGNOSTICS, DiagnosticArray, qos.result_qos())
    node_under_test.start(
        GroundingNode,
        engine=f"http://127.0.0.1:{server.port}/v1",
        remote_frame_size=168,
        queries=["point: the red mug"],
    )
    node_under_test.play(camera, rate_hz=10.0)
    node_under_test.wait_for(
        DIAGNOSTICS,
        lambda m: line(m, "answers") and float(values(m, "answers").get("answers", 0)) > 3,
    )
    usual_s = float(values(node_under_test.received[DIAGNOSTICS][-1], "answers")["usual_s"])
    after = len(node_under_test.received[DIAGNOSTICS])

    server.manners.wait_s = 60.0
    hung_s = time.monotonic()
    node_under_test.wait_for(
        DIAGNOSTICS,
        says("answers", DiagnosticStatus.WARN, "an answer has been written for"),
        after=after,
    )
    # The answer before may still come, and a line comes each second.
    assert time.monotonic() - hung_s < max(1.0, 3 * usual_s) + 1.0 + 2 * usual_s + 0.5

    server.stop()
