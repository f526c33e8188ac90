"""What is asked for is pinned, has a licence that is told, and on a robot one that binds nobody."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location(
    "molmo2_dependencies", ROOT / "requirements" / "dependencies.py"
)
dependencies = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = dependencies
_spec.loader.exec_module(dependencies)

FILES = sorted((ROOT / "requirements").glob("*.txt"))
NOT_PINNED = {"cuda-bindings"}  # a CUDA build of torch asks for its own
PERMISSIVE = {"0BSD", "Apache-2.0", "BSD-3-Clause", "CC0-1.0", "MIT", "MPL-2.0", "PSF-2.0", "Zlib"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_package_is_pinned(file):
    loose = {
        name
        for name, version, _ in dependencies.requirements(file)
        if not re.fullmatch(r"==\d[\w.]*", version)
    }
    assert loose <= NOT_PINNED


def test_every_file_of_requirements_is_on_the_page():
    listed = {name for files in dependencies.GROUPS.values() for name in files}
    listed |= {dependencies.OTHER_NUMPY, "constraints.txt", "constraints-jazzy.txt"}
    assert listed == {file.name for file in FILES}


def test_the_page_tells_versions_and_licences_as_they_are():
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").rstrip("\n")
    assert page == dependencies.document(), "python requirements/dependencies.py > docs/..."
    assert not re.search(r"\| (not said|not installed here|UNKNOWN) \|", page)


@pytest.mark.parametrize("group", ["On a robot", "ROS 2 as Python wheels"])
def test_what_a_robot_gets_may_be_used_in_any_product(group):
    for row in dependencies.table(dependencies.GROUPS[group])[2:]:
        licence = row.split(" | ")[2]
        assert set(re.split(r" AND | OR ", licence)) <= PERMISSIVE, row


def test_a_line_that_is_no_requirement_is_refused(tmp_path):
    file = tmp_path / "bad.txt"
    file.write_text("numpy==1.26.4\n-r other.txt\n")
    with pytest.raises(ValueError, match=r"bad.txt holds '-r other.txt', expected NAME==VERSION"):
        list(dependencies.requirements(file))
