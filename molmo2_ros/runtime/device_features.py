"""Visual features that stay on the GPU; numpy reads them as an array where someone asks it to.

Letters as in runtime/engine.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.runtime.device_memory import DeviceBlock

Reader = Callable[[int, int], npt.NDArray[np.float32]]  # address, number of values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeaturePart:
    """Features that were computed together."""

    block: DeviceBlock  # held, so that its memory is not used again
    num_tokens: int


class DeviceFeatures:
    """Features [M, D] in one or several pieces of device memory.

    `np.concatenate` joins them without a copy (NEP 18); anything else in numpy sees float32 values
    that are brought to the host for it.
    """

    ndim = 2

    def __init__(self, parts: Sequence[FeaturePart], width: int, read: Reader) -> None:
        self.parts = tuple(parts)
        self.width = width
        self._read = read

    def __len__(self) -> int:
        return sum(part.num_tokens for part in self.parts)

    @property
    def shape(self) -> tuple[int, int]:
        """[M, D]."""
        return len(self), self.width

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("features are on the GPU and cannot be read without a copy")
        values = [
            self._read(part.block.address, part.num_tokens * self.width) for part in self.parts
        ]
        array = np.concatenate(values).reshape(self.shape)
        return array if dtype is None else array.astype(dtype, copy=False)

    def __array_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> Any:
        if function is np.concatenate and not keywords and len(arguments) == 1:
            (pieces,) = arguments
            if all(isinstance(piece, DeviceFeatures) for piece in pieces):
                parts = [part for piece in pieces for part in piece.parts]
                return DeviceFeatures(parts, self.width, self._read)
        return function(*map(_on_host, arguments), **keywords)

    def placed(self, indices_M: npt.NDArray[np.int64], num_tokens: int) -> DeviceVisual:
        """The features at the places of the tokens that they belong to."""
        return DeviceVisual(features=self, indices_M=indices_M, num_tokens=num_tokens)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceVisual:
    """What is added to the embeddings of a prompt: features at some tokens, zeros elsewhere."""

    features: DeviceFeatures
    indices_M: npt.NDArray[np.int64]
    num_tokens: int

    def copies(self, row_bytes: int) -> list[tuple[int, int, int]]:
        """Copies that fill a zeroed [num_tokens, D]: (offset in it, source address, bytes).

        A frame's tokens stand in one run, so that a frame is one copy.

        Worked example: two parts of 2 and 1 tokens for the tokens 1, 2 and 5 make two copies, of
        two rows to row 1 and of one row to row 5.
        """
        found = []
        first = 0
        for part in self.features.parts:
            places = self.indices_M[first : first + part.num_tokens]
            first += part.num_tokens
            breaks = np.flatnonzero(np.diff(places) != 1) + 1
            row = 0
            for run in np.split(places, breaks):
                source = part.block.address + row * row_bytes
                found.append((int(run[0]) * row_bytes, source, len(run) * row_bytes))
                row += len(run)
        return found


def place_features(features_MD: Any, indices_M: npt.NDArray[np.int64], num_tokens: int) -> Any:
    """What `Engine.forward` takes as `visual_BSD`: features at their tokens, zeros elsewhere.

    Args:
        features_MD: from `Engine.encode`, on the host or on the engine's device.
        indices_M: the token of each feature.
        num_tokens: of the prompt.
    """
    if isinstance(features_MD, DeviceFeatures):
        return features_MD.placed(indices_M, num_tokens)
    visual_BSD = np.zeros((1, num_tokens, features_MD.shape[1]), np.float32)
    visual_BSD[0, indices_M] = features_MD
    return visual_BSD


def _on_host(argument: Any) -> Any:
    """An argument of a numpy function with all features in it as arrays."""
    if isinstance(argument, DeviceFeatures):
        return np.asarray(argument)
    if isinstance(argument, (list, tuple)):
        return type(argument)(_on_host(item) for item in argument)
    return argument
