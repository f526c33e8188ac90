"""`molmo2 ask` as a process: a video of the table in; table, JSON, a copy and a bar out."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import cv2
import numpy as np
import pytest

from molmo2_ros.camera.sources import open_source
from molmo2_ros.simulation.source import TableSource

ROOT = Path(__file__).parents[2]
RATE_HZ, NUM_FRAMES, WIDTH, HEIGHT = 4.0, 9, 320, 240
NEAR_PX = 25.0  # the mug is some 40 px wide


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A video of the simulated table, and where the red mug is in each frame, pixels."""
    path = tmp_path_factory.mktemp("table") / "table.avi"
    source = TableSource(seed=0, width=WIDTH, height=HEIGHT, rate_hz=RATE_HZ)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), RATE_HZ, (WIDTH, HEIGHT))
    places = []
    for _ in range(NUM_FRAMES):
        writer.write(cv2.cvtColor(source.read().image, cv2.COLOR_RGB2BGR))
        places.append(next(o["point_px"] for o in source.truth() if o["name"] == "red mug"))
    writer.release()
    return path, np.array(places, float)


def command(*arguments):
    return [sys.executable, "-m", "molmo2_ros.cli.main", "ask", *map(str, arguments)]


def read_all(path):
    source = open_source(str(path))
    frames = [frame.image.astype(int) for frame in iter(source.read, None)]
    source.close()
    return source.rate_hz, frames


def test_a_table_is_printed_and_a_copy_written_without_a_bar_where_nobody_looks(table, tmp_path):
    path, places_px = table
    out = tmp_path / "annotated.mp4"

    done = subprocess.run(
        command(path, "Track the red mug", "--out", out),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == f"wrote {out}\n"
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["time", "s", "id", "x", "px", "y", "px", "label", "confidence"]
    found = [(float(row.split()[0]), *map(float, row.split()[2:4])) for row in rows if row.strip()]
    near = [
        np.hypot(*(np.array(place) - places_px[round(time_s * RATE_HZ)])) < NEAR_PX
        for time_s, *place in found
    ]
    assert len(found) >= 3
    assert np.mean(near) > 0.5, found
    # The copy is the same film at the same rate, with something drawn at the mug.
    rate_hz, frames = read_all(out)
    _, plain = read_all(path)
    assert (len(frames), rate_hz) == (NUM_FRAMES, pytest.approx(RATE_HZ))
    assert {frame.shape for frame in frames} == {(HEIGHT, WIDTH, 3)}
    changed = [
        np.abs(frame - before)[int(v) - 25 : int(v) + 25, int(u) - 25 : int(u) + 25].max()
        for frame, before, (u, v) in zip(frames, plain, places_px, strict=True)
    ]
    assert np.median(changed) > 120


def test_a_terminal_shows_a_bar_beside_json_that_programs_can_read(table, tmp_path):
    path, _ = table
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with (tmp_path / "answer.json").open("w") as stdout:
        asked = subprocess.Popen(
            command(path, "How many mugs are there?", "--json", "--every", "1"),
            cwd=ROOT,
            stdin=theirs,
            stdout=stdout,
            stderr=theirs,
        )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:  # nobody holds the other end any more
        pass
    os.close(terminal)

    assert asked.wait(timeout=120) == 0, shown
    bars = [line for line in shown.decode().split("\r") if line.strip()]
    assert all(bar.startswith("asking:") for bar in bars), bars
    assert "0/9" in bars[0]
    assert "100%" in bars[-1]
    assert "9/9" in bars[-1]
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["query"]["kind"] == "count"
    assert answer["files"] == [str(path)]
    # Frames at 0, 1 and 2 s.
    counts = [entry["count"] for entry in answer["answers"]]
    assert len(counts) == 3
    assert all(isinstance(count, int) for count in counts)
