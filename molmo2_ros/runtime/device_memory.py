"""Memory on the GPU: who holds it, how it is used again, and the pinned memory before it."""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.cuda_api import Cuda

ALIGNMENT = 256  # bytes, what TensorRT asks of an output's address
_BFLOAT16_SHIFT = 16  # a bfloat16 is the upper half of a float32
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4}


def aligned(num_bytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def item_bytes(dtype: str) -> int:
    """Size of one value on the device."""
    return _ITEM_BYTES[dtype]


def to_device(array: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.uint8]:
    """An array as the device reads it: its bytes in another dtype.

    Args:
        array: of any shape.
        dtype: "float32", "float16", "bfloat16", "int64" or "int32".
    """
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        # To the nearest, ties to even; in 64 bits, or the largest values would wrap around.
        odd = (bits >> _BFLOAT16_SHIFT) & 1
        narrow = ((bits.astype(np.uint64) + 0x7FFF + odd) >> _BFLOAT16_SHIFT).astype(np.uint16)
    else:
        narrow = np.ascontiguousarray(array, np.dtype(dtype))
    return narrow.reshape(-1).view(np.uint8)


def bias_to_device(bias: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.uint8]:
    """An additive mask in a narrower dtype, whose smallest number stands for hidden.

    float32's smallest number is -inf in float16, and a row of it alone would give no number at all.
    """
    if dtype == "float16":
        bias = np.maximum(bias, np.float32(np.finfo(np.float16).min))
    elif dtype == "bfloat16":
        smallest = np.array([0xFF7F << _BFLOAT16_SHIFT], np.uint32).view(np.float32)[0]
        bias = np.maximum(bias, smallest)
    return to_device(bias, dtype)


def from_device(content: npt.NDArray[np.uint8], dtype: str) -> npt.NDArray[np.float32]:
    """Floating point values that came from the device, float32 [num_values]."""
    if dtype == "bfloat16":
        wide = content.view(np.uint16).astype(np.uint32) << _BFLOAT16_SHIFT
        return wide.view(np.float32)
    return content.view(np.dtype(dtype)).astype(np.float32)


class DeviceBlock:
    """Device memory that goes back to its owner when nobody holds it any more."""

    __slots__ = ("__weakref__", "address", "num_bytes")

    def __init__(self, address: int, num_bytes: int) -> None:
        self.address = address
        self.num_bytes = num_bytes


class DeviceMemory:
    """All device memory of one engine; freed with it, or with the last block that is still held."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._held: dict[int, int] = {}
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        end = weakref.finalize(self, _free_all, cuda, self._held)
        end.atexit = False  # the driver may be gone by then, and takes all memory with it

    @property
    def num_bytes(self) -> int:
        """Bytes allocated, in use or not."""
        return sum(self._held.values())

    def allocate(self, num_bytes: int) -> int:
        """Memory that stays until `release`.

        Raises:
            EngineError: the GPU has no more.
        """
        num_bytes = aligned(max(num_bytes, 1))
        try:
            address = self._cuda.allocate(num_bytes)
        except EngineError as error:
            self._drop_free()
            try:
                address = self._cuda.allocate(num_bytes)
            except EngineError:
                raise EngineError(
                    f"{error}: no room on the GPU for {num_bytes / 1e6:.1f} MB beside the "
                    f"{self.num_bytes / 1e6:.1f} MB in use; ask about fewer frames, end what else "
                    "runs on the GPU, or build the engine with fewer --max-frames"
                ) from error
        self._held[address] = num_bytes
        return address

    def release(self, address: int) -> None:
        """Give memory back to the GPU."""
        del self._held[address]
        self._cuda.free(address)

    def block(self, num_bytes: int) -> DeviceBlock:
        """Memory that is given back by itself and used again for the next of its size."""
        num_bytes = aligned(max(num_bytes, 1))
        waiting = self._free[num_bytes]
        address = waiting.pop() if waiting else self.allocate(num_bytes)
        block = DeviceBlock(address, num_bytes)
        end = weakref.finalize(block, self._give_back, address, num_bytes)
        end.atexit = False
        return block

    def _give_back(self, address: int, num_bytes: int) -> None:
        self._free[num_bytes].append(address)

    def _drop_free(self) -> None:
        for addresses in self._free.values():
            while addresses:
                self.release(addresses.pop())


def _free_all(cuda: Cuda, held: dict[int, int]) -> None:
    for address in held:
        with contextlib.suppress(EngineError):
            cuda.free(address)
    held.clear()


class Staging:
    """One place on the device for each named value, and pinned memory before it.

    A place keeps its address until a larger value comes, so that a replayed pass finds it.
    """

    def __init__(self, cuda: Cuda, memory: DeviceMemory) -> None:
        self._cuda = cuda
        self._memory = memory
        self._places: dict[str, tuple[int, int]] = {}  # address, bytes
        self._pinned: dict[str, npt.NDArray[np.uint8]] = {}
        weakref.finalize(self, _free_pinned, cuda, self._pinned).atexit = False

    def place(self, name: str, num_bytes: int) -> int:
        """Address of a value's place, made larger where it must be; its content is not kept."""
        address, room = self._places.get(name, (0, 0))
        if num_bytes > room:
            if address:
                self._memory.release(address)
            room = aligned(num_bytes + num_bytes // 2)
            address = self._memory.allocate(room)
            self._places[name] = (address, room)
        return address

    def upload(self, name: str, content: npt.NDArray[np.uint8]) -> int:
        """Put a value into its place.

        The pinned memory must not be written again before the stream has been synchronised.
        """
        address = self.place(name, content.nbytes)
        pinned = self._host(name, content.nbytes)
        pinned[:] = content
        self._cuda.upload(address, pinned)
        return address

    def download(self, name: str, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Pinned memory that holds the value from the next synchronisation to the next call."""
        pinned = self._host(name, num_bytes)
        self._cuda.download(pinned, self._places[name][0])
        return pinned

    def _host(self, name: str, num_bytes: int) -> npt.NDArray[np.uint8]:
        pinned = self._pinned.get(name)
        if pinned is None or pinned.nbytes < num_bytes:
            if pinned is not None:
                self._cuda.free_pinned(pinned)
            pinned = self._cuda.allocate_pinned(aligned(num_bytes + num_bytes // 2))
            self._pinned[name] = pinned
        return pinned[:num_bytes]


def _free_pinned(cuda: Cuda, pinned: dict[str, npt.NDArray[np.uint8]]) -> None:
    for array in pinned.values():
        with contextlib.suppress(EngineError):
            cuda.free_pinned(array)
    pinned.clear()
