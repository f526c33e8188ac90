"""The shipped engine, a copy to spoil, and a clip."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from molmo2_ros.camera.frame import Frame
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.manifest import FILE_NAME, file_entry


@pytest.fixture(scope="session")
def nano():
    """The shipped engine on one thread."""
    return load_engine(NANO, threads=1)


@pytest.fixture
def engine_folder(tmp_path):
    """A copy of the shipped engine that a test may spoil."""
    folder = tmp_path / "engine"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
    return folder


@pytest.fixture
def vouch_for():
    """Make a manifest agree with a spoilt file, so that its reader and not the hash meets it."""

    def vouch(folder, name):
        path = folder / FILE_NAME
        content = json.loads(path.read_text())
        entry = file_entry(folder / name)
        content["files"][name] = {"sha256": entry.sha256, "bytes": entry.bytes}
        path.write_text(json.dumps(content))

    return vouch


@pytest.fixture(scope="session")
def clip():
    """Three frames of noise, half a second apart."""
    random = np.random.default_rng(5)
    return [
        Frame(image=random.integers(0, 255, (60, 80, 3), np.uint8), stamp_ns=500_000_000 * i)
        for i in range(3)
    ]


@pytest.fixture(scope="session")
def host_gpu():
    """The module that stands in for a GPU (host_gpu.py)."""
    path = Path(__file__).with_name("host_gpu.py")
    spec = importlib.util.spec_from_file_location("host_gpu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
