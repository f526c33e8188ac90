"""Masks of other data sets: COCO's run lengths and polygons, and a point that lies on one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.readers.fields import Fields

MAX_PIXELS = 100_000_000  # of one mask: a size beyond it is a mistake of the file
FINER = 5  # odd, so that the middle of a pixel is the middle of a finer one

Mask = npt.NDArray[np.bool_]


def decode_mask(place: str, segmentation: Any, size: tuple[int, int] | None = None) -> Mask:
    """A mask from any of the forms that COCO-like files have.

    Args:
        place: file and row, for messages.
        segmentation: run lengths `{"size": [h, w], "counts": text or list}`, or polygons
            `[[x, y, x, y, ...], ...]` in pixels.
        size: height and width of the picture; polygons need it, run lengths must agree with it.

    Returns:
        bool [H, W].

    Raises:
        DataError: the form is another one, or does not fit the size.
    """
    if isinstance(segmentation, dict):
        mask = decode_runs(Fields(place, segmentation))
        if size is not None and mask.shape != size:
            raise DataError(
                f"{place}: mask of height and width {mask.shape}, expected the picture's {size}"
            )
        return mask
    if isinstance(segmentation, (list, tuple)) and segmentation and size is not None:
        return _fill_polygons(place, segmentation, size)
    raise DataError(
        f"{place}: mask is {segmentation!r:.80}, expected run lengths or polygons of numbers"
    )


def decode_runs(rle: Fields) -> Mask:
    """A mask from COCO's run lengths: column after column, beginning with the pixels outside.

    Args:
        rle: `size` [h, w], and `counts`: a list of lengths, or these packed into text (COCO's
            `mask.encode`: five bits a character from "0" on, the sixth says that more follow,
            and from the third length on the difference to the one before the last).

    Raises:
        DataError: lengths that do not fill the size, or text that is cut off.
    """
    size = rle.items("size")
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise DataError(f"{rle.place}: mask size {size}, expected height and width")
    height, width = size
    if height * width > MAX_PIXELS:
        raise DataError(f"{rle.place}: mask size {size}, expected at most {MAX_PIXELS} pixels")
    counts = rle.values.get("counts")
    if isinstance(counts, (str, bytes)):
        counts = _unpack(
            rle.place, counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        )
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise DataError(f"{rle.place}: mask counts {counts!r:.80}, expected text or lengths from 0")
    if sum(counts) != height * width:
        raise DataError(
            f"{rle.place}: mask counts fill {sum(counts)} pixels, expected {height} x {width}"
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape((width, height)).T


def point_on_mask(mask: Mask) -> tuple[float, float] | None:
    """The centroid where it lies on the mask, else the mask's deepest pixel.

    Args:
        mask: bool [H, W].

    Returns:
        The pixel's centre: x and y in 0..1 of width and height; None for an empty mask.
    """
    row_px, column_px = np.nonzero(mask)
    if not len(row_px):
        return None
    row, column = round(float(row_px.mean())), round(float(column_px.mean()))
    if not mask[row, column]:
        depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)
        row, column = divmod(int(depth[1:-1, 1:-1].argmax()), mask.shape[1])
    height, width = mask.shape
    return (column + 0.5) / width, (row + 0.5) / height


def _unpack(place: str, text: bytes) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64:
            raise DataError(f"{place}: mask counts have the byte {character}, expected 48 to 111")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise DataError(f"{place}: mask counts end in the middle of a length; load the file again")
    return counts


def _fill_polygons(place: str, polygons: Sequence[Any], size: tuple[int, int]) -> Mask:
    """The pixels whose middle lies inside one of the polygons."""
    mask = np.zeros(size, np.bool_)
    for polygon in polygons:
        try:
            corners_px = np.asarray(polygon, np.float64).reshape(-1, 2)
        except (TypeError, ValueError):
            raise DataError(
                f"{place}: polygon {polygon!r:.80}, expected x, y, x, y ... in pixels"
            ) from None
        if len(corners_px) < 3 or not np.isfinite(corners_px).all():
            raise DataError(f"{place}: polygon of {len(corners_px)} corners, expected 3 or more")
        low = np.clip(np.floor(corners_px.min(axis=0)), 0, size[::-1]).astype(int)
        high = np.clip(np.ceil(corners_px.max(axis=0)), 0, size[::-1]).astype(int)
        if (high <= low).any():
            continue
        mask[low[1] : high[1], low[0] : high[0]] |= _fill(corners_px - low, high - low)
    return mask


def _fill(corners_px: npt.NDArray[np.float64], size_px: npt.NDArray[np.int_]) -> Mask:
    # OpenCV fills the outline too: on a finer grid that is a fifth of a pixel.
    canvas = np.zeros((size_px[1] * FINER, size_px[0] * FINER), np.uint8)
    corners = np.round((corners_px * FINER - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(canvas, [corners], 1, shift=4)
    return canvas[FINER // 2 :: FINER, FINER // 2 :: FINER].astype(bool)
