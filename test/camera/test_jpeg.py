"""The size of a JPEG without decoding it."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.camera.jpeg import jpeg_size


def jpeg(width, height, *options):
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(".jpg", picture, list(options))[1].tobytes()


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (17, 333)])
def test_size_is_that_of_the_picture_and_not_of_a_thumbnail_in_it(size, options):
    data = jpeg(*size, *options)
    thumbnail = jpeg(8, 8)
    segment = b"\xff\xe1" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    assert jpeg_size(data) == jpeg_size(data[:2] + segment + data[2:]) == size


def test_what_is_no_jpeg_or_is_cut_has_no_size():
    data = jpeg(64, 48)
    at = data.index(b"\xff\xc0")
    assert [jpeg_size(data[:end]) for end in (0, 2, 10, at, at + 8)] == [None] * 5
    assert jpeg_size(b"\x89PNG\r\n") is None


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    for start in (b"", b"\xff\xd8", b"\xff\xd8\xff\xc0", b"\xff\xd8\xff\xe0\x00\x02"):
        size = jpeg_size(start + data)
        assert size is None or min(size) > 0
