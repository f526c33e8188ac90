"""The sources as texts: style, layout, types, spelling; pyproject.toml configures the linters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_tool(*arguments):
    """Run a tool of this interpreter's environment in the root; what it says is the message."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    result = subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{' '.join(arguments)}\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_ruff_has_nothing_to_say(command):
    run_tool("ruff", *command.split(), "--no-cache", ".")


@pytest.mark.timeout(900)
def test_types_hold_under_mypy_strict():
    run_tool("mypy")


def test_words_are_spelled_right():
    run_tool("codespell")
