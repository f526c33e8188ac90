"""Video frames to normalised patches and pooling windows: one square view per frame.

Letters: K views, N patches a view, C = patch_size ** 2 * 3 values a patch, M visual tokens,
W patches pooled into one token.
Source: transformers' Molmo2VideoProcessor; equal to it byte for byte (test/parity).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from molmo2_ros.prompt.resize import resize_bilinear


def frame_patches(
    image: npt.NDArray[np.uint8], image_size: int, patch_size: int
) -> npt.NDArray[np.float32]:
    """Squeeze a frame into the square view and cut it into patches.

    Args:
        image: uint8 [H, W, 3] RGB of any size; its aspect is not kept, as in training.
        image_size: side of the view, pixels.
        patch_size: side of a patch, pixels.

    Returns:
        float32 [N, C], -1..1; patches row by row, each flattened as (row, column, channel).
    """
    view = resize_bilinear(image, image_size, image_size)
    return normalised_patches(view[None], patch_size).reshape(-1, 3 * patch_size**2)


def clip_patches(
    images: list[npt.NDArray[np.uint8]], image_size: int, patch_size: int
) -> npt.NDArray[np.float32]:
    """Patches of several frames, float32 [K, N, C]."""
    return np.stack([frame_patches(image, image_size, patch_size) for image in images])


def frame_pooling(grid: int, pool: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Patches of one view that are pooled into each visual token.

    Args:
        grid: patches a side.
        pool: rows and columns of a window.

    Returns:
        int64 [M, W], tokens row by row, windows row by row; -1 where a window reaches over the
        edge (half of what is missing before the first row or column, the rest after the last).

    Example:
        A 3x3 grid pooled by (2, 2) is padded after the last row and column:
        [[0 1 3 4], [2 -1 5 -1], [6 7 -1 -1], [8 -1 -1 -1]].
    """
    return pooling_windows(np.arange(grid * grid, dtype=np.int64).reshape(grid, grid), pool)[0]


def clip_pooling(num_frames: int, grid: int, pool: tuple[int, int]) -> npt.NDArray[np.int64]:
    """The windows of several frames, int64 [num_frames * M, W] into all their patches."""
    windows_MW = frame_pooling(grid, pool)
    offset_K11 = (np.arange(num_frames, dtype=np.int64) * grid * grid)[:, None, None]
    shifted = np.where(windows_MW >= 0, windows_MW + offset_K11, -1)
    return shifted.reshape(-1, windows_MW.shape[1])


def normalised_patches(views: npt.NDArray[np.uint8], patch_size: int) -> npt.NDArray[np.float32]:
    """Cut views into patches and scale bytes to -1..1.

    Args:
        views: uint8 [K, S, S, 3] whose side is a multiple of patch_size.
        patch_size: pixels.

    Returns:
        float32 [K, N, C].
    """
    num_views, side = views.shape[:2]
    grid = side // patch_size
    cut = views.reshape(num_views, grid, patch_size, grid, patch_size, 3)
    flat = cut.transpose(0, 1, 3, 2, 4, 5).reshape(num_views, grid * grid, -1)
    patches_KNC: npt.NDArray[np.float32] = flat.astype(np.float32)
    patches_KNC -= np.float32(127.5)
    patches_KNC /= np.float32(127.5)
    return patches_KNC


def pooling_windows(
    index_grid: npt.NDArray[np.int64], pool: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], tuple[int, int]]:
    """Group a grid of patch indices [rows, columns] into windows.

    Returns:
        Windows int64 [M, W], -1 where padded, and the rows and columns of tokens.
    """
    (rows, columns), (pool_rows, pool_columns) = index_grid.shape, pool
    missing_rows, missing_columns = -rows % pool_rows, -columns % pool_columns
    padded = np.pad(
        index_grid,
        (
            (missing_rows // 2, missing_rows - missing_rows // 2),
            (missing_columns // 2, missing_columns - missing_columns // 2),
        ),
        constant_values=-1,
    )
    token_grid = (padded.shape[0] // pool_rows, padded.shape[1] // pool_columns)
    cut = padded.reshape(token_grid[0], pool_rows, token_grid[1], pool_columns)
    return cut.transpose(0, 2, 1, 3).reshape(-1, pool_rows * pool_columns), token_grid
