"""`molmo2 web`: the live page, of a file or camera without ROS, or of nodes that run."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.playback import Playback
from molmo2_ros.camera.sources import FrameSource, open_source
from molmo2_ros.errors import ConfigError
from molmo2_ros.opening import grounder_of, open_model
from molmo2_ros.prompt.query import Query
from molmo2_ros.remote.server import RemoteServer, RemoteSettings
from molmo2_ros.runtime.engine import DEVICES
from molmo2_ros.simulation import TABLE_QUERIES
from molmo2_ros.standing import parse_standing

TABLE = "table"
_PATIENCE_S = 60.0  # for a server that is busy

_DESCRIPTION = """\
Serve a page that shows a camera with what was found in it, asks, tracks what is
clicked, and gathers corrections for training.

With SOURCE (a video, a rosbag2, a folder of pictures, /dev/videoN, or `table`, a
simulated one) no ROS is needed. Without it the page is about nodes that run: a grounding
node and any ROS camera, also one that a bag plays.
"""
_EPILOG = """\
examples:
  molmo2 web table                              the simulated table
  molmo2 web kitchen.mp4 --query "track: the red mug" --corrections fixes
  molmo2 web bags/monday --topic /camera/image  what a robot recorded
  molmo2 web --image /camera/color/image_raw    beside a running grounding node
  molmo2 web /dev/video0 --host 0.0.0.0         for others, by a link with a token

`molmo2 ask --url http://localhost:8080 "QUESTION"` asks it from a shell.
"""


def add_parser(commands: Any) -> None:
    """Add `web` to the command line."""
    parser = commands.add_parser(
        "web",
        help="a live page that shows, asks, tracks what is clicked, and is corrected",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="what is played, without ROS")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: loopback)")
    parser.add_argument("--port", type=int, default=8080, help="default: 8080; 0 for a free one")
    parser.add_argument(
        "--token", default="", help="needed off loopback; one is made where none is given"
    )
    parser.add_argument("--max-viewers", type=int, default=16, metavar="N", help="default: 16")
    local = parser.add_argument_group("with SOURCE")
    local.add_argument(
        "--query", action="append", metavar='"kind: words"', help="standing query; may be repeated"
    )
    local.add_argument("--engine", metavar="DIR|URL", help="default: molmo2-nano")
    local.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    local.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model")
    local.add_argument("--topic", default="", help="camera of a bag that has several")
    local.add_argument("--rate", type=float, default=0.0, metavar="HZ", help="frames a second")
    local.add_argument("--size", default="320x240", metavar="WxH", help="of the simulated table")
    local.add_argument(
        "--corrections", type=Path, metavar="FOLDER", help="where corrections are written"
    )
    nodes = parser.add_argument_group("without SOURCE")
    nodes.add_argument(
        "--image", action="append", metavar="TOPIC", help="camera; may be repeated (image)"
    )
    nodes.add_argument(
        "--grounding", action="append", metavar="NODE", help="may be repeated (grounding)"
    )
    nodes.add_argument("--compressed", action="store_true", help="take TOPIC/compressed")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C.

    Raises:
        Molmo2Error: the source, a query, the engine or the address cannot be used.
    """
    if options.source is None:
        return _serve_nodes(options)
    from molmo2_ros.web.hub import Hub
    from molmo2_ros.web.local import LocalBackend
    from molmo2_ros.web.review_store import ReviewStore
    from molmo2_ros.web.server import Address, WebServer

    queries = _queries(options)
    closing = threading.Event()
    playback = _playback(options, closing)
    playback.open()  # before the model is loaded
    model = open_model(
        options.engine,
        threads=options.threads,
        device=options.device,
        remote=RemoteSettings(patience_s=_PATIENCE_S),
    )
    if isinstance(model, RemoteServer):
        model.connect()
    store = None if options.corrections is None else ReviewStore(options.corrections)
    backend = LocalBackend(Path(options.source).name, playback, grounder_of(model), queries, store)
    hub = Hub(backend.cameras, options.max_viewers)
    server = WebServer(
        hub, backend, Address(host=options.host, port=options.port, token=options.token)
    )
    # A second Ctrl-C must not hit the clean-up of the first.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: closing.set())
    server.start()
    backend.start(hub)
    print(f"molmo2 web: open {server.url}", file=sys.stderr, flush=True)
    try:
        closing.wait()
    finally:
        backend.close()
        server.close()
        if store is not None:
            store.close()
    return 0


def _queries(options: argparse.Namespace) -> list[Query]:
    given = options.query
    if given is None:
        given = TABLE_QUERIES if options.source == TABLE and not options.engine else ()
    return parse_standing(given)


def _playback(options: argparse.Namespace, closing: threading.Event) -> Playback:
    source: str = options.source
    if options.rate < 0 or options.rate > 240:
        raise ConfigError(f"--rate is {options.rate:g}, expected 0 to 240 frames a second")

    def named() -> FrameSource:
        return _Named(_opened(source, options.topic), Path(source).name)

    return Playback(
        _table_opener(options) if source == TABLE else named,
        now_ns=time.time_ns,
        wait_s=lambda seconds: not closing.wait(seconds),
        rate_hz=options.rate,
        is_device=source.startswith("/dev/"),
        can_skip=source != TABLE,
    )


def _opened(source: str, topic: str) -> FrameSource:
    """A bag by the reader of robot logs, anything else as the camera node opens it."""
    try:
        from molmo2_ros.bags.bag import is_bag
        from molmo2_ros.training.logs.bag_source import BagSource
    except ModuleNotFoundError:  # a robot that is not trained on has not this part
        return open_source(source)
    return BagSource(Path(source), topic) if is_bag(Path(source)) else open_source(source)


def _table_opener(options: argparse.Namespace) -> Callable[[], FrameSource]:
    width, _, height = options.size.partition("x")
    try:
        from molmo2_ros.simulation.source import TableSource

        size = int(width), int(height)
        return lambda: TableSource(
            seed=2, width=size[0], height=size[1], rate_hz=options.rate or 15.0, renderer="auto"
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the simulated table needs the package {error.name}, which is not installed; pip "
            "install 'molmo2_ros[simulation]', or name a video"
        ) from error
    except ValueError:
        raise ConfigError(
            f"--size is {options.size!r}, expected width and height such as 640x480"
        ) from None


class _Named:
    """A source whose frames say of which camera they are."""

    def __init__(self, source: FrameSource, frame_id: str) -> None:
        self._source = source
        self._frame_id = frame_id
        self.rate_hz = source.rate_hz

    def read(self) -> Frame | None:
        frame = self._source.read()
        return None if frame is None else replace(frame, frame_id=self._frame_id)

    def close(self) -> None:
        self._source.close()


def _serve_nodes(options: argparse.Namespace) -> int:
    """Become the web node: what follows is ROS, which no other command needs."""
    parameters: dict[str, object] = {
        "host": options.host,
        "port": options.port,
        "token": options.token,
        "max_viewers": options.max_viewers,
        "image_transport": "compressed" if options.compressed else "raw",
        "image_topics": options.image or ["image"],
        "grounding_nodes": options.grounding or ["grounding"],
    }
    command = [sys.executable, "-m", "molmo2_ros.ros.web_node", "--ros-args"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={_yaml(value)}"]
    sys.stdout.flush()
    os.execv(sys.executable, command)


def _yaml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON is also YAML, which is what rcl reads
