"""Image, depth and CameraInfo messages there and back."""

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from molmo2_ros.camera.frame import CameraModel
from molmo2_ros.errors import ImageError
from molmo2_ros.ros import images

STAMP_NS = 1_700_000_000_123_456_789


def picture(height=12, width=17):
    rng = np.random.default_rng(3)
    return rng.integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_an_image_comes_back_equal_with_its_stamp_and_frame_id(encoding):
    image = picture()

    message = images.image_message(image, STAMP_NS, "camera", encoding)

    assert images.stamp_ns_of(message) == STAMP_NS
    assert message.header.frame_id == "camera"
    np.testing.assert_array_equal(images.rgb_of(message), image)


def test_depth_comes_back_to_the_millimetre_and_unknown_becomes_nan():
    depth_m = np.array([[0.5, 1.2345, np.nan], [0.0, 70.0, np.inf]], np.float32)

    back = images.depth_of(images.depth_message(depth_m, STAMP_NS, "camera"))

    # 70 m is beyond 16 bits of millimetres and becomes the largest value.
    expected = np.array([[0.5, 1.234, np.nan], [np.nan, 65.535, np.nan]], np.float32)
    np.testing.assert_allclose(back, expected, atol=6e-4)


def test_camera_info_comes_back_equal():
    camera = CameraModel(
        width=640,
        height=480,
        k=(500.0, 0.0, 320.0, 0.0, 501.0, 240.0, 0.0, 0.0, 1.0),
        d=(0.1, -0.2, 0.0, 0.0, 0.01),
    )

    info = images.camera_info_message(camera, 640, 480, STAMP_NS, "camera")

    assert images.camera_model(info) == camera
    assert list(info.p) == [500, 0, 320, 0, 0, 501, 240, 0, 0, 0, 1, 0]


def test_an_uncalibrated_camera_info_gives_no_model():
    info = images.camera_info_message(None, 640, 480, STAMP_NS, "camera")

    assert not info.k.any()
    assert images.camera_model(info) is None
    assert images.camera_model(CameraInfo()) is None


def test_jpeg_comes_back_close():
    smooth = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)

    message = images.jpeg_message(smooth, STAMP_NS, "camera", quality=95)

    back = images.rgb_of_compressed(message).astype(int)
    assert np.abs(back - smooth).mean() < 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "vacuum"}, "unknown image encoding 'vacuum'"),
        ({"step": 5}, "step is 5 bytes, expected at least 51"),
        ({"height": 13}, "data has 612 bytes, expected 663"),
        ({"height": 0}, "image is 17x0 pixels"),
        ({"width": 0}, "image is 0x12 pixels"),
    ],
)
def test_a_bad_image_is_refused_naming_what_is_wrong(change, words):
    message = images.image_message(picture(), STAMP_NS, "camera")
    for name, value in change.items():
        setattr(message, name, value)

    with pytest.raises(ImageError, match=words):
        images.rgb_of(message)


def test_an_empty_image_message_is_refused():
    with pytest.raises(ImageError, match="unknown image encoding ''"):
        images.rgb_of(Image())
    with pytest.raises(ImageError, match="cannot be decoded"):
        images.rgb_of_compressed(CompressedImage(format="jpeg"))
