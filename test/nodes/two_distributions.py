"""Nodes of two ROS distributions talk to each other; test/matrix.py runs it with --other.

MOLMO2_ROS_OTHER_PYTHON names the Python of the other one. The suite of one environment cannot have
two of them, so this file is none that it collects.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import String

from molmo2_ros.ros import qos
from molmo2_ros.ros.grounding_node import GroundingNode

ROOT = Path(__file__).parents[2]
OTHER = Path(os.environ["MOLMO2_ROS_OTHER_PYTHON"])
HAS_NEW_RCLPY = "import rclpy; print(hasattr(rclpy, 'InitContextManager'))"  # Kilted and later


@pytest.fixture
def other(monkeypatch):
    """Processes that the test starts belong to the other distribution from here on."""
    here = os.environ["AMENT_PREFIX_PATH"]
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    monkeypatch.setenv("LD_LIBRARY_PATH", ":".join(p for p in libraries if not p.startswith(here)))
    monkeypatch.delenv("_ROS_WHEELS_BOOTSTRAP_COMPLETE", raising=False)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(OTHER.parents[1]))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("sys.executable", str(OTHER))
    return OTHER


def test_the_two_are_of_different_distributions(other):
    import rclpy

    said = subprocess.run([other, "-c", HAS_NEW_RCLPY], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(not hasattr(rclpy, "InitContextManager"))


def test_a_camera_of_the_other_distribution_gives_points(node_under_test, other):
    node_under_test.listen("grounding/points", PointCloud2)
    node_under_test.start_process("molmo2_ros.ros.camera_node", width=320, height=240, rate_hz=5.0)
    node_under_test.start(
        GroundingNode, queries=["point: the red mug"], image_reliability="reliable"
    )

    seen = node_under_test.wait_for("grounding/points", lambda message: message.width > 0)

    assert seen.header.frame_id
    node_under_test.interrupt()
    code, said = node_under_test.wait_for_exit()
    assert code == 0, said


def test_a_grounding_node_of_the_other_distribution_is_asked_set_and_managed(
    node_under_test, camera, other
):
    node_under_test.listen("grounding/points", PointCloud2)
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.start_process("molmo2_ros.ros.grounding_node", image_reliability="reliable")
    node_under_test.play(camera, rate_hz=5.0)

    node_under_test.send("grounding/query", String(data="point: the red mug"))
    node_under_test.wait_for("grounding/points", lambda message: message.width > 0)
    assert node_under_test.set_parameter("grounding", "queries", ["count: mugs"]).successful
    refused = node_under_test.set_parameter("grounding", "queries", ["point: the spaceship"])
    node_under_test.wait_for(
        "grounding/answer", lambda m: json.loads(m.data)["query"]["kind"] == "count"
    )
    assert not refused.successful
    assert "does not know 'spaceship'" in refused.reason
    assert node_under_test.transition("grounding", "deactivate")
    assert node_under_test.state("grounding") == "inactive"
    assert node_under_test.transition("grounding", "activate")
