"""Several trees in one sequence, chosen so that little of it stays empty.

A buffer of trees is kept; when it is full, the subset that fills a sequence best leaves it: an
exact knapsack in two dimensions, tokens and views of the vision tower.
Source: the authors' dynamic packer (buffer of 48, tokens in steps of 32, a view worth 30 tokens).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import DataError
from molmo2_ros.training.recipe.messages import TokenTree

BUFFER = 48
TOKEN_STEP = 32  # the knapsack counts tokens in these steps, rounded up
CROP_VALUE = 30  # tokens that a view is worth


def choose(
    tokens: Sequence[int], crops: Sequence[int], max_tokens: int, max_crops: int
) -> list[int]:
    """The subset of trees that is worth most and fits.

    Args:
        tokens: of each tree; none takes more than `max_tokens` when rounded up to TOKEN_STEP.
        crops: views of each tree.
        max_tokens: of all chosen, counted in steps of TOKEN_STEP.
        max_crops: of all chosen.

    Returns:
        rising indices; never empty where a tree fits.

    Example:
        tokens 96, 64, 64 and no views in 128 tokens: [1, 2], worth 128, and not [0].
    """
    sizes = [-(-count // TOKEN_STEP) for count in tokens]
    room = max_tokens // TOKEN_STEP
    best = np.zeros((room + 1, max_crops + 1), np.int64)
    taken: list[npt.NDArray[np.bool_]] = []
    for size, count, crop in zip(sizes, tokens, crops, strict=True):
        better = np.zeros(best.shape, np.bool_)
        if size <= room and crop <= max_crops:
            value = count + CROP_VALUE * crop
            with_it = best[: room + 1 - size, : max_crops + 1 - crop] + value
            better[size:, crop:] = with_it > best[size:, crop:]
            best[size:, crop:] = np.maximum(best[size:, crop:], with_it)
        taken.append(better)
    chosen, row, column = [], room, max_crops
    for index in range(len(sizes) - 1, -1, -1):
        if taken[index][row, column]:
            chosen.append(index)
            row, column = row - sizes[index], column - crops[index]
    return chosen[::-1]


class Packer:
    """Turns a stream of trees into a stream of packs.

    Args:
        max_tokens: of a sequence.
        max_crops: views in a sequence.
        buffer: trees to choose from.
    """

    def __init__(self, max_tokens: int, max_crops: int, buffer: int = BUFFER) -> None:
        self._max_tokens, self._max_crops, self._size = max_tokens, max_crops, buffer
        self._buffer: list[TokenTree] = []
        self._keys: list[Any] = []

    def pack(self, trees: Iterable[tuple[Any, TokenTree]]) -> Iterator[list[TokenTree]]:
        """Packs, as long as trees come; what is left in the buffer then is packed too.

        Args:
            trees: each with what `state_dict` is to call it.

        Raises:
            DataError: a tree that fits into no sequence.
        """
        for key, tree in trees:
            self.add(key, tree)
            if self.is_full:
                yield self.take()
        while self._buffer:
            yield self.take()

    @property
    def is_full(self) -> bool:
        """Whether a pack is to be taken before the next tree is added."""
        return len(self._buffer) >= self._size

    def add(self, key: Any, tree: TokenTree) -> None:
        """Put a tree into the buffer.

        Raises:
            DataError: it fits into no sequence.
        """
        rounded = -(-tree.num_tokens // TOKEN_STEP) * TOKEN_STEP
        if rounded > self._max_tokens or tree.num_crops > self._max_crops:
            raise DataError(
                f"example {tree.name} has {tree.num_tokens} tokens and {tree.num_crops} views, a "
                f"sequence holds {self._max_tokens // TOKEN_STEP * TOKEN_STEP} and "
                f"{self._max_crops}; show fewer frames or make sequences longer"
            )
        self._keys.append(key)
        self._buffer.append(tree)

    def take(self) -> list[TokenTree]:
        """The best pack of the buffer, in the order in which its trees came."""
        chosen = choose(
            [tree.num_tokens for tree in self._buffer],
            [tree.num_crops for tree in self._buffer],
            self._max_tokens,
            self._max_crops,
        )
        pack = [self._buffer[index] for index in chosen]
        left = [index for index in range(len(self._buffer)) if index not in set(chosen)]
        self._buffer = [self._buffer[index] for index in left]
        self._keys = [self._keys[index] for index in left]
        return pack

    def state_dict(self) -> dict[str, Any]:
        """The keys of what the buffer holds; the trees are made again from them."""
        return {"buffer": list(self._keys)}

    def load_state_dict(self, state: dict[str, Any], trees: Iterable[TokenTree]) -> None:
        """Fill the buffer again.

        Args:
            state: of `state_dict`.
            trees: those of the keys, in their order.
        """
        self._keys, self._buffer = list(state["buffer"]), list(trees)
        assert len(self._keys) == len(self._buffer)
