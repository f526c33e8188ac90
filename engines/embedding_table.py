"""Takes the embedding table out of a decoder graph, which then reads embeddings instead of ids.

TensorRT wants one contiguous copy of the table on the GPU (0.8 GB for Molmo2-4B in float16), of
which a pass reads a few rows. A board of 8 GB has better uses for it: the table stays in a file
that is mapped into memory, and the host picks the rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from molmo2_ros.errors import EngineError

_BFLOAT16_BYTES = 2


def split_embedding(path: Path) -> tuple[bytes, npt.NDArray[Any]]:
    """The graph without its table, and the table.

    Args:
        path: decoder.onnx; weights beside it stay where they are.

    Returns:
        the graph as ONNX bytes, with the input `inputs_embeds` [B, S, D] in place of `input_ids`;
        and the table [ids, D] in the graph's dtype (bfloat16 as uint16).

    Raises:
        EngineError: the graph has no plain table, as when it is quantised.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    readers = [node for node in graph.node if "input_ids" in node.input]
    tables = {tensor.name: tensor for tensor in graph.initializer}
    if [node.op_type for node in readers] != ["Gather"] or readers[0].input[0] not in tables:
        raise EngineError(
            f"{path}: input_ids is read by {[node.op_type for node in readers]}, expected one "
            "Gather from a table of weights; leave the embedding on the device (--embedding "
            "device), or export the checkpoint again without quantising it"
        )
    (gather,) = readers
    name, embedded = gather.input[0], gather.output[0]
    table = numpy_helper.to_array(tables[name], base_dir=str(path.parent))
    graph.node.remove(gather)
    for node in graph.node:
        for index, source in enumerate(node.input):
            if source == embedded:
                node.input[index] = "inputs_embeds"
    if not any(name in node.input for node in graph.node):  # else it is the head's too
        graph.initializer.remove(tables[name])
    _replace_input(graph)
    if table.dtype.itemsize == _BFLOAT16_BYTES and table.dtype != np.float16:
        table = table.view(np.uint16)
    return model.SerializeToString(), table


def _replace_input(graph: onnx.GraphProto) -> None:
    """Put `inputs_embeds`, which is shaped like `visual_add`, where `input_ids` stood."""
    inputs = list(graph.input)
    like = next(value for value in inputs if value.name == "visual_add")
    embeds = onnx.ValueInfoProto()
    embeds.CopyFrom(like)
    embeds.name = "inputs_embeds"
    del graph.input[:]
    graph.input.extend(embeds if value.name == "input_ids" else value for value in inputs)
