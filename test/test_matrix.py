"""The corners of test/matrix.py: each pins what it is named after, and CI runs a second one."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("molmo2_matrix", ROOT / "test" / "matrix.py")
matrix = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = matrix  # dataclasses look their module up
_spec.loader.exec_module(matrix)


def pinned(corner, part):
    """Name to version of what pip is asked for on the corner's Python."""
    lines, _ = matrix.wanted(corner, part)
    found = {}
    for line in lines:
        text = line.split("#")[0].strip()
        if not text:
            continue
        requirement = Requirement(text)
        here = {"python_version": corner.split("-")[1]}
        if requirement.marker is None or requirement.marker.evaluate(here):
            version = str(requirement.specifier)
            assert found.setdefault(requirement.name, version) == version
    return found


@pytest.mark.parametrize("part", ["rooms", "whole"])
@pytest.mark.parametrize("corner", matrix.CORNERS)
def test_a_corner_pins_what_it_is_named_after(corner, part):
    distribution, _, numpy = corner.split("-")
    found = pinned(corner, part)
    assert found["ros-rclpy"] == {"kilted": "==9.1.2", "jazzy": "==7.1.6"}[distribution]
    assert found["numpy"].startswith(f"=={numpy.removeprefix('numpy')}.")
    assert {"onnxruntime", "opencv-python-headless", "pytest", "cyclonedds"} <= set(found)
    assert ("torch" in found) == (part == "whole")


def test_every_part_names_tests_that_are_there():
    named = {name for part in matrix.PARTS.values() for name in part} | {matrix.TALK}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_ci_runs_a_second_corner_of_another_distribution_python_and_numpy():
    (corner,) = re.findall(
        r"^corner=(\S+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert corner in matrix.CORNERS
    first = f"kilted-{sys.version_info[0]}.{sys.version_info[1]}-numpy2".split("-")
    assert first[0] != corner.split("-")[0]
    assert first[2] != corner.split("-")[2]


def test_an_unknown_corner_is_refused_with_those_that_there_are():
    said = subprocess.run(
        [sys.executable, ROOT / "test" / "matrix.py", "humble-3.10-numpy1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2
    assert re.search(
        r"unknown corner 'humble-3.10-numpy1'; expected all, or of kilted-3.10", said.stderr
    )
