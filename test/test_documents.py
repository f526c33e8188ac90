"""What the documents tell to type and to open is there: links, commands, arguments, targets."""

import argparse
import importlib.util
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from molmo2_ros.cli.main import build_parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def anchors(document):
    """Anchors of a document's headings, as its host makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def commands(document):
    """Lines of the shell in a document, continued ones joined, comments left out."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    blocks += re.findall(r"^    (molmo2 .*)$", text, re.MULTILINE)
    blocks += re.findall(
        r"`((?:molmo2|make|python -m|python benchmarks/|ros2 launch) [^`]*)`", text
    )
    for line in "\n".join(blocks).splitlines():
        yield from filter(None, re.split(r" && |; |\|", line.split(" #")[0].strip()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_to_files_and_headings(document):
    text = document.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def subparsers(parser):
    """Parsers of a parser's commands, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_options_of_molmo2_are_those_of_the_command(document):
    for line in commands(document):
        found = re.search(r"(?:^|\s|/)molmo2 ([a-z].*)", line)
        if not found or "pip " in line:
            continue
        parser = build_parser()
        words = re.split(r"\s+", found[1])
        while words and words[0] in subparsers(parser):
            parser = subparsers(parser)[words.pop(0)]
        assert parser.prog != "molmo2", f"{line!r}: no such command"
        known = {option for action in parser._actions for option in action.option_strings}
        told = set(re.findall(r"(?<=\s)--[a-z][\w-]*", " ".join(["", *words])))
        assert told <= known, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_launch_files_and_their_arguments_are_there(document):
    for line in commands(document):
        found = re.search(r"ros2 launch molmo2_ros (\S+\.launch\.\w+)(.*)", line)
        if not found:
            continue
        root = ElementTree.parse(ROOT / "launch" / found[1]).getroot()
        arguments = {element.get("name") for element in root.iter("arg")}
        assert set(re.findall(r"(?:^|\s)(\w+):=", found[2])) <= arguments, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_scripts_modules_and_targets_are_there(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for line in commands(document):
        for script in re.findall(r"(?:^|\s)python3? ((?:benchmarks|test|docs)/\S+\.py)", line):
            assert (ROOT / script).is_file(), line
        for module in re.findall(r"python3? -m (molmo2_ros\.[\w.]+)", line):
            assert importlib.util.find_spec(module) is not None, line
        for target in re.findall(r"^make ([a-z][a-z-]*)", line):
            assert target in targets, line
        for config in re.findall(r"training/configs/\w+\.yaml", line):
            assert (ROOT / config).is_file(), line


def test_commands_are_seen_where_they_are_written():
    told = [line for document in DOCUMENTS for line in commands(document)]
    assert sum("molmo2 " in line for line in told) > 40
    assert sum(line.startswith("ros2 launch") for line in told) > 8
    for line in told:
        if "'" not in line and '"' not in line:
            shlex.split(line)


def test_the_picture_of_the_architecture_is_as_its_script_draws_it():
    drawn = subprocess.run(
        [sys.executable, ROOT / "docs" / "architecture_picture.py"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert drawn == (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    rooms = set(re.findall(r">(\w+)/</text>", drawn))
    folders = {path.name for path in (ROOT / "molmo2_ros").iterdir() if path.is_dir()}
    assert rooms == folders - {"__pycache__"}
