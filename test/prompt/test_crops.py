"""Tiling, tokens of the released sizes, and windows that straddle tiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import ConfigError
from molmo2_ros.prompt.crops import CropSettings, choose_tiling, image_patches

SMALL = CropSettings(image_size=56, patch_size=14, pooling=(2, 2), overlap_margins=(1, 1))


@pytest.mark.parametrize(
    ("height", "width", "max_crops", "expected"),
    [
        # tiles of 100 px
        (100, 100, 8, (1, 1)),
        (90, 190, 8, (1, 2)),
        (200, 400, 8, (2, 4)),
        (400, 200, 8, (4, 2)),
        (1000, 1000, 4, (2, 2)),  # every tiling shrinks: the one that shrinks least
        (0, 0, 8, (1, 1)),  # smaller than the margins
    ],
)
def test_tiling_that_needs_least_enlargement(height, width, max_crops, expected):
    assert choose_tiling(height, width, 100, max_crops) == expected


@given(
    height=st.integers(-50, 4000),
    width=st.integers(-50, 4000),
    max_crops=st.integers(1, 30),
)
def test_tiling_never_exceeds_the_crops_allowed(height, width, max_crops):
    rows, columns = choose_tiling(height, width, 84, max_crops)

    assert 1 <= rows * columns <= max_crops


@pytest.mark.parametrize(
    ("height", "width", "max_crops", "num_tokens"),
    [
        # computed from the released code: low-res 196 + 2, tiles with a column token a row + 2
        (240, 320, 8, 410),
        (480, 640, 8, 752),
        (480, 848, 8, 982),
        (720, 1280, 8, 1189),
        (720, 1280, 24, 1949),
        (1080, 1920, 24, 2804),
    ],
)
def test_released_settings_give_the_released_number_of_tokens(height, width, max_crops, num_tokens):
    settings = CropSettings(image_size=378, patch_size=14, pooling=(2, 2), max_crops=max_crops)

    grid = image_patches([np.zeros((height, width, 3), np.uint8)], settings).grids[0]

    low = grid.low[0] * grid.low[1] + 2
    assert low + grid.high[0] * (grid.high[1] + 1) + 2 == num_tokens


def test_every_place_of_the_picture_is_read_once_from_inside_its_tile():
    # Two tiles of 4x4 patches with one patch of margin: a canvas of 4x6.
    ours = image_patches([np.zeros((56, 84, 3), np.uint8)], SMALL)

    assert ours.patches_KNC.shape == (3, 16, 588)
    assert ours.grids[0].low == (2, 2)
    assert ours.grids[0].high == (2, 3)
    low, high = ours.pooling_MW[:4], ours.pooling_MW[4:]
    assert low.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    # Views hold 16 patches each: 16..31 the left tile, 32..47 the right. The left one gives its
    # columns 0-2, the right one its columns 1-3, so the middle window takes from both.
    assert high.tolist() == [
        [16, 17, 20, 21],
        [18, 33, 22, 37],
        [34, 35, 38, 39],
        [24, 25, 28, 29],
        [26, 41, 30, 45],
        [42, 43, 46, 47],
    ]


def test_tiles_hold_the_pixels_of_the_enlarged_picture():
    image = np.random.default_rng(0).integers(0, 256, (56, 84, 3), np.uint8)

    ours = image_patches([image], SMALL)

    right = image[:, 28:84].reshape(4, 14, 4, 14, 3).transpose(0, 2, 1, 3, 4).reshape(16, 588)
    assert ours.patches_KNC[2] == pytest.approx(right / 127.5 - 1, abs=1e-6)


def test_windows_of_several_images_count_through_all_their_views():
    images = [np.zeros((56, 84, 3), np.uint8), np.zeros((40, 40, 3), np.uint8)]

    together = image_patches(images, SMALL)
    second = image_patches(images[1:], SMALL)

    assert len(together.grids) == 2
    num_first = 3 * 16
    assert np.array_equal(
        together.pooling_MW[-len(second.pooling_MW) :], second.pooling_MW + num_first
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 57}, "multiple of the patch"),
        ({"pooling": (0, 2)}, "at least 1"),
        ({"max_crops": 0}, "at least 1"),
        ({"overlap_margins": (2, 2)}, "leave 0 of 4 patches"),
        ({"overlap_margins": (-1, 1)}, "overlap margins"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change, words):
    values = {
        "image_size": 56,
        "patch_size": 14,
        "pooling": (2, 2),
        "max_crops": 8,
        "overlap_margins": (1, 1),
        **change,
    }
    with pytest.raises(ConfigError, match=words):
        CropSettings(**values)
