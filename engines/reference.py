"""An engine's quantised graphs in plain operators, unoptimised: what its answers are held to.

ONNX Runtime's fast products of quantised weights and TensorRT's plans are other code than its plain
DequantizeLinear and MatMul, and read the codes in their own order. So the reference shares nothing
with what it judges but the numbers in the files.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto
from onnx.helper import get_node_attr_value, make_node

from molmo2_ros.engines.tensor_files import GraphFile, GraphWriter
from molmo2_ros.engines.weight_forms import pack_nibbles
from molmo2_ros.runtime.manifest import Manifest, file_entry
from molmo2_ros.runtime.onnx_engine import OnnxEngine

GRAPHS = ("vision", "decoder")
# The sixteen values of E2M1 as bytes of E4M3, which has them all and which ONNX Runtime reads.
_POSITIVE = np.array([0x00, 0x30, 0x38, 0x3C, 0x40, 0x44, 0x48, 0x4C], np.uint8)
_E2M1_AS_E4M3 = np.concatenate([_POSITIVE, _POSITIVE | 0x80])


class ReferenceEngine(OnnxEngine):
    """Runs each operator by itself, as it stands in the file."""

    def _open(self, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # In the order of the file every matrix would be unpacked before the first product: of
        # Molmo2-4B's decoder 12.8 GB at the worst moment, so 5.8.
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._vision, self._decoder = (
            onnxruntime.InferenceSession(
                str(self.folder / f"{graph}.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for graph in GRAPHS
        )


def write_reference(folder: Path, out: Path) -> None:
    """Write the reference of an engine folder; files that are the same are linked, not copied.

    Args:
        folder: an engine folder with a manifest, quantised in any form.
        out: the folder to make, on the same file system.
    """
    manifest = Manifest.load(folder, verify=False)
    out.mkdir()
    graphs = {f"{graph}.onnx" for graph in GRAPHS}
    files = {name: entry for name, entry in manifest.files.items() if name not in graphs}
    for name in files:
        os.link(folder / name, out / name)
    for name in graphs:
        _write_plain(folder / name, out / name)
    made = {path.name: file_entry(path) for path in out.iterdir() if path.name not in files}
    replace(manifest, files={**files, **made}).write(out)


def _write_plain(source: Path, out: Path) -> None:
    """One graph with plain operators over the same weights."""
    file = GraphFile(source)
    graph = file.model.graph
    beside = out.with_name(f"{out.name}.reference") if file.data_files else None
    writer = GraphWriter(beside)
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes += _plain_product(node, file, writer) if node.op_type == "MatMulNBits" else [node]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT4E2M1:
            bytes_ = file.raw(tensor.name)
            nibbles = np.stack([bytes_ & 15, bytes_ >> 4], -1).reshape(-1)
            codes = [_E2M1_AS_E4M3[nibbles]]
            writer.add(tensor.name, TensorProto.FLOAT8E4M3FN, tensor.dims, codes)
        else:
            writer.tensors.append(tensor)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(writer.tensors)
    onnx.save(file.model, out)


def _plain_product(node: NodeProto, file: GraphFile, writer: GraphWriter) -> list[NodeProto]:
    """MatMulNBits by its definition: codes less the middle, times scales, then the product."""
    source, codes, scales = node.input
    num_bits, block = (int(get_node_attr_value(node, key)) for key in ("bits", "block_size"))
    num_inputs = int(get_node_attr_value(node, "K"))
    num_outputs, num_blocks = file.shape(scales)
    code_type = {4: TensorProto.UINT4, 8: TensorProto.UINT8}[num_bits]
    tensor = file.tensors[codes]  # the same bytes under another type and shape
    tensor.data_type, tensor.dims[:] = code_type, [num_outputs, num_blocks * block]
    middle = np.full((num_outputs, num_blocks), 1 << (num_bits - 1), np.uint8)
    flat = middle.reshape(-1)
    packed = pack_nibbles(np.append(flat, flat[: len(flat) % 2])) if num_bits == 4 else flat
    zeros = writer.add(f"{codes}_middle", code_type, middle.shape, [packed])
    bounds = [
        writer.add(f"{codes}_{key}", TensorProto.INT64, (1,), [np.array([value])])
        for key, value in (("first", 0), ("end", num_inputs), ("axis", 1))
    ]
    padded, rows, weights = (f"{node.output[0]}_{key}" for key in ("padded", "rows", "weights"))
    return [
        make_node("DequantizeLinear", [codes, scales, zeros], [padded], axis=1, block_size=block),
        make_node("Slice", [padded, *bounds], [rows]),
        make_node("Transpose", [rows], [weights], perm=[1, 0]),
        make_node("MatMul", [source, weights], list(node.output)),
    ]
