"""Lists every package that is asked for, with version and licence: docs/dependencies.md.

    python requirements/dependencies.py > docs/dependencies.md

Versions come from the files beside this one, licences from what the installed packages say of
themselves (an environment of `make env`). Known holes are another tool's: see SECURITY.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent
GROUPS = {
    "On a robot": {
        "inference.txt": "answering",
        "web.txt": "the live page, the recorder",
        "simulation.txt": "the simulated table",
        "top.txt": "`molmo2 top`",
        "rerun.txt": "`molmo2 ask --rerun`",
    },
    "ROS 2 as Python wheels": {"kilted.txt": "Kilted", "jazzy.txt": "Jazzy"},
    "For training and exporting": {"training.txt": "training"},
    "For the suite alone": {
        "test.txt": "tests and linters",
        "tensorrt-rtx.txt": "the lint of engines",
        "without_dependencies.txt": "references",
    },
}
OTHER_NUMPY = "numpy1.txt"  # the same packages as inference.txt in older versions
HEAD = """\
# Dependencies

Every package that is asked for, as it was tested; what these bring along is pinned in
`requirements/constraints.txt`. `python requirements/dependencies.py` makes this page, and
test/test_dependencies.py holds it true. The package itself is Apache-2.0."""
TAIL = """\
`requirements/numpy1.txt` has the older versions that go with NumPy 1.26. An installed ROS 2 brings
its own NumPy, OpenCV and SciPy (package.xml); bounds for pip are in setup.py. OpenCV's wheels hold
FFmpeg under the LGPL-2.1; nothing on a robot is under the GPL."""
SPDX = {  # of words that packages use
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache License Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Other/Proprietary License": "proprietary",
    "GPL v2": "GPL-2.0",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0",
}
# Where a package says nothing of use, or is not there for every Python: read in its licence file.
BY_HAND = {
    "axe-playwright-python": "MIT",
    "mujoco": "Apache-2.0",
    "mujoco-core": "Apache-2.0",
    "pytest-timeout": "MIT",
    "setuptools": "MIT",
}


def requirements(file: Path) -> Iterator[tuple[str, str, str]]:
    """Name, specifier and marker of each line of a requirements file.

    Raises:
        ValueError: a line is none.
    """
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if not text:
            continue
        found = re.fullmatch(r"([A-Za-z][\w.-]*)(?:\[[\w,]+\])?([^;]*?)(?:\s*;\s*(.*))?", text)
        if found is None:
            raise ValueError(f"{file.name} holds {text!r}, expected NAME==VERSION; MARKER")
        yield found[1], found[2].strip(), found[3] or ""


def licence(name: str) -> str:
    """What an installed package says of its licence, as SPDX where that is clear."""
    if name in BY_HAND:
        return BY_HAND[name]
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return "not installed here"
    told = [about.get("License-Expression")]
    classifiers = about.get_all("Classifier") or []
    told += [text.split(" :: ")[-1] for text in classifiers if text.startswith("License :: ")]
    told.append((about.get("License") or "").strip().split("\n")[0])
    manifest = Path(sys.prefix, "share", name.removeprefix("ros-").replace("-", "_"), "package.xml")
    if name.startswith("ros-") and manifest.is_file():
        told.append(ElementTree.parse(manifest).findtext("license"))
    words = next((text for text in told if text and text != "OSI Approved"), "not said")
    return SPDX.get(words, words)


def table(files: dict[str, str]) -> list[str]:
    """Rows of one group, a package each."""
    versions: dict[str, list[str]] = {}
    purposes: dict[str, str] = {}
    for file, purpose in files.items():
        for name, specifier, marker in requirements(HERE / file):
            python = re.search(r'python_version (\S+) "([\d.]+)"', marker)
            shown = specifier.removeprefix("==") + (
                f" (Python {python[1]} {python[2]})" if python else ""
            )
            versions.setdefault(name, [])
            if shown not in versions[name]:
                versions[name].append(shown)
            purposes.setdefault(name, purpose)
    rows = ["| package | version | licence | for |", "|---|---|---|---|"]
    for name in sorted(versions):
        rows.append(
            f"| {name} | {', '.join(versions[name])} | {licence(name)} | {purposes[name]} |"
        )
    return rows


def document() -> str:
    """The whole of docs/dependencies.md."""
    lines = [HEAD]
    for group, files in GROUPS.items():
        lines += ["", f"## {group}", "", *table(files)]
    return "\n".join([*lines, "", TAIL])


if __name__ == "__main__":
    print(document())
