"""FP8 and NVFP4 weights for TensorRT, rounded by NVIDIA modelopt, matrix by matrix.

Weights alone: they are what a pass that writes one token waits for. Activations stay as they are,
so that no calibration is needed.

Letters: K inputs, N outputs of a matrix, C blocks of an output's weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto
from onnx.helper import make_node

from molmo2_ros.engines.tensor_files import GraphWriter, Matrix
from molmo2_ros.errors import EngineError

FP8_LARGEST = 448.0  # of E4M3
FP4_LARGEST = 6.0  # of E2M1


class Fp8:
    """E4M3 weights with one scale for the matrix: Ada, Hopper, Thor, Blackwell.

    Raises:
        EngineError: modelopt cannot be imported.
    """

    scheme, operator, block = "fp8", "DequantizeLinear", 0

    def __init__(self) -> None:
        self._round = _modelopt("fp8_tensor", "FP8QTensor")

    def fits(self, matrix: Matrix) -> bool:
        """All shapes do."""
        return True

    def store(self, matrix: Matrix, writer: GraphWriter) -> tuple[str, ...]:
        """See WeightForm.store."""
        import torch

        scale = torch.tensor(_largest(matrix) / FP8_LARGEST)

        def codes() -> Iterator[npt.NDArray[np.uint8]]:
            for piece_KN in matrix.rows():
                rounded, _ = self._round(torch.from_numpy(piece_KN), scales=scale)
                yield rounded._quantized_data.view(torch.uint8).numpy()

        shape = (matrix.num_inputs, matrix.num_outputs)
        return (
            writer.add(f"{matrix.name}_codes", TensorProto.FLOAT8E4M3FN, shape, codes()),
            writer.add(f"{matrix.name}_scale", TensorProto.FLOAT, (), [scale.numpy()]),
        )

    def product(
        self, matrix: Matrix, stored: tuple[str, ...], source: str, result: str
    ) -> list[NodeProto]:
        """See WeightForm.product."""
        weights = f"{result}_weights"
        nodes = [make_node(self.operator, stored, [weights])]
        return _multiply(nodes, matrix.data_type, weights, source, result)


class Nvfp4:
    """E2M1 weights, an E4M3 scale for 16 of them and one scale for the matrix: Thor, Blackwell.

    Raises:
        EngineError: modelopt cannot be imported.
    """

    scheme, operator, block = "nvfp4", "DequantizeLinear", 16

    def __init__(self) -> None:
        self._round = _modelopt("nvfp4_tensor", "NVFP4QTensor")

    def fits(self, matrix: Matrix) -> bool:
        """TensorRT wants whole blocks."""
        return matrix.num_inputs % self.block == 0

    def store(self, matrix: Matrix, writer: GraphWriter) -> tuple[str, ...]:
        """See WeightForm.store."""
        import torch

        outer = torch.tensor(_largest(matrix) / (FP4_LARGEST * FP8_LARGEST))
        scales_NC: list[npt.NDArray[np.uint8]] = []

        def codes() -> Iterator[npt.NDArray[np.uint8]]:
            for piece_KN in matrix.columns():
                weights_NK = torch.from_numpy(np.ascontiguousarray(piece_KN.T))
                rounded, inner, _ = self._round(
                    weights_NK, self.block, weights_scaling_factor_2=outer
                )
                scales_NC.append(inner.view(torch.uint8).numpy())
                yield rounded._quantized_data.numpy()

        shape = (matrix.num_outputs, matrix.num_inputs)
        name, num_blocks = matrix.name, matrix.num_inputs // self.block
        return (
            writer.add(f"{name}_codes", TensorProto.FLOAT4E2M1, shape, codes()),
            writer.add(
                f"{name}_scales", TensorProto.FLOAT8E4M3FN, (shape[0], num_blocks), scales_NC
            ),
            writer.add(f"{name}_scale", TensorProto.FLOAT, (), [outer.numpy()]),
        )

    def product(
        self, matrix: Matrix, stored: tuple[str, ...], source: str, result: str
    ) -> list[NodeProto]:
        """See WeightForm.product."""
        codes, inner, outer = stored
        scales, rows, weights = (f"{result}_{part}" for part in ("scales", "rows", "weights"))
        nodes = [
            make_node(self.operator, [inner, outer], [scales]),
            make_node(self.operator, [codes, scales], [rows], axis=-1, block_size=self.block),
            make_node("Transpose", [rows], [weights], perm=[1, 0]),
        ]
        return _multiply(nodes, matrix.data_type, weights, source, result)


def _multiply(
    nodes: list[NodeProto], data_type: int, weights: str, source: str, result: str
) -> list[NodeProto]:
    """The product behind float32 weights; scales of a whole matrix are too small for float16."""
    if data_type != TensorProto.FLOAT:
        cast = f"{weights}_cast"
        nodes.append(make_node("Cast", [weights], [cast], to=data_type))
        weights = cast
    return [*nodes, make_node("MatMul", [source, weights], [result])]


def _largest(matrix: Matrix) -> np.float32:
    """Largest magnitude of a matrix; 1 where all are 0."""
    largest = max(np.abs(piece_KN).max() for piece_KN in matrix.rows())
    return np.float32(largest or 1)


def _modelopt(module: str, name: str) -> Callable[..., Any]:
    """The function by which modelopt rounds one tensor.

    Raises:
        EngineError: it cannot be imported.
    """
    from importlib import import_module

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of each optional package that is absent
            found = import_module(f"modelopt.torch.quantization.qtensor.{module}")
    except ImportError as error:
        raise EngineError(
            f"fp8 and nvfp4 are rounded by NVIDIA modelopt, which cannot be imported ({error}); "
            "install it with `pip install nvidia-modelopt`, or take int4 or int8"
        ) from error
    return getattr(found, name).quantize
