"""The same model here and on a server of this machine: what the way costs, and what JPEG changes.

    python benchmarks/bench_remote.py [--answers 40] [--json]

The server is nano_server.py in a process of its own, with one thread like the engine here, so that
what differs is JPEG, HTTP and reading the clip anew for every answer: no feature is kept there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.report import publish, spread  # noqa: E402
from molmo2_ros.answers.text import parse_answer  # noqa: E402
from molmo2_ros.camera.clip import Clip, ClipBuffer  # noqa: E402
from molmo2_ros.grounder import Grounder  # noqa: E402
from molmo2_ros.opening import grounder_of, open_model  # noqa: E402
from molmo2_ros.prompt.query import parse_query  # noqa: E402
from molmo2_ros.remote.grounder import RemoteGrounder  # noqa: E402
from molmo2_ros.remote.server import RemoteSettings  # noqa: E402
from molmo2_ros.runtime.engine import load_engine  # noqa: E402
from molmo2_ros.simulation.source import TableSource  # noqa: E402

TABLE_SEED, CAMERA_HZ = 2, 10.0
NANO_SIZE = 168  # pixels, the square that the shipped model reads
QUERIES = ("point: the lemon", "track: the lemon")
# Side of a frame and quality of its JPEG, as they are sent; 0 sends frames as they are.
WAYS = ((NANO_SIZE, 95), (NANO_SIZE, 90), (NANO_SIZE, 60), (378, 90), (0, 90))
NEAR = 0.02  # of the picture: points so near are the same place


@contextmanager
def served() -> Iterator[str]:
    """URL of a server in a process of its own."""
    start = "from benchmarks.nano_server import main; main()"
    command = [sys.executable, "-c", start, "--port", "0"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def clips(grounder: Grounder, question: str, num_clips: int) -> list[Clip]:
    """Clips of a live camera, a frame apart."""
    query = parse_query(question)
    source = TableSource(seed=TABLE_SEED, width=320, height=240, rate_hz=CAMERA_HZ)
    window = ClipBuffer(duration_s=4.0, max_frames=100)
    found = []
    for number in range(20 + num_clips):
        window.push(source.read())
        if number >= 20:
            found.append(grounder.clip_for(window, query))
    return found


def is_near(one: str, other: str) -> bool:
    """Whether two answers point to the same places at the same times."""
    pairs = [parse_answer(text).points for text in (one, other)]
    return len(pairs[0]) == len(pairs[1]) and all(
        a.stamp == b.stamp and abs(a.x - b.x) <= NEAR and abs(a.y - b.y) <= NEAR
        for a, b in zip(*pairs, strict=True)
    )


def main() -> None:
    """Ask both in turn, then print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=40)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    local = Grounder(load_engine(threads=1), drafted=False)
    rows, equality, figures = [], {}, {}
    with served() as url:
        for question in QUERIES:
            query = parse_query(question)
            asked = clips(local, question, options.answers)
            for size, quality in WAYS:
                settings = RemoteSettings(frame_size=size, jpeg_quality=quality)
                remote = grounder_of(open_model(url, remote=settings))
                assert isinstance(remote, RemoteGrounder)
                remote.answer(asked[0], query)
                sent_before = remote.server.peer.traffic.bytes_sent
                here_ms, there_ms, alike, near = [], [], [], []
                for clip in asked:
                    started = time.perf_counter()
                    here = local.answer(clip, query)
                    middle = time.perf_counter()
                    there = remote.answer(clip, query)
                    here_ms.append(1e3 * (middle - started))
                    there_ms.append(1e3 * (time.perf_counter() - middle))
                    alike.append(here.text == there.text)
                    near.append(is_near(here.text, there.text))
                sent = remote.server.peer.traffic.bytes_sent - sent_before
                name = f"{question.split(':')[0]}, {size or 'whole'} px, quality {quality}"
                rows.append(spread(f"{name}: server", there_ms, "ms"))
                rows.append(spread(f"{name}: here", here_ms, "ms"))
                equality[f"{name}: answers word for word"] = f"{sum(alike)} of {len(alike)}"
                equality[f"{name}: same places"] = f"{sum(near)} of {len(near)}"
                figures[f"{name}: kB an answer"] = round(sent / len(asked) / 1e3, 1)
    publish(
        "remote",
        rows,
        packages=("numpy", "onnxruntime", "opencv-python-headless"),
        settings={"answers": options.answers, "camera": f"table {TABLE_SEED}, {CAMERA_HZ:g} Hz"},
        figures=figures,
        equality=equality,
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
