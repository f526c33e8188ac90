"""The SROS 2 policy allows each node what it does over DDS, and nothing else."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from molmo2_ros.ros import compat
from molmo2_ros.ros.arm_node import ArmNode
from molmo2_ros.ros.camera_node import CameraNode
from molmo2_ros.ros.grounding_node import GroundingNode
from molmo2_ros.ros.recorder_node import RecorderNode
from molmo2_ros.ros.web_node import WebNode

POLICY = Path(__file__).parents[2] / "config" / "sros2.policy.xml"
SIDES = ("publish", "subscribe", "reply", "request")
# What a node does only beside packages that these wheels lack.
ELSEWHERE = {
    "grounding": {
        **dict.fromkeys(["/grounding/detections", "/grounding/detections_3d"], "publish"),
        **dict.fromkeys(["/tf", "/tf_static"], "subscribe"),
    }
}
# With use_sim_time; and a process has one publisher of logs for all nodes of a name, also for one
# that an earlier test left behind.
SOMETIMES = {("subscribe", "/clock"), ("publish", "/rosout")}


def allowed(node_name):
    """(side, absolute name) of all rules of a node's profile, as sros2 expands names."""
    (profile,) = ElementTree.parse(POLICY).findall(f".//profile[@node='{node_name}']")
    assert profile.get("ns") == "/"
    rules = set()
    for group in profile:
        sides = [side for side in SIDES if group.get(side) == "ALLOW"]
        assert sides
        for rule in group:
            name = rule.text.strip()
            if name.startswith("~"):
                name = f"/{node_name}{name[1:]}"
            elif not name.startswith("/"):
                name = f"/{name}"
            rules |= {(side, name) for side in sides}
    return rules


def done(node, node_name):
    """(side, absolute name) of all that a node does, as the ROS graph tells."""
    found = {
        "publish": node.get_publisher_names_and_types_by_node(node_name, "/"),
        "subscribe": node.get_subscriber_names_and_types_by_node(node_name, "/"),
        "reply": node.get_service_names_and_types_by_node(node_name, "/"),
        "request": node.get_client_names_and_types_by_node(node_name, "/"),
    }
    return {(side, name) for side, names in found.items() for name, _ in names}


COMPRESSED = {"image_transport": "compressed"}
CASES = [
    (GroundingNode, "grounding", {}),
    (GroundingNode, "grounding", COMPRESSED),
    (CameraNode, "camera", {"source": "reach", "table_width": 64, "table_height": 48}),
    (RecorderNode, "recorder", {}),
    (RecorderNode, "recorder", COMPRESSED),
    (ArmNode, "arm", {}),
    (WebNode, "web", {"port": 0}),
    (WebNode, "web", {"port": 0, **COMPRESSED}),
]


@pytest.mark.parametrize(("node_class", "node_name", "parameters"), CASES)
def test_the_policy_allows_what_a_node_does_and_nothing_else(
    node_under_test, tmp_path, node_class, node_name, parameters
):
    folder = {"folder": str(tmp_path)} if node_class is RecorderNode else {}
    seen = done(node_under_test.start(node_class, **parameters, **folder), node_name)
    rules = allowed(node_name)
    assert seen - rules == set(), "done and not allowed"
    elsewhere = {(side, name) for name, side in ELSEWHERE.get(node_name, {}).items()}
    if compat.vision_msgs() is not None:
        assert {rule for rule in elsewhere if "detections" in rule[1]} <= seen
    if node_class is not CameraNode and node_class is not ArmNode:  # one of the two transports
        other = "/image" if parameters.get("image_transport") else "/image/compressed"
        elsewhere.add(("subscribe", other))
    assert rules - seen - elsewhere - SOMETIMES == set(), "allowed and never done"
    assert elsewhere | SOMETIMES <= rules


def test_every_node_has_an_enclave_and_the_page_may_live_in_the_grounding_node_s_process():
    root = ElementTree.parse(POLICY).getroot()
    assert (root.tag, root.get("version")) == ("policy", "0.2.0")
    enclaves = {
        enclave.get("path"): [profile.get("node") for profile in enclave.iter("profile")]
        for enclave in root.iter("enclave")
    }
    assert sorted(node for nodes in enclaves.values() for node in nodes) == sorted(
        {node_name for _, node_name, _ in CASES}
    )
    assert all(path.startswith("/molmo2_ros/") for path in enclaves)
