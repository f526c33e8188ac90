"""Every name in the launch files exists in the code: executables, arguments, parameters, topics."""

import importlib
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from molmo2_ros.ros.parameters import NODES, OF_EACH_CAMERA
from molmo2_ros.ros.settings import settings_of, snapshot_from

ROOT = Path(__file__).parents[2]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.xml"))
SHARE = "$(find-pkg-share molmo2_ros)/"


def table_topics(node_name):
    """Topics that docs/interfaces.md gives a node."""
    text = (ROOT / "docs" / "interfaces.md").read_text()
    section = re.split(r"^## ", text.split(f"\n## {node_name}\n")[1], flags=re.MULTILINE)[0]
    topics = set(re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE))
    return topics | {"image/compressed"} if "image" in topics else topics


def arguments_of(root):
    return {arg.get("name"): arg.get("default") for arg in root.findall("arg")}


def shipped(path):
    """The file in this tree that a $(find-pkg-share molmo2_ros) path names."""
    assert path.startswith(SHARE), path
    return ROOT / path.removeprefix(SHARE)


def checked_cameras(node_name, values):
    """A node's own parameters in a file, once those of each camera that it names are accepted."""
    cameras = [name for name in values.get("cameras", ()) if name]
    for name in cameras:
        snapshot_from(OF_EACH_CAMERA[node_name], values[name])
    return {name: value for name, value in values.items() if name not in cameras}


def cameras_of(launch, node):
    """Names of the cameras in the files of parameters that a node is given."""
    defaults = arguments_of(launch)
    named = []
    for param in node.findall("param"):
        if param.get("from"):
            file = defaults[re.fullmatch(r"\$\(var (\w+)\)", param.get("from"))[1]]
            content = yaml.safe_load(shipped(file).read_text())["/**"]["ros__parameters"]
            named += content.get("cameras", ())
    return named


def without_camera(topic, cameras):
    """A topic as the interfaces give it for a camera without a name."""
    first, _, rest = topic.partition("/")
    return rest if first in cameras and first else topic


@pytest.fixture(params=LAUNCH_FILES, ids=lambda path: path.name)
def launch(request):
    return ET.parse(request.param).getroot()


def test_every_launch_file_is_there():
    names = [path.name for path in LAUNCH_FILES]
    assert names == [
        "demo.launch.xml",
        "grounding.launch.xml",
        "multi_camera.launch.xml",
        "reach.launch.xml",
        "record.launch.xml",
        "web.launch.xml",
    ]


def test_every_variable_is_an_argument_with_a_description(launch):
    arguments = launch.findall("arg")
    used = set(re.findall(r"\$\(var (\w+)\)", ET.tostring(launch, encoding="unicode")))

    assert used == {arg.get("name") for arg in arguments}
    assert all(arg.get("description") for arg in arguments)


def test_every_executable_is_an_entry_point_of_setup_and_starts_a_main(launch):
    setup = (ROOT / "setup.py").read_text()
    for node in launch.findall("node"):
        executable = node.get("exec")
        assert node.get("pkg") == "molmo2_ros"
        assert f'"{executable} = molmo2_ros.ros.{executable}:main"' in setup
        assert callable(importlib.import_module(f"molmo2_ros.ros.{executable}").main)


def test_every_parameter_exists_and_its_default_is_accepted(launch):
    defaults = arguments_of(launch)
    for node in launch.findall("node"):
        cls = NODES[node.get("exec")]
        values = {}
        for param in node.findall("param"):
            if param.get("from"):
                name = re.fullmatch(r"\$\(var (\w+)\)", param.get("from"))[1]
                content = yaml.safe_load(shipped(defaults[name]).read_text())
                values.update(checked_cameras(node.get("exec"), content["/**"]["ros__parameters"]))
                continue
            name = re.fullmatch(r"\$\(var (\w+)\)", param.get("value"))[1]
            # launch reads the text of a parameter as YAML, unless its type is told.
            text = defaults[name]
            is_text = param.get("type") == "str"
            values[param.get("name")] = text if is_text else yaml.safe_load(text)
        assert values, node.get("exec")
        snapshot_from(cls, values)
        assert set(values) <= set(settings_of(cls))


def test_every_remapped_topic_is_one_of_the_node(launch):
    for node in launch.findall("node"):
        remapped = {
            without_camera(remap.get("from"), cameras_of(launch, node))
            for remap in node.findall("remap")
        }
        assert remapped <= table_topics(node.get("exec"))


def test_every_included_file_knows_the_arguments_that_it_is_given(launch):
    for include in launch.findall("include"):
        known = arguments_of(ET.parse(shipped(include.get("file"))).getroot())
        given = {arg.get("name") for arg in include.findall("arg")}
        assert given <= set(known)


def test_the_demo_asks_the_same_as_the_demonstration():
    from molmo2_ros.simulation import TABLE_QUERIES

    demo = ET.parse(ROOT / "launch" / "demo.launch.xml").getroot()

    assert tuple(yaml.safe_load(arguments_of(demo)["queries"])) == TABLE_QUERIES
