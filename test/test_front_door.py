"""What `import molmo2_ros` offers, and what it does not load."""

import subprocess
import sys

import pytest

import molmo2_ros


@pytest.mark.parametrize("name", molmo2_ros.__all__)
def test_every_name_of_the_front_door_is_there(name):
    assert getattr(molmo2_ros, name).__module__.startswith("molmo2_ros.")
    assert name in dir(molmo2_ros)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Robot'"):
        _ = molmo2_ros.Robot


def test_importing_the_package_loads_nothing_else():
    code = (
        "import sys, molmo2_ros; print([m for m in ('numpy', 'cv2', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_shows_its_help_without_loading_a_model():
    code = (
        "import sys\nfrom molmo2_ros.cli.main import build_parser\nbuild_parser()\n"
        "print([m for m in ('onnxruntime', 'torch', 'rclpy', 'mujoco') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
