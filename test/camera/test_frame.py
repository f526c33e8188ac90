"""A frame is read-only RGB and its own key."""

import numpy as np
import pytest

from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ImageError


def test_frame_is_read_only_and_its_own_key():
    image = np.zeros((4, 6, 3), np.uint8)
    one, other = Frame(image=image, stamp_ns=1), Frame(image=image, stamp_ns=1)

    assert (one.width, one.height) == (6, 4)
    assert len({one, other}) == 2
    with pytest.raises(ValueError, match="read-only"):
        one.image[0] = 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 6), np.uint8),
        np.zeros((4, 6, 4), np.uint8),
        np.zeros((4, 6, 3), np.float32),
        np.zeros((0, 6, 3), np.uint8),
    ],
)
def test_anything_but_rgb_bytes_is_refused(image):
    with pytest.raises(ImageError, match=r"expected non-empty uint8 \[H, W, 3\] RGB"):
        Frame(image=image, stamp_ns=0)
