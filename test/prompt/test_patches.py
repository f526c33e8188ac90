"""Order and scale of patches, and pooling windows with their padding."""

import numpy as np
import pytest

from molmo2_ros.prompt.patches import clip_patches, clip_pooling, frame_patches, frame_pooling


def test_patches_run_row_by_row_and_flatten_row_column_channel():
    image = np.zeros((28, 28, 3), np.uint8)
    image[3, 14 + 5, 2] = 255  # second patch, its row 3, column 5, blue

    patches = frame_patches(image, 28, 14)

    assert patches.shape == (4, 588)
    assert np.flatnonzero(patches[1] > 0).tolist() == [(3 * 14 + 5) * 3 + 2]
    assert (np.delete(patches, 1, axis=0) == -1).all()


def test_bytes_become_minus_one_to_one():
    image = np.full((14, 14, 3), 255, np.uint8)
    image[0, 0] = [0, 51, 128]

    patches = frame_patches(image, 14, 14)

    assert patches.dtype == np.float32
    assert patches[0, :3] == pytest.approx([-1, -0.6, 128 / 127.5 - 1])
    assert patches[0, 3:].max() == patches[0, 3:].min() == 1


def test_frame_is_squeezed_to_the_square_view():
    left = np.zeros((30, 90, 3), np.uint8)
    left[:, :45] = 255

    patches = frame_patches(left, 28, 14).mean(axis=1)

    assert patches[0] > 0.9 > -0.9 > patches[1]


def test_clip_patches_are_those_of_each_frame():
    frames = [np.full((20, 30, 3), value, np.uint8) for value in (10, 200)]

    together = clip_patches(frames, 28, 14)

    assert np.array_equal(together[1], frame_patches(frames[1], 28, 14))


@pytest.mark.parametrize(
    ("grid", "pool", "expected"),
    [
        (2, (2, 2), [[0, 1, 2, 3]]),
        # 3 by 2: one column and one row short, added after the last
        (3, (2, 2), [[0, 1, 3, 4], [2, -1, 5, -1], [6, 7, -1, -1], [8, -1, -1, -1]]),
        # 1 by 3: two short, one before and one after
        (1, (3, 3), [[-1, -1, -1, -1, 0, -1, -1, -1, -1]]),
        (2, (1, 2), [[0, 1], [2, 3]]),
        (2, (2, 1), [[0, 2], [1, 3]]),
    ],
)
def test_pooling_windows_of_a_frame(grid, pool, expected):
    assert frame_pooling(grid, pool).tolist() == expected


def test_pooling_of_the_released_sizes_gives_81_tokens_a_frame():
    assert frame_pooling(27, (3, 3)).shape == (81, 9)
    assert frame_pooling(27, (3, 3)).min() == 0


def test_pooling_of_a_clip_counts_patches_through_all_frames():
    windows = clip_pooling(2, 3, (2, 2))

    assert windows[:4].tolist() == frame_pooling(3, (2, 2)).tolist()
    assert windows[4:].tolist() == [
        [9, 10, 12, 13],
        [11, -1, 14, -1],
        [15, 16, -1, -1],
        [17, -1, -1, -1],
    ]
