"""A server around the shipped engine, with good manners or bad, and frames to ask about."""

import pytest

from benchmarks.nano_server import Manners, NanoServer
from molmo2_ros.camera.clip import Clip
from molmo2_ros.opening import grounder_of, open_model
from molmo2_ros.remote.server import TOKEN_VARIABLE, RemoteSettings
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.simulation.source import TableSource

NANO_SIZE = 168  # pixels, the square that the shipped model reads


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.fixture(scope="session")
def served():
    """One server for all tests."""
    server = NanoServer(load_engine(threads=1))
    yield server
    server.stop()


@pytest.fixture
def server(served):
    """The server, polite and with empty notes."""
    served.manners = Manners()
    served.seen.clear()
    served.headers.clear()
    served.num_requests = served.num_connections = served.num_broken_off = 0
    return served


@pytest.fixture
def remote():
    """Makes a RemoteGrounder of a URL; lossless but for JPEG, and impatient unless told."""

    def make(url, **settings):
        chosen = {"frame_size": NANO_SIZE, "jpeg_quality": 95, "connect_timeout_s": 2.0, **settings}
        return grounder_of(open_model(url, remote=RemoteSettings(**chosen)))

    return make


@pytest.fixture(scope="session")
def local():
    """The shipped model on this machine."""
    return grounder_of(open_model("nano", threads=1))


@pytest.fixture(scope="session")
def clip():
    """Four frames of the simulated table, half a second apart as in training."""
    source = TableSource(seed=1, width=320, height=240, rate_hz=2.0)
    return Clip(tuple(source.read() for _ in range(4)))
