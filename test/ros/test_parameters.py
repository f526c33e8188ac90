"""The parameter dataclasses, their document and the shipped YAML files say the same."""

from pathlib import Path

import pytest
import yaml

from molmo2_ros.ros.parameter_docs import parameters_markdown
from molmo2_ros.ros.parameters import NODES
from molmo2_ros.ros.settings import settings_of, snapshot_from

ROOT = Path(__file__).parents[2]


def test_parameter_document_equals_the_code():
    written = (ROOT / "docs" / "parameters.md").read_text()

    assert written == parameters_markdown(), (
        "run: python -m molmo2_ros.ros.parameter_docs > docs/parameters.md"
    )


@pytest.mark.parametrize("node_name", NODES)
def test_every_default_is_a_value_that_is_accepted(node_name):
    cls = NODES[node_name]
    defaults = {name: about.default for name, about in settings_of(cls).items()}

    assert snapshot_from(cls, defaults) == cls()


@pytest.mark.parametrize("node_name", NODES)
def test_every_setting_has_one_sentence_and_a_unit_where_it_has_one(node_name):
    for about in settings_of(NODES[node_name]).values():
        assert about.description.endswith("."), about.name
        if about.name.endswith("_s"):
            assert about.unit == "s", about.name
        if about.name.endswith("_hz"):
            assert about.unit == "Hz", about.name


@pytest.mark.parametrize("node_name", NODES)
def test_the_shipped_yaml_is_accepted_and_names_every_parameter_but_the_source(node_name):
    cls = NODES[node_name]
    short = node_name.removesuffix("_node")
    content = yaml.safe_load((ROOT / "config" / f"{short}.param.yaml").read_text())

    values = content["/**"]["ros__parameters"]

    assert snapshot_from(cls, values) is not None
    unset = set(settings_of(cls)) - set(values)
    assert unset <= {"source", "engine", "query", "queries", "autostart"}
