"""Images meet their optics and their depth, or do without and say why."""

import numpy as np
import pytest

from molmo2_ros.camera.frame import CameraModel
from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import ImageError
from molmo2_ros.ros import images
from molmo2_ros.ros.diagnostics import ProblemLog
from molmo2_ros.ros.frames import FrameAssembler

STAMP_NS = 10 * NS_PER_S
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


def optics(width=8, height=6, k=CAMERA.k, **changes):
    return info_message(CameraModel(width=width, height=height, k=k, **changes))


def k_of(focal, cx, cy):
    return (focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0)


def spoilt(message, **changes):
    for name, value in changes.items():
        setattr(message, name, value)
    return message


# What comes beside the image (camera_info, depth's camera_info, depth), the cause that programs
# read, and what people read. None: it never comes.
MISFITS = [
    (None, None, depth_message(), "no_camera_info", "no camera_info has come; remap"),
    (
        optics(width=16, k=k_of(20.0, 8.0, 3.0)),
        optics(),
        depth_message(),
        "camera_info_other_size",
        "camera_info is for 16x6, the image has 8x6: no points in metres",
    ),
    (optics(k=(0.0,) * 9), None, depth_message(), "uncalibrated", "has no focal length"),
    (
        optics(d=(0.1,) * 5, distortion_model="ftheta"),
        None,
        depth_message(),
        "distortion_unknown",
        "distortion_model 'ftheta' with 5 coefficients, expected one of plumb_bob",
    ),
    (
        optics(d=(0.1,) * 6),
        None,
        depth_message(),
        "distortion_unknown",
        "distortion_model 'plumb_bob' with 6 coefficients",
    ),
    (optics(), None, None, "no_depth", "no depth image has come; remap depth"),
    (
        optics(),
        None,
        depth_message(late_s=0.2),
        "depth_apart",
        "the nearest depth image is 0.200 s away from the image, expected at most 0.05 s",
    ),
    (
        optics(),
        None,
        depth_message(late_s=-3.0),
        "depth_stopped",
        "the newest depth image is 3.0 s older than the image: depth comes no more",
    ),
    (
        optics(),
        None,
        depth_message(frame_id="infrared"),
        "depth_other_frame",
        "depth is in frame 'infrared', the image in 'camera'; subscribe to the depth that is",
    ),
    (
        optics(),
        optics(k=k_of(20.0, 4.0, 3.0)),
        depth_message(),
        "depth_not_registered",
        "depth/camera_info has a focal length of 20.0 px, expected 10.0 px",
    ),
    (
        optics(),
        optics(k=k_of(10.0, 6.0, 3.0)),
        depth_message(),
        "depth_not_registered",
        "depth/camera_info has its centre at 6.0 px, expected 4.0 px",
    ),
    (
        optics(),
        optics(width=4, height=3),
        depth_message(),
        "depth_info_other_size",
        "depth/camera_info is for 4x3, the depth image has 8x6",
    ),
    (
        optics(),
        None,
        depth_message(size=(6, 6)),
        "depth_other_shape",
        "depth has 6x6 pixels, the image 8x6: not one view scaled",
    ),
    (
        optics(),
        None,
        spoilt(depth_message(), encoding="8UC1"),
        "depth_unreadable",
        "depth image: unknown depth encoding '8UC1'; expected 16UC1",
    ),
]


@pytest.mark.parametrize(("info", "depth_info", "depth", "cause", "words"), MISFITS)
def test_each_misfit_has_its_cause_and_cure_and_is_left_out(
    frames, info, depth_info, depth, cause, words
):
    for message, take in (
        (info, frames.on_camera_info),
        (depth_info, frames.on_depth_info),
        (depth, frames.on_depth),
    ):
        if message is not None:
            take(message)

    frame = frames.frame_of(image_message(), 0.05)

    (obstacle,) = frames.obstacles
    assert obstacle.cause == cause
    assert words in str(obstacle)
    assert frame.camera is None or frame.depth_m is None


def test_what_fits_again_is_taken_again(frames, problems):
    frames.on_camera_info(optics(width=16))
    frames.on_depth(depth_message(frame_id="infrared"))
    frames.frame_of(image_message(), 0.05)
    assert {o.cause for o in frames.obstacles} == {"camera_info_other_size", "depth_other_frame"}
    assert "camera_info is for 16x6" in problems.recent("camera_info")

    frames.on_camera_info(optics())
    for _ in range(8):
        frames.on_depth(depth_message())
    frame = frames.frame_of(image_message(), 0.05)

    assert frames.obstacles == []
    assert problems.recent("camera_info") == problems.recent("depth") == ""
    assert frame.camera is not None
    assert frame.depth_m is not None


def test_a_camera_without_depth_is_no_fault(frames, problems):
    frames.frame_of(image_message(), 0.05)

    assert {o.cause for o in frames.obstacles} == {"no_camera_info", "no_depth"}
    assert problems.counts == {}


def test_depth_of_another_shape_fits_where_its_optics_prove_it(frames):
    # Half as wide, as high: the pixels are twice as wide as high.
    frames.on_camera_info(optics())
    k = (5.0, 0.0, 2.0, 0.0, 10.0, 3.0, 0.0, 0.0, 1.0)
    frames.on_depth_info(optics(width=4, height=6, k=k))
    frames.on_depth(depth_message(size=(6, 4)))

    assert frames.frame_of(image_message(), 0.05).depth_m.shape == (6, 4)


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


def test_a_camera_on_its_side_keeps_its_pixels_and_shows_them_upright(frames):
    message = image_message()
    frame = frames.frame_of(message, 0.05, rotation=270)
    assert (frame.width, frame.height, frame.turns) == (8, 6, 3)
    assert frame.upright.shape == (8, 6, 3)
