"""What must stand before the first import of rclpy, torch or hypothesis, whoever starts pytest."""

import atexit
import fcntl
import importlib.util
import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# What the whole suite imports or starts beyond what the nodes need.
SUITE_NEEDS = (
    "PIL",
    "accelerate",
    "axe_playwright_python",
    "codespell_lib",
    "colcon_core",
    "cyclonedds",
    "fastapi",
    "importlinter",
    "moderngl",
    "mujoco",
    "mypy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openai",
    "playwright",
    "rclpy",
    "ruff",
    "safetensors",
    "schemathesis",
    "torch",
    "torchvision",
    "transformers",
    "uvicorn",
    "websockets",
)

# The Python wheels of ROS 2 are a prefix of their own and do not announce it.
if (Path(sys.prefix) / "share" / "ament_index").is_dir():
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"  # Humble always checks; later releases only when told
os.environ.setdefault("ROS_LOG_DIR", tempfile.mkdtemp(prefix="molmo2_ros_log_"))
_CACHE = tempfile.mkdtemp(prefix="molmo2_ros_cache_")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ["XDG_CACHE_HOME"] = _CACHE  # passed self-tests
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small models: threads cost more than they bring

settings.register_profile(
    "house",
    deadline=None,  # a busy machine is no failure
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("house")


def pytest_configure(config):
    """Before the whole suite runs, say what it lacks: once, with the cure."""
    if list(config.args) != config.getini("testpaths"):
        return  # named files may need less
    missing = [name for name in SUITE_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise pytest.UsageError(
            f"the whole suite needs {', '.join(missing)}, which {sys.executable} cannot import. "
            'Install them beside ROS 2 with pip install ".[test]" (without ROS 2: ".[ros,test]"), '
            "or name tests that need less: colcon test --pytest-args "
            "test/camera test/prompt test/runtime test/answers test/tracking test/ros test/nodes"
        )


# Never the one just used: a participant of the last test may take a moment to leave its domain, and
# its latched messages would come to the next.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_DOMAINS = itertools.islice(itertools.cycle(range(1, 101)), 50 * _WORKER, None)


def claim_domain():
    """A ROS domain that no other test on this machine uses, and the lock that keeps it ours."""
    for domain_id in itertools.islice(_DOMAINS, 100):
        lock = (Path(tempfile.gettempdir()) / f"molmo2_ros_domain_{domain_id}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return domain_id, lock
    raise RuntimeError("all 100 ROS domains are taken; wait for the other tests to end")


@pytest.fixture
def domain_id():
    """A ROS domain for one test alone."""
    claimed, lock = claim_domain()
    yield claimed
    lock.close()
