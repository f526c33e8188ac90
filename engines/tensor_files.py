"""Reads and writes weights of ONNX files piece by piece, so that more than memory holds can pass.

Weights may lie inside the .onnx file or, as ONNX's limit of 2 GB asks, in a file beside it. Those
beside are mapped, copied and unmapped one piece at a time.

Letters: K inputs, N outputs of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.manifest import REBUILD

PIECE_BYTES = 64 << 20  # of float32 values that are in memory at once
_INSIDE_BYTES = 4096  # ONNX Runtime infers shapes from small tensors, so they stay in the graph
_ALIGNMENT = 4096  # of weights beside the graph: pages are mapped whole
_HALF_BYTES = (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1)


class GraphFile:
    """A graph whose weights are read on demand.

    Args:
        path: of the .onnx file.

    Raises:
        EngineError: the file is no ONNX graph, or a tensor's place is no file beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's own classes share no public parent
            raise EngineError(f"{path} is no ONNX graph ({error}); {REBUILD}") from error
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.data_files = frozenset(
            self._place(tensor)[0] for tensor in self.tensors.values() if is_beside(tensor)
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a weight."""
        return tuple(self.tensors[name].dims)

    def array(self, name: str) -> npt.NDArray[Any]:
        """A weight in its own type; mapped where it lies beside the graph.

        Raises:
            EngineError: the file beside the graph is missing or too short.
        """
        tensor = self.tensors[name]
        if not is_beside(tensor):
            return onnx.numpy_helper.to_array(tensor)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return self.raw(name).view(dtype).reshape(tuple(tensor.dims))

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a weight; mapped where it lies beside the graph.

        Raises: as `array`.
        """
        tensor = self.tensors[name]
        if not is_beside(tensor):
            return np.frombuffer(tensor.raw_data, np.uint8)
        file, offset = self._place(tensor)
        path = self.path.parent / file
        try:
            return np.memmap(path, np.uint8, "r", offset, (num_bytes(tensor),))
        except (OSError, ValueError) as error:
            raise EngineError(
                f"{path} does not hold {name} of {self.path.name} ({error}); {REBUILD}"
            ) from error

    def _place(self, tensor: TensorProto) -> tuple[str, int]:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = entries.get("location", "")
        if Path(file).name != file or not file:
            raise EngineError(
                f"{self.path}: {tensor.name} lies in {file!r}, expected a file beside the graph; "
                f"{REBUILD}"
            )
        return file, int(entries.get("offset", 0))


class GraphWriter:
    """Collects the tensors of a graph that is being written.

    Args:
        data: file for large tensors, made when the first comes; None to keep all in the graph.
    """

    def __init__(self, data: Path | None) -> None:
        self.tensors: list[TensorProto] = []
        self._data = data
        if data is not None:
            data.unlink(missing_ok=True)

    def add(
        self,
        name: str,
        data_type: int,
        shape: Iterable[int],
        pieces: Iterable[npt.NDArray[Any]],
    ) -> str:
        """Take a tensor over, piece by piece in the order of its bytes.

        Returns:
            its name.
        """
        tensor = TensorProto(name=name, data_type=data_type, dims=list(shape))
        if self._data is None or num_bytes(tensor) <= _INSIDE_BYTES:
            tensor.raw_data = b"".join(piece.tobytes() for piece in pieces)
        else:
            self._write(tensor, pieces)
        self.tensors.append(tensor)
        return name

    def _write(self, tensor: TensorProto, pieces: Iterable[npt.NDArray[Any]]) -> None:
        assert self._data is not None
        with self._data.open("ab") as stream:
            offset = -(-stream.tell() // _ALIGNMENT) * _ALIGNMENT
            stream.write(b"\0" * (offset - stream.tell()))
            for piece in pieces:
                stream.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
            length = stream.tell() - offset
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._data.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))

    def copy(self, source: GraphFile, name: str) -> str:
        """Take a tensor over as it is."""
        tensor = source.tensors[name]
        if not is_beside(tensor):
            self.tensors.append(tensor)
            return name
        flat = source.raw(name)
        starts = range(0, len(flat), PIECE_BYTES)
        pieces = (flat[start : start + PIECE_BYTES] for start in starts)
        return self.add(name, tensor.data_type, tensor.dims, pieces)


class Matrix:
    """A constant matrix [K, N] of a graph, whichever way round it is stored.

    Args:
        file: where it is.
        name: of the tensor.
        transposed: it is stored as [N, K].
    """

    def __init__(self, file: GraphFile, name: str, transposed: bool = False) -> None:
        self.name = name
        self._file = file
        self._transposed = transposed
        shape = file.shape(name)
        self.num_inputs, self.num_outputs = shape[::-1] if transposed else shape
        self.data_type = file.tensors[name].data_type

    def columns(self) -> Iterator[npt.NDArray[np.float32]]:
        """Pieces [K, some of N], in order."""
        step = max(PIECE_BYTES // (4 * self.num_inputs), 1)
        for start in range(0, self.num_outputs, step):
            yield self._piece(slice(None), slice(start, start + step))

    def rows(self, multiple: int = 1) -> Iterator[npt.NDArray[np.float32]]:
        """Pieces [some of K, N], in order, each but the last a multiple of so many rows."""
        step = max(PIECE_BYTES // (4 * self.num_outputs) // multiple, 1) * multiple
        for start in range(0, self.num_inputs, step):
            yield self._piece(slice(start, start + step), slice(None))

    def _piece(self, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        array = self._file.array(self.name)  # mapped anew each time: what was read is let go
        piece = (array.T if self._transposed else array)[rows, columns].astype(
            np.float32, order="C"
        )
        if not np.isfinite(piece).all():
            raise EngineError(
                f"{self.name} of {self._file.path} holds values that are no numbers, expected "
                f"weights; {REBUILD}"
            )
        return piece


def is_beside(tensor: TensorProto) -> bool:
    """Whether a tensor lies in a file of its own."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def num_bytes(tensor: TensorProto) -> int:
    """Of a tensor's values."""
    bits = 4 if tensor.data_type in _HALF_BYTES else 8 * _itemsize(tensor.data_type)
    return (int(np.prod(tensor.dims, dtype=np.int64)) * bits + 7) // 8


def _itemsize(data_type: int) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)
