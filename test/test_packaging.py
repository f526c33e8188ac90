"""The package as others get it: a wheel without ROS, and colcon's two kinds of workspace."""

import ast
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import cv2
import pytest

from molmo2_ros.simulation.source import TableSource

ROOT = Path(__file__).parents[1]
COMMANDS = ("molmo2", "arm_node", "camera_node", "grounding_node")
# Packages of Python and of ROS 2 that go by another name in package.xml.
ROSDEP_KEYS = {
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "onnxruntime": "python3-onnxruntime-pip",
    "scipy": "python3-scipy",
    "tqdm": "python3-tqdm",
    "yaml": "python3-yaml",
}
PIP_NAMES = {"cv2": "opencv-python-headless", "yaml": "pyyaml"}
NO_ROSDEP_KEY = {"tokenizers"}  # README.md tells to install it with pip
BROUGHT_BY_OTHERS = {"builtin_interfaces"}  # every message package depends on it
EXTRAS = {"mujoco"}


def run(*arguments, cwd, **environment):
    """Run a command with the tools of this interpreter's environment first in the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        arguments,
        cwd=cwd,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{' '.join(arguments)}\n{result.stdout}{result.stderr}"
    return result.stdout


def copy_checkout(folder):
    """The files that git holds, links as links: a build leaves nothing in the source tree."""
    for name in filter(None, run("git", "ls-files", "-z", cwd=ROOT).split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = copy_checkout(tmp_path_factory.mktemp("source"))
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    run(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=source)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module", params=["copied", "linked"])
def workspace(request, tmp_path_factory):
    """A colcon workspace that holds the package, built without and with --symlink-install."""
    folder = tmp_path_factory.mktemp(request.param)
    copy_checkout(folder / "src" / "molmo2_ros")
    options = ["--symlink-install"] if request.param == "linked" else []
    run("colcon", "build", "--event-handlers", "console_direct+", *options, cwd=folder)
    return folder


def within(workspace, command, cwd=None):
    """Run a command in a shell that has sourced the workspace."""
    script = f"source {workspace}/install/setup.bash && {command}"
    return run("bash", "-c", script, cwd=cwd or workspace.parent, PYTHONPATH="")


def test_wheel_holds_every_room_and_the_embedded_engine(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    rooms = {name for name in tracked if re.match(r"molmo2_ros/.*\.py$", name)}
    linked = {
        f"molmo2_ros/{name}"
        for name in tracked
        if re.match(r"(engines|training)/.*\.py$|engines/nano/|training/configs/", name)
    }
    assert rooms | linked <= names


def test_wheel_installs_nothing_beside_the_package(wheel):
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name.split("-")[0] for name in top} == {"molmo2_ros"}


def test_pip_installs_a_working_command(wheel, tmp_path):
    options = ["--no-deps", "--no-index", "-q", "--prefix", str(tmp_path)]
    run(sys.executable, "-m", "pip", "install", *options, str(wheel), cwd=tmp_path)
    site = next(tmp_path.glob("lib/python*/site-packages"))
    said = run(str(tmp_path / "bin" / "molmo2"), "--help", cwd=tmp_path, PYTHONPATH=str(site))
    assert "ask" in said


def test_colcon_puts_the_package_where_ros2_looks(workspace):
    code = (
        "from pathlib import Path\n"
        "from ament_index_python.packages import get_package_share_directory as share\n"
        "print(*sorted(p.name for d in ('launch', 'config') for p in "
        "Path(share('molmo2_ros'), d).iterdir()), Path(share('sensor_msgs')).name)\n"
    )
    found = within(workspace, f'python -c "{code}"').split()
    files = [path.name for folder in ("launch", "config") for path in (ROOT / folder).iterdir()]
    assert found == [*sorted(files), "sensor_msgs"]


@pytest.mark.parametrize("command", COMMANDS)
def test_colcon_installs_what_ros2_run_starts(workspace, command):
    assert os.access(workspace / f"install/molmo2_ros/lib/molmo2_ros/{command}", os.X_OK)


def test_installed_commands_find_the_package_and_its_engine(workspace, tmp_path):
    command = workspace / "install/molmo2_ros/lib/molmo2_ros/molmo2"
    assert "ask" in within(workspace, f"{command} --help", cwd=tmp_path)
    code = (
        "import molmo2_ros.engines.checkpoint, molmo2_ros.training.config, pathlib\n"
        "home = pathlib.Path(molmo2_ros.__file__).parent\n"
        "print(home, *sorted(path.name for path in home.glob('engines/nano/*.onnx')))"
    )
    home, *graphs = within(workspace, f'python -c "{code}"', cwd=tmp_path).split()
    assert home.startswith(str(workspace))
    assert graphs == ["decoder.onnx", "vision.onnx"]


def test_colcon_test_runs_pytest_and_counts_its_tests(workspace):
    """Without an extra named test colcon turns to unittest, finds nothing and reports success."""
    within(
        workspace,
        "colcon test --return-code-on-test-failure --pytest-args test/camera/test_frame.py",
        cwd=workspace,
    )
    summary = within(workspace, "colcon test-result", cwd=workspace)
    counted = re.search(r"Summary: (\d+) tests, 0 errors, 0 failures, 0 skipped", summary)
    assert counted, summary
    assert int(counted[1]) > 0


@pytest.mark.parametrize("name", ["engines", "training"])
def test_setup_refuses_a_checkout_without_links(name, tmp_path):
    source = copy_checkout(tmp_path)
    (source / "molmo2_ros" / name).unlink()
    (source / "molmo2_ros" / name).write_text(f"../{name}")
    result = subprocess.run(
        [sys.executable, "setup.py", "--name"],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert re.search(rf"molmo2_ros/{name} is not a folder.*core\.symlinks true", result.stderr)


def third_party_imports(*folders):
    """Names of the packages that the files below some folders import; links are not followed."""
    names = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"molmo2_ros"} - EXTRAS


def requirement_names(text):
    return {
        match[1].lower() for match in re.finditer(r"^\s*\"?([A-Za-z][\w.-]*)", text, re.MULTILINE)
    }


def test_package_xml_names_all_that_the_nodes_import():
    needed = third_party_imports("molmo2_ros") - NO_ROSDEP_KEY - BROUGHT_BY_OTHERS
    keys = {element.text for element in ElementTree.parse(ROOT / "package.xml").iter("exec_depend")}
    assert sorted({ROSDEP_KEYS.get(name, name) for name in needed} - keys) == []


def test_setup_and_package_xml_tell_the_same_version():
    version = ElementTree.parse(ROOT / "package.xml").findtext("version")
    assert f'version="{version}"' in (ROOT / "setup.py").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(version)} ", changes, re.MULTILINE)


def test_demo_installs_neither_torch_nor_transformers():
    pinned = "".join(
        (ROOT / "requirements" / name).read_text(encoding="utf-8")
        for name in ("inference.txt", "kilted.txt", "simulation.txt")
    )
    assert not requirement_names(pinned) & {"torch", "transformers", "onnx", "torchvision"}


def test_every_requirement_of_the_package_is_pinned_for_the_demo():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    wanted = requirement_names(re.search(r"install_requires=\[\n(.*?)\]", setup, re.DOTALL)[1])
    pinned = (ROOT / "requirements" / "inference.txt").read_text(encoding="utf-8")
    assert wanted <= requirement_names(pinned)
    imported = third_party_imports(
        *(f"molmo2_ros/{room}" for room in ("camera", "prompt", "runtime", "answers", "tracking"))
    )
    assert {PIP_NAMES.get(name, name) for name in imported} <= wanted


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("VIDEO=cup.mp4", "--video cup.mp4"),
        ("CAMERA=/dev/video2", "--camera /dev/video2"),
        ('QUERY=point: the "big" mug', '--query point: the "big" mug'),
    ],
)
def test_make_demo_hands_source_and_question_on(given, told, tmp_path):
    recipe = run("make", "-n", "demo", given, cwd=ROOT)
    arguments = recipe.split("python -m molmo2_ros.ros.demo")[1].replace("\\\n", " ")
    name, value = given.split("=", 1)
    assert run("bash", "-c", f"echo {arguments}", cwd=tmp_path, **{name: value}).strip() == told


def test_python_example_of_readme_runs(tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[1]
    table = TableSource(seed=1)
    cv2.imwrite(str(tmp_path / "table.png"), table.read().image[:, :, ::-1])
    said = run(
        sys.executable, "-c", f"{code}\nprint(answer.text)", cwd=tmp_path, PYTHONPATH=str(ROOT)
    )
    assert said.strip()
