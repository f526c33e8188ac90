"""A page about the simulated table, asked of the shipped model, and a browser to open it in."""

import dataclasses
import http.client
import json
import shutil
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from playwright.sync_api import sync_playwright
from websockets.sync.client import connect

from molmo2_ros.grounder import Grounder
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.simulation.source import TableSource
from molmo2_ros.web.access import Limits
from molmo2_ros.web.hub import Hub
from molmo2_ros.web.local import LocalBackend
from molmo2_ros.web.review_store import ReviewStore
from molmo2_ros.web.server import Address, WebServer

PATIENCE_S = 60.0  # a busy machine; nothing waits this long when all is well
CAMERA = "table"
NO_LIMITS = Limits(requests_per_s=1e6, burst=10**6)


class TablePlayback:
    """Frames of the table there and back for ever, and the truth about each that was shown."""

    num_skipped = 0

    def __init__(self, shots, rate_hz):
        self._shots = shots + shots[-2:0:-1]
        self._period_s = 1.0 / rate_hz
        self._closing = threading.Event()
        self._num_shown = 0
        self.shown = {}  # TableFrame by stamp_ns

    def next_frame(self, *, loop):
        if self._closing.wait(self._period_s):
            return None
        shot = self._shots[self._num_shown % len(self._shots)]
        self._num_shown += 1
        frame = dataclasses.replace(shot.frame, stamp_ns=time.time_ns())
        self.shown[frame.stamp_ns] = dataclasses.replace(shot, frame=frame)
        return frame

    def close(self):
        self._closing.set()


class NotingHub(Hub):
    """Notes what was told of each picture."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.told = {}  # scenes by stamp_ns

    def tell_scene(self, scene):
        self.told[scene.stamp_ns] = scene
        super().tell_scene(scene)


class Page:
    """A server with its backend, and short words for what tests ask of it."""

    def __init__(self, playback, grounder, folder, *, limits=NO_LIMITS, viewers=8, **address):
        self.playback = playback
        self.store = ReviewStore(folder)
        self.folder = folder
        self.backend = LocalBackend(CAMERA, playback, grounder, [], self.store)
        self.hub = NotingHub(self.backend.cameras, viewers)
        self.server = WebServer(
            self.hub, self.backend, Address(**{"port": 0, **address}), limits=limits
        )
        self.server.start()
        self.backend.start(self.hub)

    @property
    def url(self):
        return self.server.url

    def close(self):
        self.backend.close()
        self.server.close()
        self.store.close()

    def request(self, method, path, content=None, **headers):
        """Status, content (decoded where it is JSON) and headers of a response."""
        body = None if content is None else json.dumps(content)
        return self.send(method, path, body, **headers)

    def send(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_S)
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            shown.setdefault("Content-Type", "application/json")
        connection.request(method, path, body, shown)
        response = connection.getresponse()
        content = response.read()
        if "json" in response.headers.get("Content-Type", ""):
            content = json.loads(content)
        connection.close()
        return SimpleNamespace(status=response.status, content=content, headers=response.headers)

    @contextmanager
    def viewer(self, **wanted):
        """A WebSocket that watches."""
        uri = f"ws://127.0.0.1:{self.server.port}/api/stream"
        with connect(uri, max_size=None, close_timeout=1) as socket:
            if wanted:
                socket.send(json.dumps({"type": "watch", **wanted}))
            yield socket

    def stand(self, text):
        """Let a question stand; gives its entry."""
        reply = self.request("POST", "/api/queries", {"text": text})
        assert reply.status == 201, reply.content
        return reply.content["query"]

    def marks(self, query_id):
        """The targets of a query on the newest scene, and what is really there."""
        scene = self.hub.scenes[CAMERA]
        return scene, [mark for mark in scene.marks if mark.query_id == query_id]

    def lies_on(self, name, u, v, stamp_ns):
        """Whether a pixel of a frame belongs to a thing."""
        shot = self.playback.shown[stamp_ns]
        thing = next(thing.id for thing in shot.truth if thing.name == name)
        return int(shot.instances[round(v), round(u)]) == thing

    def until(self, look, what):
        """Wait for something; gives what `look` found."""
        end = time.monotonic() + PATIENCE_S
        while not (found := look()):
            assert time.monotonic() < end, f"no {what} in {PATIENCE_S} s"
            time.sleep(0.06)  # by HTTP it must stay under the 20 requests a second of an address
        return found

    def corrections(self):
        """What was written down."""
        lines = (self.folder / "corrections.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def shots():
    """Frames of the simulated table with their truth: a red mug, a lemon, a blue mug and others."""
    source = TableSource(seed=0, width=320, height=240, rate_hz=8.0)
    return [source.read_table() for _ in range(8)]


@pytest.fixture(scope="session")
def engine():
    return load_engine(threads=1)


@pytest.fixture
def start(shots, engine, tmp_path):
    """Starts pages that are closed at the end of the test."""
    started = []

    def start_page(*, rate_hz=8.0, **arguments):
        playback = TablePlayback(shots, rate_hz)
        page = Page(playback, Grounder(engine), tmp_path / f"page{len(started)}", **arguments)
        started.append(page)
        return page

    yield start_page
    for page in started:
        page.close()


@pytest.fixture
def page(start):
    """A page of its own for one test, with a first picture."""
    page = start()
    page.until(lambda: page.hub.scenes, "first picture")
    return page


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail("the page's tests drive Chromium, which is not here: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def started_page(shots, engine, tmp_path_factory):
    """A page that the tests of a file share."""
    playback = TablePlayback(shots, 8.0)
    page = Page(playback, Grounder(engine), tmp_path_factory.mktemp("page"))
    page.until(lambda: page.hub.scenes, "first picture")
    yield page
    page.close()
