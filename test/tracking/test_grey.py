"""Frames as optical flow reads them, and the seconds of them that are kept."""

import cv2
import numpy as np
import pytest

from molmo2_ros.camera.frame import Frame
from molmo2_ros.tracking.grey import COLOUR_PX, GreyBuffer, GreyFrame

SECOND = 1_000_000_000


def make_grey(index=0, height=48, width=64, value=100):
    image = np.full((height, width, 3), value, np.uint8)
    return GreyFrame.of(Frame(image=image, stamp_ns=index * SECOND // 10))


@pytest.mark.parametrize(
    ("width", "divisor"), [(640, 1), (960, 1), (961, 2), (1280, 2), (1920, 2), (3840, 4)]
)
def test_wide_images_are_shrunk_by_a_whole_number(width, divisor):
    grey = make_grey(height=40, width=width)
    assert grey.divisor == divisor
    assert grey.grey.shape == (40 // divisor, width // divisor)


@pytest.mark.parametrize("size", [(1, 1), (1, 961), (961, 1), (3, 4000), (2, 2)])
def test_pictures_of_a_few_rows_or_columns_are_taken(size):
    height, width = size
    grey = make_grey(height=height, width=width)
    assert min(grey.grey.shape) >= 1
    assert grey.colours.shape[2] == 3
    assert grey.thumbnail.shape == (24, 32)


def test_pixels_of_both_sizes_name_the_same_place():
    image = np.zeros((720, 1280, 3), np.uint8)
    image[400:404, 600:604] = 255  # its middle is (601.5, 401.5)
    grey = GreyFrame.of(Frame(image=image, stamp_ns=0))
    ys, xs = np.nonzero(grey.grey)
    middle = np.array([xs.mean(), ys.mean()])
    assert grey.to_camera(middle) == pytest.approx([601.5, 401.5])
    assert grey.to_grey(np.array([601.5, 401.5])) == pytest.approx(middle)


def test_a_step_of_exposure_is_taken_back():
    rng = np.random.default_rng(0)
    image = rng.integers(40, 150, (240, 320, 3)).astype(np.uint8)
    bright = cv2.convertScaleAbs(image, alpha=1.4)
    # A third of the picture is new: the median over the thumbnail is not swayed.
    bright[:, :100] = 255
    before, after = (GreyFrame.of(Frame(image=i, stamp_ns=0)) for i in (image, bright))
    restored = after.exposed_as(before)[:, 110:].astype(int)
    assert np.abs(restored - before.grey[:, 110:]).mean() < 2


def test_the_gain_is_the_median_over_the_thumbnails():
    rng = np.random.default_rng(2)
    images = (rng.integers(40, 150, (240, 320, 3)).astype(np.uint8) for _ in range(2))
    first, second = (GreyFrame.of(Frame(image=image, stamp_ns=0)) for image in images)
    ratios = (second.thumbnail + 1) / (first.thumbnail + 1)
    assert second.gain_over(first) == pytest.approx(np.median(ratios), rel=1e-6)


def test_colours_shrunk_in_two_steps_are_those_of_one_to_a_level():
    image = np.random.default_rng(4).integers(0, 255, (122, 163, 3)).astype(np.uint8)
    colours = GreyFrame.of(Frame(image=image, stamp_ns=0)).colours
    once = cv2.resize(image[:120, :160], (40, 30), interpolation=cv2.INTER_AREA)
    assert np.abs(colours.astype(int) - once).max() <= 1


def test_equal_exposure_costs_nothing():
    before, after = make_grey(value=100), make_grey(value=100)
    assert after.exposed_as(before) is after.grey


def test_colours_are_means_over_squares_of_the_grey_picture():
    image = np.zeros((48, 64, 3), np.uint8)
    image[8 : 8 + COLOUR_PX, 16 : 16 + COLOUR_PX] = (200, 100, 50)
    grey = GreyFrame.of(Frame(image=image, stamp_ns=0))
    row, column = 8 // COLOUR_PX, 16 // COLOUR_PX
    assert grey.colours[row, column].tolist() == [200, 100, 50]
    assert grey.colours.sum() == 350
    middle = np.array([16, 8]) + (COLOUR_PX - 1) / 2
    assert grey.to_colours(middle) == pytest.approx([column, row])


def test_exposure_that_creeps_by_less_than_a_grey_level_a_frame_is_followed():
    rng = np.random.default_rng(0)
    scene = rng.uniform(40, 150, (96, 128, 3))
    buffer = GreyBuffer()
    for index in range(31):
        image = (scene * 1.002**index + rng.normal(0, 2, scene.shape)).clip(0, 255)
        frame = GreyFrame.of(Frame(image=image.astype(np.uint8), stamp_ns=index * SECOND // 30))
        buffer.push(frame)
    assert buffer.exposure(frame) == pytest.approx(1.002**30, abs=0.01)


def test_old_frames_go_by_time_and_number():
    buffer = GreyBuffer(duration_s=1.0, max_frames=100)
    for index in range(30):
        assert buffer.push(make_grey(index))
    assert len(buffer) == 11
    assert next(iter(buffer)).stamp_ns == round(1.9 * SECOND)
    short = GreyBuffer(duration_s=100.0, max_frames=3)
    for index in range(5):
        short.push(make_grey(index))
    assert [frame.stamp_ns * 10 // SECOND for frame in short] == [2, 3, 4]
    assert short.newest.stamp_ns == round(0.4 * SECOND)


def test_a_stream_that_begins_anew_empties_the_buffer():
    buffer = GreyBuffer()
    assert buffer.newest is None
    assert buffer.push(make_grey(5))
    assert buffer.push(make_grey(6))
    assert not buffer.push(make_grey(2))
    assert len(buffer) == 1
    assert not buffer.push(make_grey(3, height=96, width=128))
    assert len(buffer) == 1
