"""`molmo2 web` as a command, and `molmo2 ask --url` of it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from molmo2_ros.cli.main import main
from molmo2_ros.simulation.source import TableSource

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A short video of the simulated table."""
    path = tmp_path_factory.mktemp("film") / "table.avi"
    source = TableSource(seed=0, width=320, height=240, rate_hz=8.0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 8.0, (320, 240))
    for _ in range(8):
        writer.write(cv2.cvtColor(source.read().image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture
def served(film, tmp_path):
    """A page about the video, and where it is."""
    command = [
        *(sys.executable, "-m", "molmo2_ros.cli.main", "web", str(film), "--port", "0"),
        *("--threads", "1", "--query", "mugs=count: mugs", "--corrections", tmp_path / "fixes"),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    told = process.stderr.readline()
    url = re.search(r"open (http://127\.0\.0\.1:\d+/)", told)
    assert url, told + process.stderr.read()
    yield process, url[1]
    if process.poll() is None:
        process.kill()
    process.communicate()


def ask(capsys, *arguments):
    code = main(["ask", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_video_is_served_asked_and_ended_by_ctrl_c(served, capsys):
    process, url = served
    code, out, err = ask(capsys, "--url", url, "Point to the lemon", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["frame_id"] == "table.avi"
    assert len(answer["points"]) == 1
    code, out, _ = ask(capsys, "--url", url, "How many mugs are there?")
    assert out.splitlines()[0] == f"count: {len(out.splitlines()) - 2}"
    assert re.search(r"^ +\d+\.\d +1 +\d+\.\d +\d+\.\d  mugs    0\.\d\d$", out, re.MULTILINE)
    code, _, err = ask(capsys, "--url", url, "Point to the elephant")
    assert (code, "does not know 'elephant'" in err) == (2, True)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "http://127.0.0.1:1", "count: mugs"], "does not answer as a live page does"),
        (["--url", "gopher://robot", "count: mugs"], "no address of a page"),
        (
            ["--url", "robot:8080", "a.mp4", "count: mugs"],
            "leave the files, --out and --rerun away",
        ),
    ],
)
def test_a_page_that_is_none_is_one_clear_line(capsys, arguments, words):
    code, out, err = ask(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.mp4"], "nowhere.mp4 does not exist"),
        (["table", "--size", "wide"], "expected width and height such as 640x480"),
        (["table", "--query", "point:"], "query is empty"),
        (["table", "--query", "point: the elephant"], "does not know 'elephant'"),
        (["table", "--token", "short"], "expected 16 or more letters"),
        (["table", "--rate", "-1"], "expected 0 to 240 frames a second"),
        (["table", "--host", "256.1.1.1"], "choose another port"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(capsys, arguments, words):
    assert main(["web", *arguments]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("molmo2 web: error: ")
    assert words in told


def test_without_the_extra_the_page_says_what_to_install(film):
    code = (
        "import sys; sys.modules['uvicorn'] = None; "
        "from molmo2_ros.cli.main import main; "
        f"sys.exit(main(['web', {str(film)!r}, '--port', '0']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 2
    assert 'pip install "molmo2_ros[web]"' in result.stderr
