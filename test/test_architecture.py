"""The rules of the house: who imports whom, what is a link, how long files are, README's tree."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 600
# What a robot needs for none of its answers, or only when asked for it.
ON_USE_ONLY = (
    "torch",
    "transformers",
    "onnx",
    "mujoco",
    "moderngl",
    "rclpy",
    "fastapi",
    "uvicorn",
    "molmo2_ros.training",
)
BANNED_NAMES = ("utils", "helpers", "manager", "base", "misc")


def tracked_files():
    """Every file of the repository, relative to the root; links are not followed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [name for name in listed.split("\0") if name]


def python_files():
    return [ROOT / name for name in tracked_files() if name.endswith(".py")]


def test_rooms_import_only_what_stands_before_them():
    # In a process of its own: import-linter disables every logger that there is.
    code = (
        "import sys; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(config_filename='pyproject.toml', cache_dir=None))"
    )
    linted = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_import_linter_sees_through_the_links():
    import grimp

    modules = grimp.build_graph("molmo2_ros", cache_dir=None).modules
    assert {"molmo2_ros.engines.export", "molmo2_ros.training.nano.train"} <= modules


@pytest.mark.parametrize(
    "module", ["molmo2_ros", "molmo2_ros.grounder", "molmo2_ros.overlay", "molmo2_ros.cli.main"]
)
def test_heavy_packages_are_imported_on_use_only(module):
    code = f"import sys, {module}\nprint([name for name in {ON_USE_ONLY!r} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert loaded.strip() == "[]"


def test_nodes_import_neither_torch_nor_mujoco():
    code = (
        "import sys, molmo2_ros.ros.camera_node, molmo2_ros.ros.grounding_node\n"
        "heavy = ('torch', 'transformers', 'onnx', 'mujoco', 'moderngl', 'fastapi', 'uvicorn', "
        "'molmo2_ros.training')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("name", ["engines", "training"])
def test_engines_and_training_are_reached_by_links_to_folders(name):
    link = ROOT / "molmo2_ros" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", name)
    assert link.is_dir()
    mode = subprocess.run(
        ["git", "ls-files", "-s", f"molmo2_ros/{name}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()[0]
    assert mode == "120000", "git holds no symbolic link here"


@pytest.mark.parametrize("line", ["import engines", "from training import train"])
def test_ruff_bans_the_bare_names_of_linked_folders(line):
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--select",
            "TID251",
            "--stdin-filename",
            "x.py",
            "-",
        ],
        cwd=ROOT,
        input=f"{line}\n",
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "TID251" in result.stdout


def test_no_file_is_longer_than_a_sitting():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert {path: num for path, num in lengths.items() if num > MAX_LINES} == {}


def test_no_file_has_a_name_that_says_nothing():
    assert [path for path in python_files() if path.stem in BANNED_NAMES] == []


def test_every_module_says_what_it_is_for():
    modules = [path for path in python_files() if "test" not in path.relative_to(ROOT).parts]
    assert [path for path in modules if not re.match('r?"""', path.read_text("utf-8"))] == []


def test_test_folder_has_no_packages():
    assert [
        name for name in tracked_files() if re.fullmatch(r"test/(.*/)?__init__\.py", name)
    ] == []


def readme_tree():
    """Paths that the tree of README.md lists, relative to the root.

    Worked example: the lines "camera/   light" and "  clip.py   frames" give "camera/clip.py".
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- tree -->\n+```text\n(.*?)```", text, re.DOTALL)
    assert block, "README.md has no block ```text after the mark <!-- tree -->"
    folders, paths = [], []
    for line in block[1].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
        else:
            assert len(line.split()) > 1, f"README.md says nothing about {name}"
            paths.append("".join(folders) + name)
    return paths


def test_readme_lists_every_file_and_nothing_else():
    listed = readme_tree()
    exempt = re.compile(r"engines/nano/|training/configs/|docs/images/|.*/__init__\.py$")
    expected = {name for name in tracked_files() if not exempt.match(name)}
    listed_files = {name for name in listed if not exempt.match(name)}
    assert len(listed) == len(set(listed))
    assert sorted(expected - listed_files) == [], "missing in the tree of README.md"
    assert sorted(listed_files - expected) == [], "listed in the tree of README.md, but not there"


def test_nothing_asks_for_work_that_is_not_done():
    words = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b|NotImplemented" r"Error")
    found = [path for path in python_files() if words.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_no_test_can_be_left_out_silently():
    words = re.compile(r"\b(importor" r"skip|sk" r"ip(if)?\(|mark\.sk" r"ip|xf" r"ail)")
    needs_videos = ROOT / "test" / "tracking" / "test_footage.py"  # says how to get them
    needs_egl = ROOT / "test" / "simulation" / "test_egl.py"  # a driver, which pip cannot bring
    needs_wheels = ROOT / "test" / "engines" / "test_tensorrt_rtx.py"  # a licence; CI has them
    needs_modelopt = ROOT / "test" / "engines" / "test_modelopt_forms.py"  # says how to get it
    found = {
        path: len(words.findall(path.read_text(encoding="utf-8")))
        for path in python_files()
        if "test" in path.relative_to(ROOT).parts
    }
    assert {path: number for path, number in found.items() if number} == {
        needs_videos: 1,
        needs_egl: 1,
        needs_wheels: 1,
        needs_modelopt: 1,
    }
