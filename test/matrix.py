"""Runs the tests on other corners of what users have: ROS distribution, Python, NumPy.

    python test/matrix.py                                  # list the corners
    python test/matrix.py jazzy-3.10-numpy1                # what depends on the corner
    python test/matrix.py all --json                       # every corner, one table at the end
    python test/matrix.py kilted-3.12-numpy2 --part whole  # the whole suite, with torch
    python test/matrix.py jazzy-3.10-numpy1 --other .venv/bin/python -- -k lifecycle

Each corner has an environment of its own, .venv-CORNER, made once from requirements/ and anew when
they change. With --other, a Python with ROS 2, its nodes talk to those of corners with the other
distribution (test/nodes/two_distributions.py). Whatever runs this needs pip 22.3 or later.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
DISTRIBUTIONS = {"kilted": "constraints.txt", "jazzy": "constraints-jazzy.txt"}
RCLPY = {"kilted": "ros-rclpy 9.", "jazzy": "ros-rclpy 7."}
PYTHONS = ("3.10", "3.11", "3.12")
INFERENCE = {"numpy1": "numpy1.txt", "numpy2": "inference.txt"}
CORNERS = ["-".join(corner) for corner in itertools.product(DISTRIBUTIONS, PYTHONS, INFERENCE)]
TALK = "test/nodes/two_distributions.py"
PARTS = {
    # Seconds, for CI: one node's life, messages both ways, and what rclpy does differently.
    "nodes": (
        "test/nodes/test_bad_input.py",
        "test/nodes/test_detections.py",
        "test/nodes/test_foreign_publisher.py",
        "test/nodes/test_grounding_lifecycle.py",
        "test/nodes/test_grounding_node.py",
        "test/ros",
    ),
    # What depends on ROS, Python or NumPy and needs no torch.
    "rooms": tuple(
        f"test/{room}" for room in ("answers", "camera", "nodes", "prompt", "ros", "tracking")
    ),
    "whole": (),
}
# Of test.txt, what the tests of the rooms themselves import.
TOOLS = (
    "cyclonedds",
    "hypothesis",
    "packaging",
    "pillow",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
)
MANY = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")


@dataclass(frozen=True)
class Outcome:
    """What one corner gave: pytest's counts, and how long environment and tests took."""

    corner: str
    versions: str
    passed: int
    failed: int
    environment_s: float
    tests_s: float


def interpreter(version: str) -> Path:
    """A Python of a version: from the path, or pyenv's, whose entries of the path may not run."""
    candidates = [
        shutil.which(f"python{version}"),
        *Path.home().glob(f".pyenv/versions/{version}*/bin/python"),
    ]
    for candidate in filter(None, candidates):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        said = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if said.stdout.strip() == version:
            return Path(candidate)
    raise SystemExit(f"no Python {version} found in the path or in ~/.pyenv/versions; install one")


def wanted(corner: str, part: str) -> tuple[list[str], list[str]]:
    """Requirements and constraints of a corner, one a line as pip reads them."""
    distribution, _, numpy = corner.split("-")
    files = [INFERENCE[numpy], f"{distribution}.txt", "simulation.txt", "web.txt", "top.txt"]
    files += ["training.txt", "test.txt"] if part == "whole" else []
    files += ["rerun.txt"] if part == "whole" and numpy == "numpy2" else []
    lines = [line for name in files for line in (REQUIREMENTS / name).read_text().splitlines()]
    if part != "whole":
        tools = (REQUIREMENTS / "test.txt").read_text().splitlines()
        lines += [line for line in tools if re.split("[=[]", line)[0] in TOOLS]
    constraints = (REQUIREMENTS / DISTRIBUTIONS[distribution]).read_text().splitlines()
    if numpy == "numpy1":  # the pinned ml-dtypes may want NumPy 2
        constraints = [line for line in constraints if not line.startswith("ml-dtypes")]
    return lines, constraints


def make_environment(corner: str, part: str) -> Path:
    """The environment of a corner, made where its requirements are not those of the last time."""
    folder = ROOT / f".venv-{corner}"
    python = folder / "bin" / "python"
    lines, constraints = wanted(corner, part)
    ready = (
        folder / f".ready-{hashlib.sha256(repr((lines, constraints)).encode()).hexdigest()[:12]}"
    )
    if ready.exists():
        return python
    version = corner.split("-")[1]
    subprocess.run(
        [interpreter(version), "-m", "venv", "--clear", "--without-pip", folder], check=True
    )
    asked, limits = folder / "requirements.txt", folder / "constraints.txt"
    asked.write_text("\n".join(lines))
    limits.write_text("\n".join(constraints))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "--disable-pip-version-check",
        "install",
        "-q",
    ]
    # Nothing is compiled that is never imported: a third of the time.
    subprocess.run([*pip, "--no-compile", "-c", limits, "-r", asked], check=True)
    if part == "whole":
        subprocess.run(
            [*pip, "--no-deps", "-r", REQUIREMENTS / "without_dependencies.txt"], check=True
        )
        subprocess.run([*pip, "--no-deps", "-e", ROOT], check=True)
    ready.touch()
    return python


def environment_of(python: Path) -> dict[str, str]:
    """Variables for a process of another environment whose ROS 2 came as wheels.

    Those that this process has from its own wheels would lead to their libraries.
    """
    environment = dict(os.environ)
    libraries = environment.pop("LD_LIBRARY_PATH", "").split(":")
    others = [path for path in libraries if path and not Path(path).is_relative_to(sys.prefix)]
    if others:
        environment["LD_LIBRARY_PATH"] = ":".join(others)
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    prefix = str(python.parent.parent)
    environment["AMENT_PREFIX_PATH"] = prefix
    environment["PATH"] = os.pathsep.join([f"{prefix}/bin", environment["PATH"]])
    environment["PYTHONPATH"] = str(ROOT)
    return environment


def versions_of(python: Path) -> str:
    """What the corner really has, as its own interpreter says."""
    code = (
        "import platform, importlib.metadata as m; print('Python', platform.python_version(), "
        "*(f'{n} {m.version(n)}' for n in ('numpy', 'ros-rclpy', 'onnxruntime')))"
    )
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def run_corner(corner: str, part: str, other: Path | None, pytest_arguments: list[str]) -> Outcome:
    """Make the environment and run the tests; pytest writes to this terminal."""
    began = time.monotonic()
    python = make_environment(corner, part)
    made = time.monotonic()
    environment = environment_of(python)
    tests = list(PARTS[part])
    if other is not None and not versions_of(other).count(RCLPY[corner.split("-")[0]]):
        environment["MOLMO2_ROS_OTHER_PYTHON"] = str(other.absolute())
        tests.append(TALK)
    report = python.parent.parent / "report.xml"
    command = [python, "-m", "pytest", "-q", f"--junitxml={report}", *MANY, *tests]
    print(f"{corner}: {versions_of(python)}", flush=True)
    subprocess.run([*command, *pytest_arguments], cwd=ROOT, env=environment, check=False)
    head = report.read_text(encoding="utf-8")[:2000] if report.exists() else ""
    counts = {
        name: int(number) for name, number in re.findall(r'(tests|failures|errors)="(\d+)"', head)
    }
    failed = counts.get("failures", 0) + counts.get("errors", 0) if counts else 1
    return Outcome(
        corner=corner,
        versions=versions_of(python),
        passed=counts.get("tests", 0) - failed if counts else 0,
        failed=failed,
        environment_s=round(made - began, 1),
        tests_s=round(time.monotonic() - made, 1),
    )


def main() -> int:
    """Read the command line, run the corners, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "corners", nargs="*", metavar="CORNER", help=f"all, or of {', '.join(CORNERS)}"
    )
    parser.add_argument("--part", choices=PARTS, default="rooms")
    parser.add_argument("--other", type=Path, help="a Python whose nodes are talked to")
    parser.add_argument("--prepare", action="store_true", help="make the environments alone")
    parser.add_argument("--json", action="store_true", help="the outcomes as one JSON object, last")
    before, _, after = "\0".join(sys.argv[1:]).partition("\0--\0")
    arguments = parser.parse_args(before.split("\0") if before else [])
    if not arguments.corners:
        print(*CORNERS, sep="\n")
        return 0
    corners = CORNERS if arguments.corners == ["all"] else arguments.corners
    unknown = [corner for corner in corners if corner not in CORNERS]
    if unknown:
        parser.error(f"unknown corner {unknown[0]!r}; expected all, or of {', '.join(CORNERS)}")
    if arguments.prepare:
        for corner in corners:
            make_environment(corner, arguments.part)
        return 0
    pytest_arguments = after.split("\0") if after else []
    outcomes = [
        run_corner(corner, arguments.part, arguments.other, pytest_arguments) for corner in corners
    ]
    print(f"{'corner':20} {'passed':>6} {'failed':>6} {'made in':>8} {'ran for':>8}  versions")
    for one in outcomes:
        print(
            f"{one.corner:20} {one.passed:6} {one.failed:6} {one.environment_s:6.1f} s "
            f"{one.tests_s:6.1f} s  {one.versions}"
        )
    if arguments.json:
        print(json.dumps({"part": arguments.part, "corners": [asdict(one) for one in outcomes]}))
    return int(any(one.failed or not one.passed for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
