"""float32 arrays as the halves that an engine's decoder reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# numpy has no bfloat16: its bits travel as uint16.
STORED: Mapping[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
_LOWEST = {"float16": -65504.0, "bfloat16": -3.3895313892515355e38}


def stored(array: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """Values rounded to the nearest, ties to even.

    Args:
        array: finite values of any shape.
        dtype: of a manifest.
    """
    if dtype != "bfloat16":
        return array.astype(STORED[dtype], copy=False)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def stored_bias(bias: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """An additive mask that stays finite when a score is added to what it hides.

    Half of the lowest number hides as well: the exponential of either is zero. A row that is hidden
    throughout would otherwise hold nothing but minus infinity, and give no numbers.

    Args:
        bias: zeros, and large negative numbers.
        dtype: of a manifest.
    """
    if dtype != "float32":
        bias = np.maximum(bias, np.float32(_LOWEST[dtype] / 2))
    return stored(bias, dtype)
