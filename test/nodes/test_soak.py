"""benchmarks/soak.py in short: it lasts, it breaks things, and it knows a lie when it sees one."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.soak_camera import spoilt_image, spoilt_jpeg
from benchmarks.soak_watch import Heard, Honesty, Points, Sent, Truth, judge
from molmo2_ros.errors import ImageError
from molmo2_ros.ros import images
from molmo2_ros.ros.clouds import POINTS_DTYPE

SOAK = Path(soak.__file__)
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
PERIOD_NS = 33_000_000
PATIENCE_S = 300.0


def test_a_short_soak_and_two_faults(domain_id):
    arguments = ["--minutes", "0.15", "--cameras", "front,wrist", "--frames", "4", "--json"]
    done = subprocess.run(
        [sys.executable, str(SOAK), *arguments, "--only", "camera_stopped,camera_killed"],
        env={**os.environ, "ROS_DOMAIN_ID": str(domain_id)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    figures = report["figures"]
    assert figures["unhandled_exceptions"] == 0
    assert figures["images"] > figures["points_messages"] / 2 > 10
    assert figures["queries_changed"] >= 5
    assert figures["max_points_gap_s"] > 0
    assert (figures["faults_injected"], figures["faults_honest"]) == (2, 2), report["rows"]
    # How soon is for a machine that does nothing else.
    assert all(row["recovered"] for row in report["rows"] if "recovered" in row), report["rows"]


def test_growth_is_of_the_last_fifth_against_the_first():
    # Ten values: medians of (100, 102) and of (110, 112).
    values = [100.0, 102.0, 500.0, 1.0, 2.0, 3.0, 4.0, 5.0, 110.0, 112.0]
    assert soak.growth(values) == (101.0, 111.0)


def test_a_gap_is_also_one_before_the_first_message_and_after_the_last():
    # Of 10 s to 13 s: messages at 11 and 11.25.
    gaps_s = soak.gaps_s([9.9, 11.0, 11.25, 13.5], 10.0, 13.0)
    assert gaps_s == pytest.approx([1.0, 0.25, 1.75])


def test_spoilt_images_cannot_be_read():
    numbers = random.Random(1)
    for _ in range(50):
        spoilt = spoilt_image(images.image_message(PICTURE, 1, "camera"), numbers)
        with pytest.raises(ImageError, match="."):
            images.rgb_of(spoilt)
        spoilt = spoilt_jpeg(images.jpeg_message(PICTURE, 1, "camera", 90), numbers)
        with pytest.raises(ImageError, match="."):
            images.rgb_of_compressed(spoilt)


@pytest.fixture
def heard(tmp_path):
    """Ten images of a mug that covers columns 20 to 29, the last but one of them corrupt."""
    instances = np.zeros((1, 48, 64), np.uint8)
    instances[0, :, 20:30] = 1
    np.savez(tmp_path / "frames.npz", instances=instances, names=np.array(["red mug"]))
    heard = Heard(Truth(tmp_path / "frames.npz"), words={7: "the red mug"}, standing={7})
    for number in range(10):
        stamp_ns = (number + 1) * PERIOD_NS
        heard.sent[stamp_ns // 1_000_000] = Sent(
            stamp_ns=stamp_ns,
            number=0,
            scale=1.0,
            is_corrupt=number == 8,
            sent_s=100.0 + stamp_ns / 1e9,
        )
    return heard


def points(number, u=25.0, age_s=2 * PERIOD_NS / 1e9):
    """A message about an image, with a row whose answer was about the one two before."""
    rows = np.zeros(1, POINTS_DTYPE)
    rows["query_id"], rows["u"], rows["v"], rows["age"] = 7, u, 10.0, age_s
    return Points(time.monotonic(), (number + 1) * PERIOD_NS, rows)


LIES = {
    "honest": ((7, {}), None),
    "a stamp of a corrupt image": ((8, {}), "unsent"),
    "a stamp of no image": ((20, {}), "unsent"),
    "a frame told of twice": ((3, {}), "repeated"),
    "a point that stayed behind": ((7, {"u": 40.0}), "wrong"),
    "an age that stopped between two images": ((7, {"age_s": 0.05}), "unconfirmed"),
    "an age of a corrupt image": ((9, {"age_s": PERIOD_NS / 1e9}), "unconfirmed"),
}


@pytest.mark.parametrize(("message", "lie"), LIES.values(), ids=LIES)
def test_what_is_not_so_is_found(heard, message, lie):
    number, fields = message
    total = Honesty()
    judge(heard, points(number, **fields), {4 * PERIOD_NS}, None, total)
    found = {
        name for name in ("wrong", "unsent", "repeated", "unconfirmed") if getattr(total, name)
    }
    assert found == ({lie} if lie else set())
    assert total.is_honest is (lie in (None, "wrong"))  # the model may err in two rows


def test_nothing_can_be_confirmed_while_the_model_does_not_answer(heard):
    total = Honesty()
    now_s = time.monotonic()
    judge(heard, points(7), set(), (100.0, now_s + 1.0), total)
    assert (total.impossible, total.is_honest) == (1, False)
    # The outage was over when it came, or it was confirmed on an image of before.
    judge(heard, points(7), set(), (100.0, now_s - 1.0), total)
    judge(heard, points(7), set(), (101.0, now_s + 1.0), total)
    assert total.impossible == 1
