"""Presets, RViz and Foxglove name parameters, topics and fields that exist."""

import json
import re
from pathlib import Path

import pytest
import yaml

from molmo2_ros.ros.clouds import POINTS_DTYPE, TRACKS_DTYPE
from molmo2_ros.ros.parameters import NODES
from molmo2_ros.ros.settings import settings_of, snapshot_from

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
PRESETS = sorted((CONFIG / "presets").iterdir())
# What a display of RViz, or a panel of Foxglove, can show.
SHOWS = {
    "rviz_default_plugins/PointCloud2": "sensor_msgs/PointCloud2",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/MarkerArray",
    "rviz_default_plugins/PointStamped": "geometry_msgs/PointStamped",
    "rviz_default_plugins/Image": "sensor_msgs/CompressedImage",
}
FIELDS = {"/grounding/points": POINTS_DTYPE, "/grounding/tracks": TRACKS_DTYPE}


def topics():
    """Types of the topics of the node `grounding` in docs/interfaces.md, and of its camera."""
    text = (ROOT / "docs" / "interfaces.md").read_text()
    section = re.split(r"^## ", text.split("\n## grounding_node\n")[1], flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `(\S+)` \| (\w+_msgs/\w+) \|", section, flags=re.MULTILINE)
    named = {re.sub("^~", "/grounding", name): kind for name, kind in rows}
    return {name if name.startswith("/") else f"/{name}": kind for name, kind in named.items()}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_a_preset_changes_parameters_of_the_grounding_node_to_values_that_are_accepted(path):
    values = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    cls = NODES["grounding_node"]
    assert set(values) <= set(settings_of(cls))
    assert snapshot_from(cls, values) != cls()


def test_every_kind_of_machine_has_a_preset_and_jetsons_say_that_they_were_not_measured():
    assert [path.name.removesuffix(".param.yaml") for path in PRESETS] == [
        "cpu", "desktop", "jetson_orin", "jetson_thor",
    ]  # fmt: skip
    for path in PRESETS:
        is_jetson = "jetson" in path.name
        assert ("No plan has run on a Jetson yet" in path.read_text()) == is_jetson


def test_rviz_shows_topics_by_displays_that_can():
    content = yaml.safe_load((CONFIG / "molmo2.rviz").read_text())
    displays = content["Visualization Manager"]["Displays"]
    shown = {d["Topic"]["Value"]: d for d in displays if "Topic" in d}
    kinds = topics()
    assert {name: SHOWS[display["Class"]] for name, display in shown.items()} == {
        name: kinds[name] for name in shown
    }
    assert {"/grounding/points", "/grounding/overlay/compressed", "/grounding/target"} <= set(shown)
    for name, fields in FIELDS.items():
        assert shown[name]["Channel Name"] in fields.names


def test_foxglove_shows_topics_and_fields_that_exist_in_panels_that_are_placed():
    content = json.loads((CONFIG / "molmo2.foxglove.json").read_text())
    panels, kinds = content["configById"], {**topics(), "/diagnostics": "DiagnosticArray"}

    def placed(node):
        if isinstance(node, str):
            return [node]
        return placed(node["first"]) + placed(node["second"])

    assert sorted(placed(content["layout"])) == sorted(panels)
    text = json.dumps(panels)
    named = set(re.findall(r'"(/[a-z_/0-9]+)(?:\.\w+)?"', text))
    assert named <= set(kinds)
    assert {"/grounding/points", "/grounding/overlay/compressed", "/diagnostics"} <= named
    for name, fields in FIELDS.items():
        assert panels["3D!space"]["topics"][name]["colorField"] in fields.names
    publish = panels["Publish!ask"]
    assert publish["datatype"] == kinds[publish["topicName"]].replace("/", "/msg/")
    assert set(json.loads(publish["value"])) == {"data"}
