"""Where facts about a machine come from: its files, its commands, and Python in a process apart."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

_PATIENCE_S = 30  # a probe that takes longer hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a command left behind."""

    status: int  # 127 where there is no such command
    out: str = ""
    err: str = ""


def run_command(command: Sequence[str]) -> Output:
    """Run a command to its end; one that hangs is ended."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except OSError as error:
        return Output(status=127, err=str(error))
    except subprocess.TimeoutExpired:
        return Output(status=124, err=f"it did not end within {_PATIENCE_S} s")
    return Output(status=done.returncode, out=done.stdout, err=done.stderr)


def installed_packages() -> dict[str, str]:
    """Versions of the Python packages of this environment, by pip's names."""
    return {found.metadata["Name"]: found.version for found in distributions()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Where facts come from; a test puts another system's files and outputs here."""

    root: Path = Path("/")
    run: Callable[[Sequence[str]], Output] = run_command
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    packages: Mapping[str, str] = field(default_factory=installed_packages)
    uname: str = field(default_factory=platform.machine)
    python: tuple[int, int] = sys.version_info[:2]

    def text(self, path: str) -> str:
        """A file's content, "" where it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        """A file that holds one number."""
        text = self.text(path).strip()
        return int(text) if text.isdecimal() else None

    def output(self, command: Sequence[str]) -> str:
        """What a command prints, "" where it fails."""
        done = self.run(command)
        return done.out if done.status == 0 else ""

    def loaded(self, code: str) -> dict[str, Any]:
        """What Python code prints as JSON; where it fails, its last words under "error"."""
        done = self.run((sys.executable, "-c", code))
        try:
            found = json.loads(done.out.strip().splitlines()[-1])
        except (IndexError, ValueError):
            return {"error": _last_error(done)}
        return found if isinstance(found, dict) else {"error": f"it printed {found!r}"}


def _last_error(done: Output) -> str:
    """The line of a traceback that names the error, or whatever else a process said last."""
    lines = [line for line in done.err.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines or [f"it ended with status {done.status}"])[-1].strip()
