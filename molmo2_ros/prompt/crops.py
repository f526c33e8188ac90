"""Still images to a low-resolution view plus overlapping tiles, the sharper of Molmo2's two paths.

Letters: K views, N patches a view, C values a patch, M visual tokens, W patches in a window.
Source: transformers' Molmo2ImageProcessor; equal to it byte for byte (test/parity).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import ConfigError
from molmo2_ros.prompt.patches import normalised_patches, pooling_windows
from molmo2_ros.prompt.resize import resize_bilinear


@dataclass(frozen=True, slots=True, kw_only=True)
class CropSettings:
    """How images are cut; part of a model, as it was trained.

    Raises:
        ConfigError: the values contradict each other.
    """

    image_size: int  # side of a view, pixels
    patch_size: int  # pixels
    pooling: tuple[int, int]  # patches of a window, rows and columns
    max_crops: int = 8  # tiles at most; the low-resolution view comes on top
    overlap_margins: tuple[int, int] = (4, 4)  # patches that tiles share before and after
    use_single_crop_col_tokens: bool = False  # column tokens in the low-resolution view too

    def __post_init__(self) -> None:
        window = self.grid - sum(self.overlap_margins)
        if self.image_size % self.patch_size or min(self.pooling) < 1 or self.max_crops < 1:
            raise ConfigError(
                f"image size {self.image_size}, patch size {self.patch_size}, pooling "
                f"{self.pooling}, max_crops {self.max_crops}: expected a size that is a multiple "
                "of the patch and the others at least 1; check the engine's manifest"
            )
        if window < 1 or min(self.overlap_margins) < 0:
            raise ConfigError(
                f"overlap margins {self.overlap_margins} leave {window} of {self.grid} patches of "
                "a tile, expected at least 1; check the engine's manifest"
            )

    @property
    def grid(self) -> int:
        """Patches along a side of a view."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImagePatches:
    """One image or several as the vision tower reads them."""

    patches_KNC: npt.NDArray[np.float32]  # -1..1; per image the low-resolution view, then tiles
    pooling_MW: npt.NDArray[np.int64]  # into the K * N patches, -1 where padded
    grids: tuple[ImageGrid, ...]  # one per image


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGrid:
    """Visual tokens of one image, rows and columns."""

    low: tuple[int, int]  # the whole image at low resolution
    high: tuple[int, int]  # all tiles together


def image_patches(images: Sequence[npt.NDArray[np.uint8]], settings: CropSettings) -> ImagePatches:
    """Cut images into views, patches and pooling windows.

    Args:
        images: uint8 [H, W, 3] RGB each, of any sizes.
        settings: the model's.
    """
    patches, windows, grids = [], [], []
    num_before = 0
    for image in images:
        patches_KNC, pooling_MW, grid = _one_image(image, settings)
        patches.append(patches_KNC)
        windows.append(np.where(pooling_MW >= 0, pooling_MW + num_before, -1))
        grids.append(grid)
        num_before += patches_KNC.shape[0] * patches_KNC.shape[1]
    return ImagePatches(
        patches_KNC=np.concatenate(patches),
        pooling_MW=np.concatenate(windows),
        grids=tuple(grids),
    )


def choose_tiling(height: int, width: int, tile: int, max_crops: int) -> tuple[int, int]:
    """Rows and columns of tiles that fit an image.

    The tiling that needs the least enlargement; where every one shrinks the image, the one that
    shrinks it least. Of equals the one with fewest tiles, then with fewest rows.

    Args:
        height: pixels, without the margins; may be 0 or negative for tiny images.
        width: likewise.
        tile: side of a tile without its margins, pixels.
        max_crops: tiles at most.
    """
    tilings = sorted(
        (
            (rows, columns)
            for rows in range(1, max_crops + 1)
            for columns in range(1, max_crops // rows + 1)
        ),
        key=lambda tiling: (tiling[0] * tiling[1], tiling[0]),
    )
    with np.errstate(divide="ignore"):
        scales = np.array(tilings, np.float32) * np.float32(tile)
        scale = (scales / np.array([height, width], np.float32)).min(axis=1)
    if np.all(scale < 1):
        return tilings[int(scale.argmax())]
    return tilings[int(np.where(scale < 1, np.float32(10e9), scale).argmin())]


def _one_image(
    image: npt.NDArray[np.uint8], settings: CropSettings
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], ImageGrid]:
    size, grid = settings.image_size, settings.grid
    tiles, tile_grid = _tiles(image, settings)
    low = resize_bilinear(image, size, size)
    low_index = np.arange(grid * grid, dtype=np.int64).reshape(grid, grid)
    low_windows, low_tokens = pooling_windows(low_index, settings.pooling)
    # Tiles are pooled as one picture, so a window may take patches of two or four of them.
    high_windows, high_tokens = pooling_windows(tile_grid, settings.pooling)
    high_windows = np.where(high_windows >= 0, high_windows + grid * grid, -1)
    patches_KNC = normalised_patches(np.concatenate([low[None], tiles]), settings.patch_size)
    windows = np.concatenate([low_windows, high_windows])
    return patches_KNC, windows, ImageGrid(low=low_tokens, high=high_tokens)


def _tiles(
    image: npt.NDArray[np.uint8], settings: CropSettings
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Overlapping tiles [T, S, S, 3], and which of their patches each place of the picture has.

    Where tiles overlap, a place belongs to the tile in whose inside it lies.
    """
    grid, patch = settings.grid, settings.patch_size
    before, after = settings.overlap_margins
    window = (grid - before - after) * patch
    margin = (before + after) * patch
    rows, columns = choose_tiling(
        image.shape[0] - margin, image.shape[1] - margin, window, settings.max_crops
    )
    canvas = resize_bilinear(image, rows * window + margin, columns * window + margin)
    size = settings.image_size
    tiles = np.stack(
        [
            canvas[row * window : row * window + size, column * window : column * window + size]
            for row in range(rows)
            for column in range(columns)
        ]
    )
    num_patches = rows * columns * grid * grid
    index = np.arange(num_patches, dtype=np.int64).reshape(rows, columns, grid, grid)
    index[1:, :, :before, :] = -1
    index[:, 1:, :, :before] = -1
    index[:-1, :, grid - after :, :] = -1
    index[:, :-1, :, grid - after :] = -1
    flat = index.transpose(0, 2, 1, 3).reshape(-1)
    return tiles, flat[flat >= 0].reshape(canvas.shape[0] // patch, canvas.shape[1] // patch)
