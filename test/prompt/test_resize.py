"""Resizing against a plain float64 bilinear; bytes against torch are in test/parity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmo2_ros.prompt.resize import resize_bilinear


def slow_bilinear(image, height, width):
    """Half-pixel bilinear in float64, one output pixel at a time."""
    result = np.empty((height, width, 3))
    for y in range(height):
        for x in range(width):
            at = []
            for i, size, wanted in ((y, image.shape[0], height), (x, image.shape[1], width)):
                position = max((i + 0.5) * size / wanted - 0.5, 0)
                low = min(int(position), size - 1)
                at.append((low, min(low + 1, size - 1), position - low))
            (top, bottom, fy), (left, right, fx) = at
            upper = image[top, left] * (1 - fx) + image[top, right] * fx
            lower = image[bottom, left] * (1 - fx) + image[bottom, right] * fx
            result[y, x] = upper * (1 - fy) + lower * fy
    return result


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.tuples(*[st.integers(1, 24)] * 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_size_is_within_half_a_step_of_exact_bilinear(sizes, seed):
    height, width, to_height, to_width = sizes
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)

    resized = resize_bilinear(image, to_height, to_width)

    assert resized.shape == (to_height, to_width, 3)
    assert resized.dtype == np.uint8
    error = np.abs(resized - slow_bilinear(image, to_height, to_width))
    assert error.max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ("row", "wanted", "expected"),
    [
        ([0, 100], 4, [0, 25, 75, 100]),  # positions -0.25 0.25 0.75 1.25, the ends held
        ([0, 255, 0, 255], 2, [128, 128]),  # 127.5 twice: ties go to the even byte
        ([1, 2, 3, 4], 2, [2, 4]),  # 1.5 and 3.5: ties to even
        ([7], 3, [7, 7, 7]),
    ],
)
def test_hand_worked_rows(row, wanted, expected):
    image = np.repeat(np.array(row, np.uint8)[None, :, None], 3, axis=2)

    assert resize_bilinear(image, 1, wanted)[0, :, 0].tolist() == expected
    assert resize_bilinear(image.transpose(1, 0, 2), wanted, 1)[:, 0, 1].tolist() == expected


def test_a_strided_picture_is_read_right():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)

    flipped = resize_bilinear(image[:, ::-1, ::-1], 21, 33)

    assert np.array_equal(flipped, resize_bilinear(image[:, ::-1, ::-1].copy(), 21, 33))


def test_the_wanted_size_already_is_returned_as_it_is():
    image = np.zeros((14, 14, 3), np.uint8)

    assert resize_bilinear(image, 14, 14) is image
