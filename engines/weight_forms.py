"""The forms in which a matrix of quantised weights stands in a graph, one for each runtime's taste.

Each form stores the matrix once, as tensors of a `GraphWriter`, and gives the nodes that multiply
by it.

Letters: K inputs, N outputs of a matrix, C blocks of an output's weights (K / block, rounded up).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto
from onnx.helper import make_node, tensor_dtype_to_np_dtype

from molmo2_ros.engines.tensor_files import GraphWriter, Matrix

MICROSOFT = "com.microsoft"  # domain of ONNX Runtime's own operators
# ONNX Runtime multiplies in int8 at this level. At the others 8-bit weights are 40 times slower on
# a CPU, 4-bit ones twice (docs/journal.md); other devices do not read it.
_INT8_PRODUCTS = 4


class WeightForm(Protocol):
    """Stores matrices of one scheme and multiplies by them."""

    scheme: str
    operator: str
    block: int

    def fits(self, matrix: Matrix) -> bool:
        """Whether the runtime can read a matrix of this shape."""
        ...

    def store(self, matrix: Matrix, writer: GraphWriter) -> tuple[str, ...]:
        """Write codes and scales; returns the names of the tensors."""
        ...

    def product(
        self, matrix: Matrix, stored: tuple[str, ...], source: str, result: str
    ) -> list[NodeProto]:
        """Nodes that multiply the activations `source` by the matrix into `result`."""
        ...


class NBits:
    """MatMulNBits of ONNX Runtime: unsigned codes around the middle, a scale for each block.

    Args:
        scheme: "int4" or "int8".
        block: weights of one output that share a scale.
    """

    operator = "MatMulNBits"

    def __init__(self, scheme: str, block: int) -> None:
        self.scheme = scheme
        self.block = block
        self._bits = int(scheme.removeprefix("int"))

    def fits(self, matrix: Matrix) -> bool:
        """All shapes do: a last block that is not full is padded."""
        return True

    def store(self, matrix: Matrix, writer: GraphWriter) -> tuple[str, ...]:
        """See WeightForm.store."""
        scales_NC: list[npt.NDArray[Any]] = []

        def codes() -> Iterator[npt.NDArray[np.uint8]]:
            for piece_KN in matrix.columns():
                codes_NC, piece_scales = _pack_blocks(piece_KN, self._bits, self.block)
                scales_NC.append(piece_scales.astype(tensor_dtype_to_np_dtype(matrix.data_type)))
                yield codes_NC

        num_blocks = -(-matrix.num_inputs // self.block)
        shape = (matrix.num_outputs, num_blocks, self.block * self._bits // 8)
        return (
            writer.add(f"{matrix.name}_codes", TensorProto.UINT8, shape, codes()),
            writer.add(f"{matrix.name}_scales", matrix.data_type, shape[:2], scales_NC),
        )

    def product(
        self, matrix: Matrix, stored: tuple[str, ...], source: str, result: str
    ) -> list[NodeProto]:
        """See WeightForm.product."""
        node = make_node(
            self.operator,
            [source, *stored],
            [result],
            domain=MICROSOFT,
            K=matrix.num_inputs,
            N=matrix.num_outputs,
            bits=self._bits,
            block_size=self.block,
            accuracy_level=_INT8_PRODUCTS,
        )
        return [node]


class Dequantized:
    """DequantizeLinear before the product, which TensorRT melts into it: symmetric, scales above 0.

    Args:
        scheme: "int4" or "int8".
        block: weights of one output that share a scale; 0 for all of them.
    """

    operator = "DequantizeLinear"

    def __init__(self, scheme: str, block: int) -> None:
        self.scheme = scheme
        self.block = block
        self._bits = int(scheme.removeprefix("int"))
        self._type = {4: TensorProto.INT4, 8: TensorProto.INT8}[self._bits]

    def fits(self, matrix: Matrix) -> bool:
        """TensorRT wants whole blocks, and bytes of two codes must not straddle rows."""
        return matrix.num_inputs % max(self.block, 1) == 0 and matrix.num_outputs % 2 == 0

    def store(self, matrix: Matrix, writer: GraphWriter) -> tuple[str, ...]:
        """See WeightForm.store."""
        largest = 2 ** (self._bits - 1) - 1
        scales_CN = np.concatenate(
            [_largest(piece, self.block) / largest for piece in matrix.rows(max(self.block, 1))]
        )
        if not self.block:
            scales_CN = scales_CN.max(0, keepdims=True)
        dtype = tensor_dtype_to_np_dtype(matrix.data_type)
        scales_CN = np.maximum(scales_CN, _least_scale(dtype)).astype(dtype)
        shape = (matrix.num_inputs, matrix.num_outputs)
        scale_shape = scales_CN.shape if self.block else scales_CN.shape[1:]
        return (
            writer.add(f"{matrix.name}_codes", self._type, shape, self._codes(matrix, scales_CN)),
            writer.add(f"{matrix.name}_scales", matrix.data_type, scale_shape, [scales_CN]),
        )

    def _codes(
        self, matrix: Matrix, scales_CN: npt.NDArray[Any]
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Pieces [some of K, N] of codes, two to a byte where they have four bits."""
        largest, start = 2 ** (self._bits - 1) - 1, 0
        block = self.block or matrix.num_inputs
        for piece_KN in matrix.rows(max(self.block, 1)):
            stop = start + len(piece_KN)
            scales_KN = scales_CN[np.arange(start, stop) // block].astype(np.float32)
            codes_KN = np.rint(piece_KN / scales_KN).clip(-largest, largest).astype(np.int8)
            start = stop
            yield pack_nibbles(codes_KN) if self._bits == 4 else codes_KN.view(np.uint8)

    def product(
        self, matrix: Matrix, stored: tuple[str, ...], source: str, result: str
    ) -> list[NodeProto]:
        """See WeightForm.product."""
        # The product's own name tells apart what several nodes make of one matrix.
        weights = f"{result}_weights"
        places = {"axis": 0, "block_size": self.block} if self.block else {"axis": 1}
        return [
            make_node(self.operator, stored, [weights], **places),
            make_node("MatMul", [source, weights], [result]),
        ]


class RowCodes:
    """An embedding table in int8 with a scale for each row, in operators that every runtime has."""

    scheme = "int8"
    operator = "Gather"

    def store(self, table: Matrix, writer: GraphWriter) -> tuple[str, ...]:
        """Write codes [K, N] and scales [K, 1], K rows; returns the names of the tensors."""
        dtype = tensor_dtype_to_np_dtype(table.data_type)
        scales_K1: list[npt.NDArray[Any]] = []

        def codes() -> Iterator[npt.NDArray[np.int8]]:
            for rows_KN in table.rows():
                scales = np.abs(rows_KN).max(1, keepdims=True) / 127
                scales = np.maximum(scales, _least_scale(dtype)).astype(dtype)
                scales_K1.append(scales)
                yield np.rint(rows_KN / scales.astype(np.float32)).clip(-127, 127).astype(np.int8)

        shape = (table.num_inputs, table.num_outputs)
        return (
            writer.add(f"{table.name}_codes", TensorProto.INT8, shape, codes()),
            writer.add(f"{table.name}_scales", table.data_type, (shape[0], 1), scales_K1),
        )

    def lookup(
        self, table: Matrix, stored: tuple[str, ...], indices: str, result: str
    ) -> list[NodeProto]:
        """Nodes that give the rows `indices`."""
        codes, scales = stored
        row, value, scale = (f"{result}_{part}" for part in ("codes", "values", "scales"))
        return [
            make_node(self.operator, [codes, indices], [row], axis=0),
            make_node("Cast", [row], [value], to=table.data_type),
            make_node(self.operator, [scales, indices], [scale], axis=0),
            make_node("Mul", [value, scale], [result]),
        ]


def pack_nibbles(codes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Two neighbours of the last axis in a byte, the first of them in its lower half."""
    nibbles = codes.astype(np.uint8) & 15
    return np.bitwise_or(nibbles[..., ::2], nibbles[..., 1::2] << 4).astype(np.uint8)


def _largest(piece_KN: npt.NDArray[np.float32], block: int) -> npt.NDArray[np.float32]:
    """Largest magnitude of each block, [C, N]; of all that the piece has where block is 0."""
    blocks = piece_KN.reshape(-1, block or len(piece_KN), piece_KN.shape[1])
    largest: npt.NDArray[np.float32] = np.abs(blocks).max(1)
    return largest


def _least_scale(dtype: npt.DTypeLike) -> float:
    """What stands for the scale of a block of zeros, whose codes are 0 whatever it is."""
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).smallest_normal)


def _pack_blocks(
    piece_KN: npt.NDArray[np.float32], num_bits: int, block: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Codes [N, C, bytes of a block] and scales [N, C], by ONNX Runtime's own packing."""
    before = logging.root.handlers[:]
    if not before:  # the import would set the root logger up for the whole process
        logging.root.addHandler(quiet := logging.NullHandler())
    from onnxruntime.quantization import matmul_nbits_quantizer as library

    if not before:
        logging.root.removeHandler(quiet)
    config = library.DefaultWeightOnlyQuantConfig(
        block_size=block, is_symmetric=True, bits=num_bits
    )
    codes, scales, _ = library.DefaultWeightOnlyQuantizer(config).qbits_block_quant(piece_KN)
    return codes, scales
