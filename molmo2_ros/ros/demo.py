"""The demonstration: camera and grounding node as two processes, their answers printed and filmed.

python -m molmo2_ros.ros.demo [--video PATH | --camera /dev/videoN] [--query "..."]... [--web]
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from functools import partial
from pathlib import Path

from molmo2_ros.errors import Molmo2Error
from molmo2_ros.ros.demo_process import (
    DemoProcess,
    prepare_environment,
    ros_arguments,
    watch,
)
from molmo2_ros.ros.demo_watch import Watcher
from molmo2_ros.simulation import TABLE_QUERIES
from molmo2_ros.standing import parse_standing

_SECONDS = 20.0  # from the first answer on
_LAST_PATIENCE_S = 20.0  # a topic that the watcher finds late, on a busy machine
_START_PATIENCE_S = 180.0  # a busy machine; the first answer usually takes some seconds


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration.

    Returns:
        0; 1 where a process died or nothing of some kind came; 2 for bad input; 130 for Ctrl-C.
    """
    wanted = _parser().parse_args(arguments)
    queries = tuple(wanted.query or TABLE_QUERIES)
    source = wanted.video or wanted.camera or "table"
    try:
        parse_standing(queries)
    except Molmo2Error as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    interrupted: list[int] = []
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: interrupted.append(1))
    prepare_environment()
    _tell(f"source {source}, engine {wanted.engine}, ROS_DOMAIN_ID {os.environ['ROS_DOMAIN_ID']}")
    for query in queries:
        _tell(f'query "{query}"')
    with tempfile.TemporaryDirectory(prefix="molmo2_demo_") as folder:
        logs = Path(folder)
        processes = _processes(wanted, source, queries, logs)
        watcher = Watcher(Path(wanted.output))
        try:
            problem = watch(
                watcher.join,
                processes,
                partial(_end, watcher, _seconds(wanted), len(queries)),
                interrupted,
            )
        finally:
            died = [process.end() for process in processes]
            watcher.close()
    # A node that is told to end while it still starts may end otherwise than it should.
    problems = [problem] if problem or interrupted else died
    return verdict(watcher, problems, bool(interrupted))


def _processes(
    wanted: argparse.Namespace, source: str, queries: tuple[str, ...], logs: Path
) -> list[DemoProcess]:
    """Camera and grounding node; with the page also a recorder, which corrections need."""
    page = {"web": True, "web_port": wanted.port} if wanted.web else {}
    grounding = ros_arguments(engine=wanted.engine, queries=list(queries), **page)
    processes = [
        DemoProcess("camera_node", ros_arguments(source=source), logs),
        DemoProcess("grounding_node", grounding, logs),
    ]
    if wanted.web:
        folder = str(Path(wanted.output, "demo_corrections").resolve())
        recorder = ros_arguments(folder=folder, max_disk_mb=500.0, split_mb=100.0, rate_hz=1.0)
        processes.append(DemoProcess("recorder_node", recorder, logs))
        url = f"http://localhost:{wanted.port}/"
        _tell(f"open {url}; corrections are recorded in {folder}; Ctrl-C ends")
        if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            threading.Thread(target=_open_page, args=(url, wanted.port), daemon=True).start()
    return processes


def _open_page(url: str, port: int) -> None:
    """Show the page in this desktop's browser once it is served."""
    end = time.monotonic() + _START_PATIENCE_S
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.3)
        else:
            webbrowser.open(url)
            return


def _seconds(wanted: argparse.Namespace) -> float:
    if wanted.seconds is not None:
        return float(wanted.seconds)
    return math.inf if wanted.web else _SECONDS


def _end(watcher: Watcher, seconds: float, num_queries: int, since_s: float) -> str | None:
    """Whether the demonstration is over, as `watch` asks."""
    if watcher.camera_problem:
        return watcher.camera_problem
    if len(watcher.refused) == num_queries:
        return "none of the questions can be answered by this model, see above"
    if watcher.started_at is None:
        return f"no answer in {_START_PATIENCE_S:.0f} s" if since_s > _START_PATIENCE_S else None
    over_s = time.monotonic() - watcher.started_at - seconds
    is_over = over_s > 0 and (watcher.has_seen_all or over_s > _LAST_PATIENCE_S)
    return "" if is_over else None


def verdict(watcher: Watcher, problems: list[str], was_interrupted: bool) -> int:
    """Print what there is and what is missing.

    Returns:
        the exit code, as of `main`.
    """
    for problem in filter(None, problems):
        print(f"demo: {problem}", file=sys.stderr)
    for path in watcher.files:
        _tell(f"wrote {path}")
    print(watcher.summary, flush=True)
    if was_interrupted:
        return 130
    return 0 if watcher.is_complete and not any(problems) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m molmo2_ros.ros.demo",
        description="Ask about a camera's stream over real ROS 2 and film the answers.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--video", metavar="PATH", help="video file or folder of images")
    source.add_argument("--camera", metavar="/dev/videoN", help="camera device")
    parser.add_argument(
        "--query",
        action="append",
        metavar='"kind: words"',
        help="standing query, may be repeated; kind is track, point, count or ask",
    )
    parser.add_argument("--engine", default="nano", help="engine folder (default: nano)")
    parser.add_argument(
        "--seconds", type=float, help="from the first answer on (default: 20; with --web for ever)"
    )
    parser.add_argument("--output", default=".", help="folder of demo.mp4 and demo.png")
    parser.add_argument(
        "--web", action="store_true", help="serve the live page too, and open it on a desktop"
    )
    parser.add_argument("--port", type=int, default=8080, help="of the page (default: 8080)")
    return parser


def _tell(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
