"""Images and a question from a DDS that nobody here wrote, Eclipse Cyclone DDS without ROS."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import String

from molmo2_ros.ros import compat, qos

HERE = Path(__file__).parent


@pytest.fixture
def cyclone(domain_id, table_frames, tmp_path):
    """Cyclone DDS as a process that shows the table and asks for the red mug."""
    picture = str(tmp_path / "table.png")
    cv2.imwrite(picture, table_frames[0].image[:, :, ::-1])
    command = [sys.executable, str(HERE / "cyclonedds_side.py"), str(domain_id), picture]
    process = subprocess.Popen([*command, "point: the red mug"], stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    _, said = process.communicate()
    assert "Traceback" not in said, said


def test_a_publisher_without_ros_is_seen_and_its_question_answered(
    node_under_test, cyclone, monkeypatch
):
    node_under_test.listen("grounding/points", PointCloud2)
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    profile = str(HERE / "fastdds_without_types.xml")
    monkeypatch.setenv(compat.profile_variable(), profile)
    node_under_test.start_process("molmo2_ros.ros.grounding_node", image_reliability="reliable")

    seen = node_under_test.wait_for("grounding/points", lambda message: message.width > 0)
    answer = node_under_test.wait_for(
        "grounding/answer", lambda message: not json.loads(message.data)["partial"]
    )

    assert seen.header.frame_id == "foreign"
    assert json.loads(answer.data)["query"]["words"] == "the red mug"
