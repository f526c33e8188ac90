"""Keys and values on the GPU, in buffers of whole buckets of columns, appended to in place.

A pass reads a buffer as it lies and writes all columns, old and new, to scratch memory (the graph
joins them outside its attention operator). Only the new columns are then copied behind those that
count. So the next pass finds the same shapes at the same addresses, and can be replayed.

Older handles stay valid: a handle is a buffer and those of its columns that count. Before a pass
they are moved to the buffer's start, if columns between them no longer count; what lies behind them
is masked. Where another handle still counts on columns that would be written, the buffer is copied
first.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.cuda_api import Copy2D, Cuda
from molmo2_ros.runtime.device_memory import DeviceMemory, aligned
from molmo2_ros.runtime.tensorrt_plan import bucket_for

_HEADROOM = 192  # columns for the answer, where a buffer is made anew
_MOST_UNUSED = 3  # buffers that are kept for the next clip


class KvLayout:
    """Where the tensors of all layers stand in one piece of memory.

    Args:
        num_tensors: keys and values of all layers.
        num_heads: of keys and values.
        row_bytes: one head of one token.
    """

    def __init__(self, num_tensors: int, num_heads: int, row_bytes: int) -> None:
        self.num_tensors = num_tensors
        self.num_heads = num_heads
        self.row_bytes = row_bytes

    def tensor_bytes(self, columns: int) -> int:
        """From one tensor's start to the next one's."""
        return aligned(self.num_heads * columns * self.row_bytes)

    def total_bytes(self, columns: int) -> int:
        """All tensors."""
        return self.num_tensors * self.tensor_bytes(columns)

    def offsets(self, columns: int) -> list[int]:
        """Where each tensor starts."""
        return [index * self.tensor_bytes(columns) for index in range(self.num_tensors)]

    def copies(
        self, target_columns: int, target_start: int, columns: int, start: int, count: int
    ) -> list[Copy2D]:
        """How to bring some columns of all tensors from one piece of memory into another.

        Where no tensor needs padding, heads of all layers stand at equal distances, and one copy of
        many rows brings all of them.

        Args:
            target_columns: of the buffer that is written.
            target_start: first column written.
            columns: of the memory that is read.
            start: first column read.
            count: columns copied.
        """
        row = self.row_bytes
        plain = self.num_heads * row
        exact = all(
            self.tensor_bytes(number) == plain * number for number in (target_columns, columns)
        )
        pieces = [(0, 0, self.num_tensors * self.num_heads)]
        if not exact:
            offsets = zip(self.offsets(target_columns), self.offsets(columns), strict=True)
            pieces = [(target, source, self.num_heads) for target, source in offsets]
        return [
            Copy2D(
                target_offset=target + target_start * row,
                target_pitch=target_columns * row,
                source_offset=source + start * row,
                source_pitch=columns * row,
                width=count * row,
                height=height,
            )
            for target, source, height in pieces
        ]


class KvBuffer:
    """Memory for a bucket of columns, and who counts on how many of them."""

    def __init__(self, address: int, columns: int) -> None:
        self.address = address
        self.columns = columns
        self.handles: weakref.WeakSet[DeviceKV] = weakref.WeakSet()


class DeviceKV:
    """Some columns of a buffer: the tokens that count, in their order."""

    __slots__ = ("__weakref__", "buffer", "columns_P")

    def __init__(self, buffer: KvBuffer, columns_P: npt.NDArray[np.int64]) -> None:
        self.buffer = buffer
        self.columns_P = columns_P  # int64, ascending
        buffer.handles.add(self)

    @property
    def length(self) -> int:
        """Tokens that count."""
        return len(self.columns_P)

    @property
    def end(self) -> int:
        """The column behind the last one that counts."""
        return int(self.columns_P[-1]) + 1 if len(self.columns_P) else 0

    def moves(self) -> Iterator[tuple[int, int, int]]:
        """What brings the columns together at the start: target, source and count of each move.

        Worked example: of columns 0 1 4 5 6 9 the runs 4 5 6 and 9 move, to 2 and to 5.
        """
        breaks = np.flatnonzero(np.diff(self.columns_P, prepend=-1) != 1)
        for start, stop in zip(breaks, [*breaks[1:], self.length], strict=True):
            yield int(start), int(self.columns_P[start]), int(stop - start)


class KvPool:
    """Gives out buffers and takes them back when no handle is left.

    Args:
        cuda: the device.
        memory: what it allocates from.
        layout: of the tensors.
        most_columns: largest bucket that the engine was built for.
    """

    def __init__(
        self, cuda: Cuda, memory: DeviceMemory, layout: KvLayout, most_columns: int
    ) -> None:
        self.layout = layout
        self._cuda = cuda
        self._memory = memory
        self._most_columns = most_columns
        self._buffers: list[KvBuffer] = []

    def empty(self) -> DeviceKV:
        """No columns yet."""
        return DeviceKV(self._take(1), np.arange(0))

    def packed(self, kv: DeviceKV) -> DeviceKV:
        """The same tokens in the first columns of a buffer.

        Args:
            kv: stays valid; where nobody else counts on what is written over, it is what moves.

        Raises:
            EngineError: no memory.
        """
        if kv.end == kv.length:
            return kv
        moves = list(kv.moves())
        others = (handle.end for handle in kv.buffer.handles if handle is not kv)
        if max(others, default=0) > moves[0][0]:
            moved = self._take(kv.length)
            for target, source, count in [(0, 0, moves[0][0]), *moves]:
                self._copy(moved, target, kv.buffer, source, count)
            return DeviceKV(moved, np.arange(kv.length))
        for target, source, count in moves:
            step = source - target  # a copy must not read what it writes
            for first in range(0, count, step):
                width = min(step, count - first)
                self._copy(kv.buffer, target + first, kv.buffer, source + first, width)
        kv.columns_P = np.arange(kv.length)
        return kv

    def _copy(
        self, target: KvBuffer, target_start: int, source: KvBuffer, start: int, count: int
    ) -> None:
        """Some columns of a buffer to another place."""
        if not count:
            return
        for copy in self.layout.copies(target.columns, target_start, source.columns, start, count):
            self._cuda.copy_2d(target.address, source.address, copy)

    def append(self, kv: DeviceKV, source: int, columns: int, start: int, count: int) -> DeviceKV:
        """Write new columns behind those of a handle.

        Args:
            kv: packed; stays valid.
            source: memory that holds the new columns.
            columns: of that memory.
            start: first new column there.
            count: new columns.

        Raises:
            EngineError: more columns than the engine was built for, or no memory.
        """
        buffer = self._writable(kv, count)
        for copy in self.layout.copies(buffer.columns, kv.length, columns, start, count):
            self._cuda.copy_2d(buffer.address, source, copy)
        return DeviceKV(buffer, np.arange(kv.length + count))

    def _writable(self, kv: DeviceKV, count: int) -> KvBuffer:
        """The handle's own buffer, or a copy where it is too small or others count on the rest."""
        buffer, wanted = kv.buffer, kv.length + count
        longest = max(handle.end for handle in buffer.handles)
        if wanted <= buffer.columns and longest <= kv.length:
            return buffer
        copied = self._take(wanted)
        self._copy(copied, 0, buffer, 0, kv.length)
        return copied

    def _take(self, wanted: int) -> KvBuffer:
        """A buffer that nobody holds, with room for some columns and an answer."""
        if wanted > self._most_columns:
            raise EngineError(
                f"the cache would hold {wanted} tokens, this engine was built for "
                f"{self._most_columns}; ask about fewer frames or fewer things at once, or build "
                "it with more --max-frames"
            )
        room = bucket_for(wanted if wanted == 1 else wanted + _HEADROOM)
        columns = min(room, self._most_columns)
        unused = [buffer for buffer in self._buffers if not buffer.handles]
        for buffer in unused:
            if buffer.columns == columns:
                return buffer
        for buffer in unused[: max(0, len(unused) - _MOST_UNUSED)]:
            self._buffers.remove(buffer)
            self._memory.release(buffer.address)
        num_bytes = self.layout.total_bytes(columns)
        buffer = KvBuffer(self._memory.allocate(num_bytes), columns)
        # What is masked is still multiplied: it must be numbers.
        self._cuda.zero(buffer.address, num_bytes)
        self._buffers.append(buffer)
        return buffer
