"""The package as others get it: a wheel without ROS, and colcon's two kinds of workspace."""

import ast
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from email import message_from_bytes
from pathlib import Path

import cv2
import pytest
import rclpy
from packaging.requirements import Requirement
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import PointCloud2

from molmo2_ros.ros import qos
from molmo2_ros.simulation.source import TableSource

ROOT = Path(__file__).parents[1]
COMMANDS = ("molmo2", "arm_node", "camera_node", "grounding_node", "web_node")
PATIENCE_S = 120.0  # a busy machine; nothing waits this long when all is well
# Packages of Python and of ROS 2 that go by another name in package.xml.
ROSDEP_KEYS = {
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "hypothesis": "python3-hypothesis",
    "mujoco": "python3-mujoco-pip",
    "numpy": "python3-numpy",
    "onnxruntime": "python3-onnxruntime-pip",
    "pytest": "python3-pytest",
    "scipy": "python3-scipy",
    "tqdm": "python3-tqdm",
    "yaml": "python3-yaml",
}
PIP_NAMES = {
    "PIL": "pillow",
    "axe_playwright_python": "axe-playwright-python",
    "cv2": "opencv-python-headless",
    "huggingface_hub": "huggingface-hub",
    "importlinter": "import-linter",
    "mujoco": "mujoco-core" if sys.version_info >= (3, 11) else "mujoco",
    "onnx_ir": "onnx-ir",
    "rerun": "rerun-sdk",
    "yaml": "pyyaml",
}
NO_ROSDEP_KEY = {"rosbags", "tokenizers"}  # README.md tells to install it with pip
# CONTRIBUTING.md tells to install these with pip.
NO_ROBOT_NEEDS = {
    "axe_playwright_python",
    "cyclonedds",
    "fastapi",
    "huggingface_hub",
    "importlinter",
    "matplotlib",
    "moderngl",
    "onnx",
    "onnx_ir",
    "peft",
    "playwright",
    "pyarrow",
    "pycocotools",
    "ray",
    "rerun",
    "rich",
    "safetensors",
    "schemathesis",
    "textual",
    "torch",
    "torchvision",
    "trackeval",
    "transformers",
    "uvicorn",
    "websockets",
}
# With rosidl_default_generators, and with the wheels of rclpy.
ROSIDL = {
    "rosidl_adapter",
    "rosidl_generator_c",
    "rosidl_generator_py",
    "rosidl_generator_type_description",
    "rosidl_typesupport_c",
    "rosidl_typesupport_fastrtps_c",
    "rosidl_typesupport_introspection_c",
}
# builtin_interfaces with every message package, grimp with import-linter, packaging with pytest.
# trackeval asks for a second OpenCV in the same folder; its tests are left out where it is not.
WITHOUT_DEPENDENCIES = {"trackeval", "pycocotools"}
# apsw and backports with rosbags; pydantic with fastapi; compression is Python's own from 3.14 on.
BROUGHT_BY_OTHERS = {
    "apsw",
    "backports",
    "builtin_interfaces",
    "compression",
    "grimp",
    "ml_dtypes",
    "packaging",
    "pydantic",
} | ROSIDL
EXTRAS = {"fastapi", "moderngl", "mujoco", "rerun", "rich", "textual", "uvicorn"}


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
        if re.match(r"(engines|training)/.*\.py$|engines/nano/|training/(configs|reference)/", name)
    }
    page = {name for name in tracked if name.startswith("molmo2_ros/web/page/")}
    assert page
    assert rooms | linked | page <= names


def test_wheel_installs_nothing_beside_the_package(wheel):
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name.split("-")[0] for name in top} == {"molmo2_ros"}


@pytest.fixture(scope="module")
def prefix(wheel, tmp_path_factory):
    """Where pip installed the wheel."""
    folder = tmp_path_factory.mktemp("prefix")
    # colcon test has the package in its path, and pip would leave it at that.
    options = ["--ignore-installed", "--no-deps", "--no-index", "-q", "--prefix", str(folder)]
    run(sys.executable, "-m", "pip", "install", *options, str(wheel), cwd=folder)
    return folder


def from_pip(prefix, command):
    """A shell's words that run a command of a prefix."""
    site = next(prefix.glob("lib/python*/site-packages"))
    return f"export PYTHONPATH={site} && exec {prefix}/bin/{command}"


def test_pip_installs_a_working_command(prefix, tmp_path):
    assert "ask" in run("bash", "-c", from_pip(prefix, "molmo2 --help"), cwd=tmp_path)


def received(kind, topic, wanted, domain_id):
    """Whether a wanted message of a topic came in time."""
    context = Context()
    rclpy.init(args=[], context=context, domain_id=domain_id)
    node = rclpy.create_node("robot", context=context)
    messages = []
    node.create_subscription(kind, topic, messages.append, qos.image_qos("best_effort"))
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    end = time.monotonic() + PATIENCE_S
    while not any(map(wanted, messages)) and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)
    node.destroy_node()
    context.try_shutdown()
    return any(map(wanted, messages))


def start_nodes(shell, domain_id, cwd):
    """Camera and grounding node, each as one process of its own group."""
    query = shlex.quote("queries:=['point: the red mug']")
    return [
        subprocess.Popen(
            ["bash", "-c", shell(command)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": "", "ROS_DOMAIN_ID": str(domain_id)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for command in ("camera_node", f"grounding_node --ros-args -p {query}")
    ]


def assert_points_come(shell, domain_id, cwd):
    """Start the executables outside the source tree, get a target over DDS, end them."""
    nodes = start_nodes(shell, domain_id, cwd)
    try:
        came = received(PointCloud2, "/grounding/points", lambda m: m.width > 0, domain_id)
        for node in nodes:
            node.send_signal(signal.SIGINT)
        said = [node.communicate(timeout=PATIENCE_S)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert came, said
    assert [node.returncode for node in nodes] == [0, 0], said


def test_nodes_that_pip_installed_point(prefix, domain_id, tmp_path):
    assert_points_come(lambda command: from_pip(prefix, command), domain_id, tmp_path)


def test_nodes_that_colcon_installed_point(workspace, domain_id, tmp_path):
    home = workspace / "install" / "molmo2_ros" / "lib" / "molmo2_ros"
    setup = f"source {workspace}/install/setup.bash"
    assert_points_come(lambda command: f"{setup} && exec {home}/{command}", domain_id, tmp_path)


def test_colcon_puts_the_package_where_ros2_looks(workspace):
    code = (
        "from pathlib import Path\n"
        "from ament_index_python.packages import get_package_share_directory as share\n"
        "print(*sorted(p.name for d in ('launch', 'config', 'config/presets') for p in "
        "Path(share('molmo2_ros'), d).iterdir()), Path(share('sensor_msgs')).name)\n"
    )
    found = within(workspace, f'python -c "{code}"').split()
    folders = [ROOT / folder for folder in ("launch", "config", "config/presets")]
    files = [path.name for folder in folders for path in folder.iterdir()]
    assert found == [*sorted(files), "sensor_msgs"]


@pytest.mark.parametrize("command", COMMANDS)
def test_colcon_installs_what_ros2_run_starts(workspace, command):
    assert os.access(workspace / f"install/molmo2_ros/lib/molmo2_ros/{command}", os.X_OK)


def test_installed_commands_find_the_package_and_its_engine(workspace, tmp_path):
    command = workspace / "install/molmo2_ros/lib/molmo2_ros/molmo2"
    assert "ask" in within(workspace, f"{command} --help", cwd=tmp_path)
    code = (
        "import molmo2_ros.engines.checkpoint, molmo2_ros.training.nano.config, pathlib\n"
        "home = pathlib.Path(molmo2_ros.__file__).parent\n"
        "print(home, *sorted(path.name for path in home.glob('engines/nano/*.onnx')))"
    )
    home, *graphs = within(workspace, f'python -c "{code}"', cwd=tmp_path).split()
    assert home.startswith(str(workspace))
    assert graphs == ["decoder.onnx", "vision.onnx"]


def requirements_of(wheel, *extras):
    """Names that pip asks for, with some extras."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = message_from_bytes(archive.read(name)).get_all("Requires-Dist")
    return {
        requirement.name.lower()
        for requirement in map(Requirement, lines)
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    }


@pytest.mark.parametrize(
    ("extras", "runtimes"),
    [
        ((), set()),
        (("cpu",), {"onnxruntime"}),
        (("gpu",), {"onnxruntime-gpu"}),
        (("gpu", "ros", "simulation", "training"), {"onnxruntime-gpu"}),
        (("gpu-rtx",), {"onnxruntime", "onnxruntime-ep-nv-tensorrt-rtx-cu13"}),
        (("test",), {"onnxruntime"}),
    ],
)
def test_onnxruntime_and_its_form_for_gpus_never_come_together(wheel, extras, runtimes):
    """They write the same folder; of both, the one that was unpacked last is there."""
    assert {
        name for name in requirements_of(wheel, *extras) if name.startswith("onnxruntime")
    } == runtimes


def test_extra_test_brings_all_that_the_suite_imports_and_starts(wheel):
    brought = requirements_of(wheel, "test")
    package = ElementTree.parse(ROOT / "package.xml")
    ros = {e.text for kind in ("exec_depend", "test_depend") for e in package.iter(kind)}
    imported = third_party_imports("test", "engines", "training") | EXTRAS
    imported -= ros | BROUGHT_BY_OTHERS | {"benchmarks"}
    pinned = "".join(
        (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
        for name in ("rerun", "test", "top", "training", "web", "without_dependencies")
    )
    wanted = {PIP_NAMES.get(name, name) for name in imported} | requirement_names(pinned)
    assert sorted(wanted - brought - WITHOUT_DEPENDENCIES) == []


def test_whole_suite_says_at_once_what_it_lacks():
    code = (
        "import sys, importlib.machinery as machinery, pytest\n"
        "find = machinery.PathFinder.find_spec\n"
        "machinery.PathFinder.find_spec = lambda name, *rest: "
        "None if name == 'torch' else find(name, *rest)\n"
        "sys.exit(pytest.main({arguments!r}))"
    )
    results = [
        subprocess.run(
            [sys.executable, "-c", code.format(arguments=["--collect-only", "-q", *named])],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        for named in ([], ["test/camera/test_frame.py"])
    ]
    assert [result.returncode for result in results] == [pytest.ExitCode.USAGE_ERROR, 0]
    assert re.search(r"whole suite needs torch, .* pip install", results[0].stderr)


@pytest.mark.parametrize("workspace", ["copied"], indirect=True)
def test_colcon_test_collects_the_whole_suite(workspace, request):
    """At least what this session holds, which is all of it under `make test`."""
    said = within(
        workspace,
        "colcon test --event-handlers console_direct+ --return-code-on-test-failure "
        "--pytest-args --collect-only -q",
        cwd=workspace,
    )
    files = run("git", "ls-files", "-z", "test", cwd=ROOT).split("\0")
    collected = re.findall(r"^(test/\S+\.py)::", said, re.MULTILINE)
    assert set(collected) == {name for name in files if re.search(r"/test_\w+\.py$", name)}
    assert len(collected) >= len(request.session.items)
    assert re.search(rf"^{len(collected)} tests collected", said, re.MULTILINE)


@pytest.mark.parametrize("workspace", ["linked"], indirect=True)
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
    return names - set(sys.stdlib_module_names) - {"molmo2_ros"}


def requirement_names(text):
    return {
        match[1].lower() for match in re.finditer(r"^\s*\"?([A-Za-z][\w.-]*)", text, re.MULTILINE)
    }


def test_package_xml_names_all_that_the_nodes_import():
    needed = third_party_imports("molmo2_ros") - NO_ROSDEP_KEY - BROUGHT_BY_OTHERS
    keys = {element.text for element in ElementTree.parse(ROOT / "package.xml").iter("exec_depend")}
    assert sorted({ROSDEP_KEYS.get(name, name) for name in needed - EXTRAS} - keys) == []


def test_package_xml_or_contributing_names_what_the_suite_imports():
    needed = third_party_imports("test", "engines", "training") | EXTRAS
    needed -= NO_ROSDEP_KEY | NO_ROBOT_NEEDS | BROUGHT_BY_OTHERS | {"benchmarks"}
    depends = ElementTree.parse(ROOT / "package.xml").getroot()
    keys = {element.text for element in depends if element.tag in ("exec_depend", "test_depend")}
    assert sorted({ROSDEP_KEYS.get(name, name) for name in needed} - keys) == []
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert {name for name in NO_ROBOT_NEEDS if PIP_NAMES.get(name, name) not in told} == set()


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


def test_every_requirement_of_the_package_is_pinned_for_the_demo(wheel):
    wanted = requirements_of(wheel, "cpu")
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
        ("WEB=1", "--web"),
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
