"""Our conversions give what cv_bridge gave, byte for byte: its own results in cv_bridge.json."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from molmo2_ros.camera.encodings import IMAGE_ENCODINGS, decode_image

TABLE = json.loads(Path(__file__).with_name("cv_bridge.json").read_text(encoding="utf-8"))
# The cv_bridge that made the table, 1.16.2, has none of these; later ones have some.
NEWER = {"yuv422_yuy2", "uyvy", "yuyv", "nv12", "nv21"}


def pixels(case, name):
    shape = (case["height"], case["width"], -1)
    return np.frombuffer(base64.b64decode(case[name]), np.uint8).reshape(shape)


def decoded(case, **changes):
    fields = {name: case[name] for name in case if name != "rgb"}
    return decode_image(**{**fields, "data": pixels(case, "data"), **changes})


@pytest.mark.parametrize(
    "case", TABLE["cases"], ids=lambda c: c["encoding"] + "-big" * c["is_bigendian"]
)
def test_conversion_equals_that_of_cv_bridge(case):
    assert np.array_equal(decoded(case), pixels(case, "rgb"))


def test_cv_bridge_was_asked_about_every_encoding_that_it_knows():
    assert {case["encoding"] for case in TABLE["cases"]} == set(IMAGE_ENCODINGS) - NEWER


@pytest.mark.parametrize(("encoding", "is_swapped"), [("uyvy", 0), ("yuyv", 1), ("yuv422_yuy2", 1)])
def test_newer_names_of_yuv_422_differ_in_the_order_of_bytes_only(encoding, is_swapped):
    case = next(case for case in TABLE["cases"] if case["encoding"] == "yuv422")
    data = pixels(case, "data")[:, :, ::-1] if is_swapped else pixels(case, "data")
    changed = {"encoding": encoding, "data": data.tobytes()}
    assert np.array_equal(decoded(case, **changed), pixels(case, "rgb"))
