"""The files of the containers: linted by hadolint, held against the package; none is built here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
HADOLINT = Path(sys.executable).parent / "hadolint"


def lint(text):
    said = subprocess.run(
        [HADOLINT, "--no-color", "-"], input=text, capture_output=True, text=True, check=False
    )
    return said.returncode, said.stdout + said.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_hadolint_has_nothing_to_say(file):
    assert lint(file.read_text(encoding="utf-8")) == (0, "")


def test_hadolint_sees_a_shell_that_goes_on_after_an_error():
    code, said = lint("FROM ubuntu:24.04\nRUN cd /tmp && curl -s http://example.org | sh\n")
    assert code == 1
    assert "DL4006" in said


def test_there_is_one_for_a_desktop_and_one_for_a_jetson():
    assert [file.stem for file in FILES] == ["desktop", "jetson"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_it_copies_starts_and_installs_is_there(file):
    text = file.read_text(encoding="utf-8")
    assert "NOT RUN BY US" in text
    assert f"docker build -f docker/{file.name}" in text
    entry = re.search(r'ENTRYPOINT \["/ros2_ws/src/molmo2_ros/(\S+)"\]', text)[1]
    assert (ROOT / entry).stat().st_mode & 0o100, "the entry point cannot be started"
    launched = re.search(r"ros2 launch molmo2_ros (\S+)", (ROOT / entry).read_text("utf-8"))[1]
    arguments = re.findall(r'<arg name="(\w+)"', (ROOT / "launch" / launched).read_text("utf-8"))
    assert set(re.findall(r"\b(\w+):=", text)) <= set(arguments)
    # No rosdep key of package.xml brings them; of the two onnxruntimes never both.
    for name in ("tokenizers", "numpy<2", "${ONNXRUNTIME}"):
        assert f'"{name}' in text
    assert "--skip-keys python3-onnxruntime-pip" in text


def test_the_context_leaves_out_what_git_does():
    left_out = set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    assert {".git", ".venv*", "build", "install", "log", "runs"} <= left_out
