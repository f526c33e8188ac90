"""The grounding node's states: ten times round, broken engines, and a clean end."""

import dataclasses
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from std_msgs.msg import String

import molmo2_ros
from molmo2_ros.ros import qos
from molmo2_ros.ros.grounding_node import GroundingNode
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.golden import GOLDEN_FILE, Golden
from molmo2_ros.runtime.manifest import CalibrationFacts, CurveFacts, Manifest, file_entry

PATIENCE_S = 60.0
NANO = Path(molmo2_ros.__file__).parent / "engines" / "nano"


def test_every_transition_works_ten_times_and_invalid_ones_fail(node_under_test, camera):
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.start(GroundingNode, autostart=False, queries=["count: mugs"])
    assert node_under_test.state("grounding") == "unconfigured"
    assert not node_under_test.transition("grounding", "activate")
    node_under_test.play(camera, rate_hz=5.0)

    for _ in range(10):
        for name, state in (
            ("configure", "inactive"),
            ("activate", "active"),
            ("deactivate", "inactive"),
            ("cleanup", "unconfigured"),
        ):
            assert node_under_test.transition("grounding", name)
            assert node_under_test.state("grounding") == state

    assert node_under_test.transition("grounding", "configure")
    assert node_under_test.transition("grounding", "activate")
    num_before = len(node_under_test.received["grounding/answer"])
    node_under_test.wait_for("grounding/answer", after=num_before)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: (folder / "decoder.onnx").unlink(), "decoder.onnx"),
        (lambda folder: (folder / "vision.onnx").write_bytes(b"altered"), "vision.onnx"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
    ],
    ids=["missing", "altered", "no manifest"],
)
def test_a_broken_engine_is_named_and_works_once_it_is_mended(
    node_under_test, tmp_path, harm, words
):
    folder = tmp_path / "engine"
    shutil.copytree(NANO, folder)
    harm(folder)
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.start(GroundingNode, engine=str(folder), diagnostics_period_s=0.1)

    told = node_under_test.wait_for(
        "/diagnostics",
        lambda m: any(s.level == DiagnosticStatus.ERROR and words in s.message for s in m.status),
    )

    assert any(str(folder) in status.message for status in told.status)
    assert node_under_test.state("grounding") == "unconfigured"
    shutil.rmtree(folder)
    shutil.copytree(NANO, folder)
    assert node_under_test.transition("grounding", "configure")
    assert node_under_test.transition("grounding", "activate")
    node_under_test.wait_for(
        "/diagnostics",
        lambda m: all(s.level != DiagnosticStatus.ERROR for s in m.status),
        after=len(node_under_test.received["/diagnostics"]),
    )


def values_of_engine(message):
    status = next(s for s in message.status if s.name == "grounding: engine")
    return status, {entry.key: entry.value for entry in status.values}


def test_diagnostics_name_the_engine_by_its_checksum_and_say_that_it_was_proven(node_under_test):
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.start(GroundingNode, diagnostics_period_s=0.1)
    told = node_under_test.wait_for("/diagnostics", lambda m: values_of_engine(m)[1])
    status, values = values_of_engine(told)
    assert status.level == DiagnosticStatus.OK
    assert values["checksum"] == Manifest.load(NANO).checksum[:12]
    assert values["self_test"].startswith("passed 20")
    assert "logits within" in values["self_test"]
    assert values["runtime"].startswith("onnxruntime ")
    assert (values["precision"], values["license"]) == ("float32", "Apache-2.0")


def test_an_engine_that_computes_something_else_is_refused_or_runs_with_a_warning(
    node_under_test, tmp_path
):
    """As on a machine whose runtime has a faulty kernel: whole files, other numbers."""
    folder = tmp_path / "engine"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
    golden = Golden.load(folder / GOLDEN_FILE)
    dataclasses.replace(golden, logits=golden.logits + np.float32(0.1)).save(folder / GOLDEN_FILE)
    manifest = Manifest.load(NANO)
    files = {**manifest.files, GOLDEN_FILE: file_entry(folder / GOLDEN_FILE)}
    dataclasses.replace(manifest, files=files).write(folder)
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.start(GroundingNode, engine=str(folder), diagnostics_period_s=0.1)

    def says(level):
        return lambda m: (
            values_of_engine(m)[0].level == level
            and "computes wrongly here" in values_of_engine(m)[0].message
        )

    refused = node_under_test.wait_for("/diagnostics", says(DiagnosticStatus.ERROR))
    assert "set self_test to `warn`" in values_of_engine(refused)[0].message
    assert node_under_test.state("grounding") == "unconfigured"

    assert node_under_test.set_parameter("grounding", "self_test", "warn").successful
    assert node_under_test.transition("grounding", "configure")
    told = node_under_test.wait_for("/diagnostics", says(DiagnosticStatus.WARN))
    assert values_of_engine(told)[1]["self_test"].startswith("failed 20")

    assert node_under_test.transition("grounding", "cleanup")
    assert node_under_test.set_parameter("grounding", "self_test", "off").successful
    assert node_under_test.transition("grounding", "configure")
    node_under_test.wait_for(
        "/diagnostics", lambda m: values_of_engine(m)[1].get("self_test") == "off"
    )


CURVE = CurveFacts(scores=(0.2, 0.6), probabilities=(0.3, 0.9), num_points=50)
CALIBRATION = CalibrationFacts(points=CURVE, tracks=CURVE, stills=10, clips=5, seed=100)


@pytest.mark.parametrize(
    ("calibration", "told"), [(CALIBRATION, "probability"), (None, "raw score")]
)
def test_it_says_whether_confidences_are_probabilities(
    node_under_test, tmp_path, calibration, told
):
    folder = tmp_path / "engine"
    shutil.copytree(NANO, folder)
    dataclasses.replace(Manifest.load(folder), calibration=calibration).write(folder)
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.start(GroundingNode, engine=str(folder), diagnostics_period_s=0.1)
    node_under_test.wait_for(
        "/diagnostics",
        lambda m: ("confidence", told) in [(v.key, v.value) for s in m.status for v in s.values],
    )


def test_a_device_that_is_not_there_is_named_and_another_one_works(node_under_test):
    """CUDA starts or is refused, by the machine; either way the parameter reaches the engine."""

    def tells(device):
        return lambda m: any(v.value == device for s in m.status for v in s.values)

    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.start(GroundingNode, device="cuda", diagnostics_period_s=0.1)
    node_under_test.wait_for(
        "/diagnostics",
        lambda m: tells("cuda")(m) or any("CUDAExecutionProvider" in s.message for s in m.status),
    )
    if node_under_test.state("grounding") == "active":
        assert node_under_test.transition("grounding", "deactivate")
        assert node_under_test.transition("grounding", "cleanup")
    assert node_under_test.set_parameter("grounding", "device", "cpu").successful
    assert node_under_test.transition("grounding", "configure")
    node_under_test.wait_for("/diagnostics", tells("cpu"))


def test_an_engine_is_changed_only_when_it_is_not_loaded(node_under_test):
    node_under_test.start(GroundingNode)

    refused = node_under_test.set_parameter("grounding", "engine", "/other")
    assert "deactivate and clean up first" in refused.reason

    assert node_under_test.transition("grounding", "deactivate")
    assert node_under_test.transition("grounding", "cleanup")
    assert node_under_test.set_parameter("grounding", "engine", "/other").successful
    assert not node_under_test.transition("grounding", "configure")


@pytest.mark.parametrize("apart_s", [0.002, 0.05])
def test_two_sigints_end_the_process_cleanly_while_it_answers(node_under_test, camera, apart_s):
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.start_process(
        "molmo2_ros.ros.grounding_node", queries="['count: mugs', 'track: the lemon']"
    )
    node_under_test.play(camera, rate_hz=5.0)
    node_under_test.wait_for("grounding/answer")

    node_under_test.interrupt(times=2, apart_s=apart_s)
    code, output = node_under_test.wait_for_exit()

    assert code == 0, output
    assert "Traceback" not in output


@pytest.mark.parametrize("apart_s", [None, 0.002, 0.05])
def test_an_interrupt_while_the_engine_loads_ends_the_process_without_a_word(
    node_under_test, apart_s
):
    node_under_test.start_process("molmo2_ros.ros.grounding_node")
    robot = node_under_test._robot
    node_under_test.until(lambda: "grounding" in robot.get_node_names(), "the node")
    node_under_test.interrupt(times=1 if apart_s is None else 2, apart_s=apart_s or 0.0)
    code, output = node_under_test.wait_for_exit()
    assert code == 0, output
    assert not re.search("Traceback|ERROR|FATAL|invalid|terminate", output), output


def test_deactivated_during_an_answer_it_ends_that_and_answers_again_when_active(
    node_under_test, camera
):
    encoding = threading.Event()

    def slow_engine(folder, **options):
        engine = load_engine(folder, **options)
        encode = engine.encode

        def slow_encode(*arguments):
            encoding.set()
            time.sleep(0.5)
            return encode(*arguments)

        engine.encode = slow_encode
        return engine

    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.start(GroundingNode, load=slow_engine, queries=["track: the lemon"])
    node_under_test.play(camera, rate_hz=5.0)
    node_under_test.wait_for("grounding/answer")

    for _ in range(3):
        encoding.clear()
        assert encoding.wait(PATIENCE_S), "an answer is being written"
        assert node_under_test.transition("grounding", "deactivate")
        assert node_under_test.state("grounding") == "inactive"
        time.sleep(0.2)  # what was published before is on its way
        num_before = len(node_under_test.received["grounding/answer"])
        time.sleep(1.0)
        assert len(node_under_test.received["grounding/answer"]) == num_before
        assert node_under_test.transition("grounding", "activate")
        node_under_test.wait_for("grounding/answer", after=num_before)


def test_cleaned_up_it_is_configured_with_another_engine_and_a_broken_one_and_the_first(
    node_under_test, camera, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(NANO, other)
    manifest = Manifest.load(other)
    dataclasses.replace(manifest, name="other-nano").write(other)
    broken = tmp_path / "broken"
    broken.mkdir()
    node_under_test.listen("grounding/queries", String, qos.state_qos())
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.start(GroundingNode, queries=["count: mugs"])
    node_under_test.play(camera, rate_hz=5.0)
    node_under_test.wait_for("grounding/answer")

    for engine, name in ((other, "other-nano"), (broken, ""), ("nano", "molmo2-nano")):
        for transition in ("deactivate", "cleanup"):
            if node_under_test.state("grounding") != "unconfigured":
                assert node_under_test.transition("grounding", transition)
        assert node_under_test.set_parameter("grounding", "engine", str(engine)).successful
        num_queries = len(node_under_test.received["grounding/queries"])
        assert node_under_test.transition("grounding", "configure") == bool(name)
        if not name:
            continue
        assert node_under_test.transition("grounding", "activate")
        num_answers = len(node_under_test.received["grounding/answer"])
        node_under_test.wait_for(
            "grounding/queries", lambda m, name=name: f'"{name}"' in m.data, after=num_queries
        )
        node_under_test.wait_for("grounding/answer", after=num_answers)
