"""Writes a traced graph with its weights, tensor by tensor.

While the graph is simplified its weights are inputs, so that no pass can fold them into constants
of other names. Afterwards each is one initializer under its parameter's name; a matrix that the
graph multiplies from the right is stored as [in, out].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import onnx_ir as ir
import torch

from molmo2_ros.errors import EngineError

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

# Above this a file of its own holds the weights: ONNX's limit is 2 GB, and what lies inside is held
# in memory several times while it is written and loaded.
EMBEDDED_BYTES = 512 << 20
_ALIGNMENT = 4096  # bytes, a page: runtimes map the file
_BLOCK = 16 << 20  # values that are converted at a time
_TORCH = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
}

Read = Callable[[str], torch.Tensor]
Progress = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weight:
    """An initializer to fill."""

    value: ir.Value
    parameter: str
    transposed: bool  # against the parameter


def quiet_progress(items: Iterable[Any], what: str) -> Iterable[Any]:
    """Shows nothing."""
    del what
    return items


def write_graph(
    program: ONNXProgram,
    path: Path,
    names: dict[str, str],
    read: Read,
    *,
    order: Callable[[str], Any] = str,
    embedded_bytes: int = EMBEDDED_BYTES,
    progress: Progress = quiet_progress,
) -> None:
    """Write `path`, and `path`.data beside it where the weights are large.

    Args:
        program: traced with optimize=False.
        path: of the file to write.
        names: of the weights: initializer -> parameter, as `read` knows it.
        read: a parameter's values; any float dtype.
        order: sorts parameters into the order of reading.
        embedded_bytes: most bytes of weights that stay inside the graph's file.
        progress: wraps the iterable of weights, given the file's name.

    Raises:
        EngineError: a weight is not finite in the graph's dtype.
    """
    graph = program.model.graph
    inputs = [_detach(graph, name) for name in names if name in graph.initializers]
    program.optimize()
    weights = [_attach(graph, value, names[str(value.name)]) for value in inputs if value.uses()]
    for unused in (value for value in inputs if value in graph.inputs):
        graph.inputs.remove(unused)
    for node in graph:
        node.metadata_props.clear()  # the lines of code it comes from, with this machine's folders
    weights.sort(key=lambda weight: order(weight.parameter))
    data = path.with_name(path.name + ".data")
    with data.open("wb") as stream:
        for weight in progress(weights, path.name):
            _store(weight, read(weight.parameter), stream, data)
        size = stream.tell()
    if size <= embedded_bytes:
        ir.external_data.load_to_model(program.model)
        data.unlink()
    ir.save(program.model, path)


def _detach(graph: ir.Graph, name: str) -> ir.Value:
    value = graph.initializers.pop(name)
    value.const_value = None
    graph.inputs.append(value)
    return value


def _attach(graph: ir.Graph, value: ir.Value, parameter: str) -> _Weight:
    """Make an input an initializer again, transposed where all its readers transpose it."""
    graph.inputs.remove(value)
    graph.initializers[str(value.name)] = value
    readers = [use.node for use in value.uses()]
    transposed = all(_transposes(node) for node in readers)
    if transposed:
        value.shape = ir.Shape(reversed(value.shape))
        for node in readers:
            ir.convenience.replace_all_uses_with(node.outputs[0], value)
            graph.remove(node, safe=True)
    return _Weight(value=value, parameter=parameter, transposed=transposed)


def _transposes(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == [1, 0]


def _store(weight: _Weight, stored: torch.Tensor, stream: BinaryIO, data: Path) -> None:
    """Append a weight to the data file, some rows at a time, and let the graph point to it."""
    value = weight.value
    dtype = _TORCH[value.dtype]
    tensor_RC = (stored.t() if weight.transposed else stored).reshape(value.shape[0], -1)
    offset = stream.seek(-stream.tell() % _ALIGNMENT, 1)
    num_rows = max(1, _BLOCK // tensor_RC.shape[1])
    for start in range(0, len(tensor_RC), num_rows):
        block_RC = tensor_RC[start : start + num_rows].to(dtype).contiguous()
        if not bool(block_RC.isfinite().all()):
            raise EngineError(
                f"{weight.parameter} holds values that are infinite or no numbers in {dtype}; the "
                "checkpoint was altered, or its weights exceed that dtype: fetch it again, or "
                "export it as bfloat16 or float32"
            )
        stream.write(block_RC.view(torch.uint8).numpy().data)
    value.const_value = ir.ExternalTensor(
        data.name,
        offset,
        stream.tell() - offset,
        value.dtype,
        shape=value.shape,
        name=str(value.name),
        base_dir=data.parent,
    )
