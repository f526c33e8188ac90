"""The demonstration as `make demo` runs it: two processes, a film, and one last line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parents[2]
LAST_LINE = re.compile(
    r"demo: (\d+) frames, (\d+) points messages, (\d+) tracks messages, (\d+) answers"
)
TARGET, METRES, AGE = (
    r"#\d+ \(\d+, \d+\) px",
    r"\(-?0\.\d\d, -?0\.\d\d, [01]\.\d\d\) m",
    r"age \d+\.\d\d s",
)


@pytest.fixture
def start(domain_id):
    """Starts the demonstration, and ends it should the test not have done so."""
    started = []

    def start_demo(*arguments):
        demo = subprocess.Popen(
            [sys.executable, "-m", "molmo2_ros.ros.demo", *arguments],
            cwd=ROOT,
            env={**os.environ, "ROS_DOMAIN_ID": str(domain_id)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(demo)
        return demo

    yield start_demo
    for demo in started:
        if demo.poll() is None:
            demo.terminate()
            demo.communicate(timeout=60)


def test_the_table_is_asked_filmed_and_counted(start, tmp_path):
    demo = start("--seconds", "5", "--output", str(tmp_path))

    printed, told = demo.communicate(timeout=220)

    assert demo.returncode == 0, told
    counts = [int(count) for count in LAST_LINE.fullmatch(printed.splitlines()[-1]).groups()]
    assert all(counts)
    assert len(LAST_LINE.findall(printed)) == 1
    for words in ("point  the red mug", "count  mugs", "track  the lemon"):
        assert words in printed
    assert re.search(rf"^ +\d+\.\d s  point  the red mug +{TARGET} {METRES} {AGE}", printed, re.M)
    assert re.search(rf"^ +\d+\.\d s  count  mugs +\d+; {TARGET} {METRES} {AGE}", printed, re.M)
    film = cv2.VideoCapture(str(tmp_path / "demo.mp4"))
    assert film.read()[1].shape == (480, 640, 3)
    assert cv2.imread(str(tmp_path / "demo.png")).shape == (480, 640, 3)


@pytest.fixture
def film(table_frames, tmp_path):
    path = tmp_path / "table.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (320, 240))
    for frame in table_frames:
        writer.write(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def test_a_video_of_ones_own_is_asked_what_one_wants_to_know(start, film, tmp_path):
    queries = ("--query", "track: the red mug", "--query", "How many mugs are there?")
    demo = start("--video", str(film), *queries, "--seconds", "2", "--output", str(tmp_path))

    printed, told = demo.communicate(timeout=220)

    assert demo.returncode == 0, told
    assert f"demo: source {film}, engine nano" in told
    # A film has no depth, so there are pixels only.
    assert re.search(rf"^ +\d+\.\d s  track  the red mug +{TARGET} {AGE}", printed, re.M)
    assert re.search(rf"^ +\d+\.\d s  count  mugs +\d+; {TARGET} {AGE}", printed, re.M)
    assert " m age" not in printed
    assert all(map(int, LAST_LINE.fullmatch(printed.splitlines()[-1]).groups()))


def test_the_page_is_served_beside_it_until_it_is_ended(start, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    demo = start("--web", "--port", str(port), "--output", str(tmp_path))

    state, end = {}, time.monotonic() + 120
    while not state.get("queries", {}).get("/grounding") and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/state") as reply:
                state = json.load(reply)
        except OSError:
            assert demo.poll() is None, demo.communicate()
        time.sleep(0.2)
    names = [query["words"] for query in state["queries"]["/grounding"]["queries"]]
    assert names == ["the red mug", "mugs", "the lemon"]
    demo.send_signal(signal.SIGINT)
    _, told = demo.communicate(timeout=60)
    assert demo.returncode == 130, told
    assert f"demo: open http://localhost:{port}/; corrections are recorded in {tmp_path}" in told


@pytest.mark.parametrize(
    ("option", "source", "words"),
    [
        ("--video", "/no/such/video.mp4", "does not exist; check the path"),
        ("--camera", "/dev/video97", "does not exist; list the cameras with `ls /dev/video*`"),
    ],
)
def test_a_source_that_cannot_be_opened_ends_it_with_the_reason(
    start, tmp_path, option, source, words
):
    started_s = time.monotonic()
    demo = start(option, source, "--output", str(tmp_path))

    printed, told = demo.communicate(timeout=220)

    assert demo.returncode == 1
    assert f"demo: the camera shows nothing: {source} {words}" in told
    assert "Traceback" not in told
    assert printed.endswith("demo: 0 frames, 0 points messages, 0 tracks messages, 0 answers\n")
    # Long before the time that an answer is waited for.
    assert time.monotonic() - started_s < 60


def test_a_thing_that_the_model_does_not_know_ends_it_with_what_it_knows(start, tmp_path):
    demo = start("--query", "point: the spaceship", "--output", str(tmp_path))

    printed, told = demo.communicate(timeout=220)

    assert demo.returncode == 1
    assert re.search(
        r"point  the spaceship +refused: .* does not know 'spaceship', it knows: ", printed
    )
    assert "none of the questions can be answered by this model" in told
    assert printed.endswith(" 0 answers\n")


def test_a_question_that_cannot_be_asked_is_refused_before_anything_starts(start):
    demo = start("--query", "point: the <im_patch>")

    printed, told = demo.communicate(timeout=220)

    assert demo.returncode == 2
    assert "query holds '<im_patch>', a control token of the model" in told
    assert printed == ""


def test_ctrl_c_ends_it_with_its_last_line_and_no_traceback(start, tmp_path):
    demo = start("--output", str(tmp_path))
    first = demo.stdout.readline()
    assert "the camera is up" in first

    demo.send_signal(signal.SIGINT)
    time.sleep(0.05)
    demo.send_signal(signal.SIGINT)
    printed, told = demo.communicate(timeout=220)

    assert demo.returncode == 130, told
    assert "Traceback" not in told
    assert LAST_LINE.fullmatch(printed.splitlines()[-1])
