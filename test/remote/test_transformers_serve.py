"""Against a server that nobody here wrote: `transformers serve` with the shipped checkpoint.

It takes no video of a Molmo2: in 5.23 the model counts as multimodal, so that the sound of each
video is read, which a list of pictures has not. So still images are compared, and what differs then
is JPEG's loss alone.
"""

import base64
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from molmo2_ros.answers.text import parse_answer
from molmo2_ros.camera.clip import Clip
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import QueryError
from molmo2_ros.grounder import Grounder
from molmo2_ros.prompt.query import Detail, parse_query
from molmo2_ros.remote.messages import ClipForm
from molmo2_ros.remote.pictures import PictureCache
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.manifest import SKILLS

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0  # a busy machine
QUESTIONS = ("point[crops]: the red mug", "point[crops]: all mugs", "point[crops]: the lemon")


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """URL of the server."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "hub").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", "from benchmarks.transformers_serve import main; main()"]
            + [str(NANO / "checkpoint"), "--port", str(port)],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(
                    filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
                ),
                "HF_HOME": str(folder),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait_for(process, url, log):
    end = time.monotonic() + PATIENCE_S
    while True:
        is_waiting = process.poll() is None and time.monotonic() < end
        assert is_waiting, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=1.0).close()
            return
        except OSError:
            time.sleep(0.1)


@pytest.fixture(scope="module")
def taught():
    """The model on this machine, believed to read tiles, for which it was not trained."""
    engine = load_engine(threads=1)
    engine.manifest = replace(engine.manifest, skills=tuple(SKILLS), vocabulary=())
    return Grounder(engine, drafted=False)


def as_sent(frame):
    """A frame as the server sees it: out of the JPEG that is sent."""
    text = PictureCache(quality=95, frame_size=0).picture(frame, Detail.CROPS)
    image = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
    return Frame(image=cv2.cvtColor(image, cv2.COLOR_BGR2RGB), stamp_ns=frame.stamp_ns)


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_image_question_is_answered_word_for_word_as_here(serve, remote, taught, clip, question):
    query = parse_query(question)
    grounder = remote(serve)
    seen = []
    there = grounder.answer(clip, query, on_partial=seen.append)
    here = taught.answer(Clip((as_sent(clip.frames[-1]),)), query)
    assert there.text == here.text
    assert there.timing.num_prompt_tokens == here.timing.num_prompt_tokens
    # From the picture before JPEG: the same places within 2 % of the picture.
    raw = parse_answer(taught.answer(clip, query).text).points
    points = parse_answer(there.text).points
    assert len(points) == len(raw) > 0
    for one, other in zip(points, raw, strict=True):
        assert abs(one.x - other.x) <= 0.02
        assert abs(one.y - other.y) <= 0.02
    # It gives no probabilities.
    assert {point.confidence for point in there.points} <= {None}


def test_two_images_are_numbered_as_here(serve, remote, taught, clip):
    query = parse_query("point: the red mug")
    there = remote(serve).answer_images(clip.frames[:2], query, max_new_tokens=60)
    here = taught.answer_images(
        [as_sent(frame) for frame in clip.frames[:2]], query, max_new_tokens=60
    )
    assert there.text == here.text
    assert there.timing.num_prompt_tokens == here.timing.num_prompt_tokens


def test_that_it_takes_no_clip_is_found_out_and_said(serve, remote, clip):
    grounder = remote(serve)
    facts = grounder.server.connect()
    assert facts.form is ClipForm.STILL
    with pytest.raises(QueryError, match="several frames.*422: Unexpected fields"):
        grounder.answer(clip, parse_query("track: the lemon"))
    # Pointing at now goes with a still image.
    assert grounder.answer(clip, parse_query("point: the red mug")).text


def test_an_answer_that_is_given_up_leaves_the_server_free(serve, remote, clip):
    grounder = remote(serve)
    query = parse_query("point[crops]: all mugs")
    whole = grounder.answer(clip, query)
    looks = []

    def cancel(_):
        looks.append(time.monotonic())
        return len(looks) > 1

    cut = grounder.answer(clip, query, cancel=cancel)
    assert cut.problems == ("cancelled before its end",)
    assert grounder.answer(clip, query).text == whole.text


def test_the_limit_of_tokens_is_heeded(serve, remote, clip):
    answer = remote(serve).answer(clip, parse_query(QUESTIONS[0]), max_new_tokens=5)
    assert answer.truncated
    assert answer.timing.num_answer_tokens == 5
