"""Rewrites a graph so that its matrices are stored quantised, and everything else as it was."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto
from onnx.helper import get_node_attr_value, make_node, make_opsetid

from molmo2_ros.engines.onnx_file import Progress
from molmo2_ros.engines.tensor_files import GraphFile, GraphWriter, Matrix
from molmo2_ros.engines.weight_forms import MICROSOFT, RowCodes, WeightForm
from molmo2_ros.errors import EngineError

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_LEAST_TABLE = 1 << 16  # values of a table that is worth quantising
# Opsets that first know the types: of four-bit integers and blocks of scales, and of E2M1. From 20
# on to them the operators of our graphs only gained types, so that the number alone is raised.
_OPSETS = {TensorProto.INT4: 21, TensorProto.INT8: 21, TensorProto.FLOAT4E2M1: 23}


def quantize_graph(
    source: Path, out: Path, form: WeightForm, table_form: RowCodes | None, progress: Progress
) -> int:
    """Write a quantised copy of a graph; large weights stand beside it where the source's do.

    Args:
        source: the .onnx file, weights inside or beside.
        out: the file to write; weights beside go to the same name with `.data` added.
        form: of the matrices that activations are multiplied by.
        table_form: of embedding tables; None to leave them.
        progress: wraps the list of nodes; gets a title.

    Returns:
        how many matrices were quantised.

    Raises:
        EngineError: no matrix can be, or a weight is no number.
    """
    file = GraphFile(source)
    writer = GraphWriter(out.with_name(f"{out.name}.data") if file.data_files else None)
    rewriting = _Rewriting(file, writer, form, table_form)
    graph = file.model.graph
    nodes = [
        new
        for node in progress(list(graph.node), f"{form.scheme} {source.stem}")
        for new in rewriting.rewrite(node)
    ]
    if not rewriting.num_matrices:
        raise EngineError(
            f"{source} has no constant matrices that {form.operator} with block {form.block} can "
            "hold; take another scheme or block, or an engine that is not quantised yet"
        )
    nodes = _without_idle_transposes(nodes)
    wanted = _read_by(nodes)
    for name in file.tensors:
        if name in wanted:
            writer.copy(file, name)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(writer.tensors)
    _raise_opset(file.model)
    onnx.save(file.model, out)
    return rewriting.num_matrices


class _Rewriting:
    """Turns nodes of one graph into their quantised forms; each matrix is stored once."""

    def __init__(
        self, file: GraphFile, writer: GraphWriter, form: WeightForm, table_form: RowCodes | None
    ) -> None:
        self.num_matrices = 0
        self._file = file
        self._writer = writer
        self._form = form
        self._table_form = table_form
        self._stored: dict[tuple[str, str, bool], tuple[str, ...]] = {}
        self._transposes = {
            node.output[0]: node.input[0]
            for node in file.model.graph.node
            if node.op_type == "Transpose" and list(get_node_attr_value(node, "perm")) == [1, 0]
        }

    def rewrite(self, node: NodeProto) -> list[NodeProto]:
        """The nodes that stand in for one; itself where nothing is quantised."""
        if node.op_type == "MatMul":
            return self._product(node, node.input[1], False) or [node]
        if node.op_type == "Gemm" and _is_plain(node):
            return self._gemm(node) or [node]
        if node.op_type == "Gather" and self._table_form is not None:
            return self._lookup(node) or [node]
        return [node]

    def _product(self, node: NodeProto, weight: str, transposed: bool) -> list[NodeProto]:
        matrix = self._matrix(weight, transposed)
        if matrix is None or not self._form.fits(matrix):
            return []
        key = (self._form.scheme, matrix.name, transposed)
        if key not in self._stored:
            self._stored[key] = self._form.store(matrix, self._writer)
            self.num_matrices += 1
        return self._form.product(matrix, self._stored[key], node.input[0], node.output[0])

    def _gemm(self, node: NodeProto) -> list[NodeProto]:
        """A product and, where it has one, the bias behind it."""
        transposed = bool(_attribute(node, "transB", 0))
        if len(node.input) < 3:
            return self._product(node, node.input[1], transposed)
        product = make_node("MatMul", node.input[:2], [f"{node.output[0]}_product"])
        nodes = self._product(product, node.input[1], transposed)
        return nodes and [*nodes, make_node("Add", [*product.output, node.input[2]], node.output)]

    def _lookup(self, node: NodeProto) -> list[NodeProto]:
        table = self._matrix(node.input[0], False)
        if table is None or _attribute(node, "axis", 0) != 0:
            return []
        if table.num_inputs * table.num_outputs < _LEAST_TABLE:
            return []
        assert self._table_form is not None
        key = ("rows", table.name, False)
        if key not in self._stored:
            self._stored[key] = self._table_form.store(table, self._writer)
        return self._table_form.lookup(table, self._stored[key], node.input[1], node.output[0])

    def _matrix(self, name: str, transposed: bool) -> Matrix | None:
        """The constant float matrix of that name, perhaps behind a Transpose."""
        if name in self._transposes:
            name, transposed = self._transposes[name], not transposed
        tensor = self._file.tensors.get(name)
        if tensor is None or len(tensor.dims) != 2 or tensor.data_type not in _FLOATS:
            return None
        return Matrix(self._file, name, transposed)


def _is_plain(node: NodeProto) -> bool:
    """Whether a Gemm is a product and a sum."""
    scales = (_attribute(node, "alpha", 1.0), _attribute(node, "beta", 1.0))
    return scales == (1.0, 1.0) and not _attribute(node, "transA", 0)


def _attribute(node: NodeProto, name: str, default: float) -> float:
    found = [entry for entry in node.attribute if entry.name == name]
    return onnx.helper.get_attribute_value(found[0]) if found else default


def _without_idle_transposes(nodes: list[NodeProto]) -> list[NodeProto]:
    """Those whose matrix is now stored the other way round go."""
    wanted = _read_by(nodes)
    return [node for node in nodes if node.op_type != "Transpose" or node.output[0] in wanted]


def _read_by(nodes: Iterable[NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.input}


def _raise_opset(model: onnx.ModelProto) -> None:
    needed = max(_OPSETS.get(tensor.data_type, 0) for tensor in model.graph.initializer)
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = max(entry.version, needed)
    if any(node.domain == MICROSOFT for node in model.graph.node):
        model.opset_import.append(make_opsetid(MICROSOFT, 1))
