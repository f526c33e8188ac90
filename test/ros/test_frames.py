"""Images meet their optics and their depth, or do without and say why."""

import numpy as np
import pytest

from molmo2_ros.camera.frame import CameraModel
from molmo2_ros.errors import ImageError
from molmo2_ros.ros import images
from molmo2_ros.ros.diagnostics import ProblemLog
from molmo2_ros.ros.frames import FrameAssembler

STAMP_NS = 10 * images.NS_PER_S
CAMERA = CameraModel(
    width=8, height=6, k=(10.0, 0.0, 4.0, 0.0, 10.0, 3.0, 0.0, 0.0, 1.0), d=(0.0,) * 5
)


class Silent:
    """A logger for what the test reads elsewhere."""

    def error(self, text):
        pass


@pytest.fixture
def problems():
    return ProblemLog(Silent())


@pytest.fixture
def frames(problems):
    return FrameAssembler(problems)


def image_message(frame_id="camera"):
    return images.image_message(np.full((6, 8, 3), 7, np.uint8), STAMP_NS, frame_id)


def depth_message(late_s=0.0, frame_id="camera", metres=1.0, size=(6, 8)):
    depth_m = np.full(size, metres, np.float32)
    return images.depth_message(depth_m, STAMP_NS + round(late_s * 1e9), frame_id)


def info_message(camera=CAMERA):
    return images.camera_info_message(camera, camera.width, camera.height, STAMP_NS, "camera")


def test_an_image_alone_is_a_frame_without_optics_and_depth(frames):
    frame = frames.frame_of(image_message(), 0.05)

    assert (frame.stamp_ns, frame.frame_id) == (STAMP_NS, "camera")
    assert frame.camera is None
    assert frame.depth_m is None
    assert (frame.image == 7).all()


def test_the_depth_nearest_in_time_is_taken(frames):
    frames.on_camera_info(info_message())
    for late_s, metres in ((-0.04, 1.0), (0.01, 2.0), (0.03, 3.0)):
        frames.on_depth(depth_message(late_s, metres=metres))

    frame = frames.frame_of(image_message(), 0.05)

    assert frame.camera == CAMERA
    assert (frame.depth_m == 2.0).all()


def test_depth_of_half_the_size_fits_where_its_focal_length_is_half(frames, problems):
    frames.on_camera_info(info_message())
    half = CameraModel(width=4, height=3, k=(5.0, 0.0, 2.0, 0.0, 5.0, 1.5, 0.0, 0.0, 1.0))
    frames.on_depth_info(info_message(half))
    frames.on_depth(depth_message(size=(3, 4)))

    assert frames.frame_of(image_message(), 0.05).depth_m.shape == (3, 4)
    assert problems.counts == {}


@pytest.mark.parametrize(
    ("place", "words", "spoil"),
    [
        (
            "depth",
            "depth is in frame 'infrared', the image in 'camera'; subscribe to the depth that is",
            lambda frames: frames.on_depth(depth_message(frame_id="infrared")),
        ),
        (
            "depth",
            "depth/camera_info has a focal length of 20.0 px, expected 10.0 px",
            lambda frames: (
                frames.on_depth_info(
                    info_message(
                        CameraModel(
                            width=8, height=6, k=(20.0, 0.0, 4.0, 0.0, 20.0, 3.0, 0.0, 0.0, 1.0)
                        )
                    )
                ),
                frames.on_depth(depth_message()),
            ),
        ),
        (
            "camera_info",
            "camera_info is for 16x6, the image has 8x6: no points in metres",
            lambda frames: frames.on_camera_info(
                info_message(CameraModel(width=16, height=6, k=CAMERA.k))
            ),
        ),
    ],
)
def test_depth_or_optics_that_do_not_fit_are_told_and_left_out(
    frames, problems, place, words, spoil
):
    frames.on_camera_info(info_message())
    spoil(frames)

    frame = frames.frame_of(image_message(), 0.05)

    assert words in problems.recent(place)
    assert (frame.depth_m if place == "depth" else frame.camera) is None


def test_depth_of_another_time_is_told_only_if_that_goes_on(frames, problems):
    frames.on_depth(depth_message(late_s=-0.2))

    for _ in range(9):
        assert frames.frame_of(image_message(), 0.05).depth_m is None
    assert problems.counts == {}
    frames.frame_of(image_message(), 0.05)

    assert "nearest depth image is 0.200 s away from the image" in problems.recent("depth")


def test_an_image_that_cannot_be_read_is_refused(frames):
    broken = image_message()
    broken.encoding = "smell"

    with pytest.raises(ImageError, match="unknown image encoding 'smell'"):
        frames.frame_of(broken, 0.05)
