"""What the live page costs, and how fresh its picture is, in a real browser on this machine.

    python benchmarks/bench_web.py [--seconds 15] [--stall-s 60] [--json]

This process is the camera (VGA at 15 Hz, frames of the simulated table); a grounding node answers
three questions twice a second each, a web node serves the page, both in processes of their own;
Chromium without a window opens it. Further viewers are programs that take every picture.

- drawn_latency_ms: from the image's arrival at the web node to the end of drawing it, with the
  points on it, in the browser; both on this machine's clock. It waits for the grounding node to
  carry the points to that image.
- viewers_core_share: CPU seconds a second of the web node's process, which is all that serves.
- stalled: for `--stall-s` seconds one viewer draws nothing of what it is sent, and another one does
  not even read its socket (the server gives that up after 40 s without a pong, and it comes again);
  the node's memory, and the rate at which a third one is served, against before.
- usable_ms: from opening to a page whose controls act; bytes are of all but pictures, unpacked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.bench_nodes import cpu_seconds  # noqa: E402  isort: skip  (sets the ROS domain)

import rclpy  # noqa: E402
from playwright.sync_api import Browser, Error, Page, sync_playwright  # noqa: E402
from rclpy.node import Node  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from benchmarks.report import publish, spread  # noqa: E402
from molmo2_ros.camera.frame import Frame  # noqa: E402
from molmo2_ros.ros import compat, images, qos  # noqa: E402
from molmo2_ros.ros.demo_process import DemoProcess, ros_arguments  # noqa: E402
from molmo2_ros.simulation import TABLE_QUERIES  # noqa: E402
from molmo2_ros.simulation.source import TableSource  # noqa: E402

RATE_HZ = 15.0
WIDTH, HEIGHT = 640, 480
NUM_FRAMES = 24  # rendered beforehand, played there and back
NUM_VIEWERS = 10
PORT = 18080
WARM_UP_S = 5.0
PATIENCE_S = 120.0


class Camera:
    """Publishes frames at their rate from a thread."""

    def __init__(self, node: Node, frames: list[Frame]) -> None:
        self._node, self._frames = node, frames
        self._image = node.create_publisher(Image, "image", qos.image_qos("reliable"))
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._ending.set()
        self._thread.join()

    def _play(self) -> None:
        due_s = time.perf_counter()
        number = 0
        while not self._ending.wait(max(0.0, due_s - time.perf_counter())):
            frame = self._frames[number % len(self._frames)]
            stamp_ns = self._node.get_clock().now().nanoseconds
            self._image.publish(images.image_message(frame.image, stamp_ns, "camera"))
            number += 1
            due_s += 1.0 / RATE_HZ


class Viewer:
    """A program that takes every picture that it is sent, and says so unless it stalls."""

    def __init__(self, *, stalls: bool = False) -> None:
        self.num_scenes = 0
        self._stalls = stalls
        uri = f"ws://127.0.0.1:{PORT}/api/stream"
        self._open = contextlib.ExitStack()
        self._socket = self._open.enter_context(connect(uri, close_timeout=1))
        self._socket.send(json.dumps({"type": "watch"}))
        threading.Thread(target=self._take, daemon=True).start()

    def close(self) -> None:
        """Leave."""
        self._open.close()

    def _take(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            for message in self._socket:
                if isinstance(message, bytes) and not self._stalls:
                    self.num_scenes += 1
                    length = int.from_bytes(message[:4], "big")
                    number = json.loads(message[4 : 4 + length])["number"]
                    self._socket.send(json.dumps({"type": "drawn", "number": number}))


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--stall-s", type=float, default=60.0, help="of the stalled viewer")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    wanted = parser.parse_args(arguments)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("the page is drawn by Chromium: apt-get install chromium", file=sys.stderr)
        return 2
    compat.offer_shared_memory()
    rclpy.init(args=[])
    node = rclpy.create_node("bench_camera")
    source = TableSource(seed=0, width=WIDTH, height=HEIGHT, rate_hz=RATE_HZ)
    frames = [source.read() for _ in range(NUM_FRAMES)]
    camera = Camera(node, frames + frames[-2:0:-1])
    with tempfile.TemporaryDirectory() as folder:
        grounding = DemoProcess(
            "grounding_node",
            ros_arguments(queries=list(TABLE_QUERIES), answer_rate_hz=2.0, threads=1),
            Path(folder),
        )
        web = DemoProcess("web_node", ros_arguments(port=PORT), Path(folder))
        camera.start()
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
                )
                rows, figures = measure(browser, web, wanted)
                browser.close()
        finally:
            camera.stop()
            problems = [grounding.end(), web.end()]
            node.destroy_node()
            compat.shut_down()
    publish(
        "web",
        rows,
        packages=("fastapi", "uvicorn", "websockets", "opencv-python-headless", "playwright"),
        settings={
            "rate_hz": RATE_HZ,
            "size": f"{WIDTH}x{HEIGHT}",
            "seconds": wanted.seconds,
            "stall_s": wanted.stall_s,
        },
        figures=figures,
        equality={"nodes ended well": not any(problems)},
        as_json=wanted.json,
    )
    return 0


def measure(
    browser: Browser, web: DemoProcess, wanted: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """All measurements, one after the other."""
    wait_until_served(browser)
    page = browser.new_context().new_page()
    opened = open_page(page)
    time.sleep(WARM_UP_S)
    alone_ms, alone_share = watched(page, web, wanted.seconds)
    with viewers(NUM_VIEWERS - 1) as others:
        time.sleep(1.0)
        before = [viewer.num_scenes for viewer in others]
        many_ms, many_share = watched(page, web, wanted.seconds)
        slowest = min(v.num_scenes - n for v, n in zip(others, before, strict=True))
    growth_mb, rate_share = stalled(web, wanted.stall_s)
    rows = [
        spread("arrival to drawn, one viewer", alone_ms, "ms"),
        spread(f"arrival to drawn, {NUM_VIEWERS} viewers", many_ms, "ms"),
    ]
    figures = {
        "drawn_latency_ms_median": round(float(np.median(alone_ms)), 1),
        "drawn_latency_ms_p95": round(float(np.percentile(alone_ms, 95)), 1),
        "drawn_rate_hz": round(len(alone_ms) / wanted.seconds, 2),
        "one_viewer_core_share": round(alone_share, 3),
        "ten_viewers_core_share": round(many_share, 3),
        "ten_viewers_slowest_rate_hz": round(slowest / wanted.seconds, 2),
        "stalled_memory_growth_mb": round(growth_mb, 2),
        "stalled_other_rate_share": round(rate_share, 3),
        **opened,
    }
    return rows, figures


def wait_until_served(browser: Browser) -> None:
    """The nodes are up and the first targets are shown."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_S * 1e3)
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            page.goto(f"http://127.0.0.1:{PORT}/")
            break
        except Error:  # nobody listens yet
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
    page.wait_for_selector("#targets tbody tr")
    page.close()


def open_page(page: Page) -> dict[str, float]:
    """Open it as somebody does for the first time; how soon it acts, and what is loaded."""
    page.goto(f"http://127.0.0.1:{PORT}/")
    page.wait_for_selector("#marks[data-stamp]")
    usable_ms, first_ms, num_bytes = page.evaluate(
        """() => {
          const [page] = performance.getEntriesByType('navigation');
          const files = performance.getEntriesByType('resource');
          const sizes = [page, ...files].map((entry) => entry.decodedBodySize);
          return [page.domContentLoadedEventEnd, performance.now(), sizes.reduce((a, b) => a + b)];
        }"""
    )
    return {
        "usable_ms": round(usable_ms, 0),
        "first_picture_ms": round(first_ms, 0),
        "bytes_before_pictures": num_bytes,
    }


def watched(page: Page, web: DemoProcess, seconds: float) -> tuple[list[float], float]:
    """Latencies of the pictures that the browser draws, and the web node's share of a core."""
    page.evaluate(
        """() => {
          if (!window.drawn) document.addEventListener('molmo2:drawn',
            (event) => window.drawn.push(event.detail.latencyMs));
          window.drawn = [];
        }"""
    )
    started, used = time.perf_counter(), cpu_seconds(web.pid)
    time.sleep(seconds)
    share = (cpu_seconds(web.pid) - used) / (time.perf_counter() - started)
    return page.evaluate("window.drawn.splice(0)"), share


@contextlib.contextmanager
def viewers(number: int) -> Iterator[list[Viewer]]:
    """Programs that watch."""
    opened = [Viewer() for _ in range(number)]
    try:
        yield opened
    finally:
        for viewer in opened:
            viewer.close()


def stalled(web: DemoProcess, seconds: float) -> tuple[float, float]:
    """By how much the node grows, and what another viewer gets, while one takes nothing."""
    with viewers(1) as (lively,):
        before_hz = rate_of(lively, min(10.0, seconds))
        still = Viewer(stalls=True)
        ending = threading.Event()
        deaf = threading.Thread(target=be_deaf, args=(ending,))
        deaf.start()
        time.sleep(2.0)
        before_mb = memory_mb(web.pid)
        during_hz = rate_of(lively, seconds)
        growth_mb = memory_mb(web.pid) - before_mb
        ending.set()
        deaf.join()
        still.close()
    return growth_mb, during_hz / before_hz


def be_deaf(ending: threading.Event) -> None:
    """A viewer that asks for pictures and never reads its socket; shut out, it comes again."""
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    request = (
        f"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
    text = b'{"type":"watch","acknowledge":false}'
    # A text frame with a mask of zeros (RFC 6455, 5.2).
    watch = bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text
    while not ending.is_set():
        with socket.create_connection(("127.0.0.1", PORT)) as deaf:
            deaf.sendall(request.encode() + watch)
            ending.wait(60.0)


def rate_of(viewer: Viewer, seconds: float) -> float:
    """Scenes a second."""
    before, started = viewer.num_scenes, time.perf_counter()
    time.sleep(seconds)
    return (viewer.num_scenes - before) / (time.perf_counter() - started)


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    raise SystemExit(main())
