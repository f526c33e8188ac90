"""Graphs rewritten: which matrices and tables are found, and that the rest stays."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from molmo2_ros.engines.onnx_file import quiet_progress
from molmo2_ros.engines.quantized_graph import quantize_graph
from molmo2_ros.engines.weight_forms import Dequantized, NBits, RowCodes
from molmo2_ros.errors import EngineError

NODES = [
    ("Gather", ["table", "ids"], "read", {}),
    ("Gather", ["short", "ids"], "added", {}),
    ("Add", ["read", "added"], "x", {}),
    ("MatMul", ["x", "plain"], "a", {}),
    ("Transpose", ["turned"], "turned_T", {"perm": [1, 0]}),
    ("MatMul", ["a", "turned_T"], "b", {}),
    ("Gemm", ["b", "behind", "bias"], "c", {"transB": 1}),
    ("Gemm", ["c", "scaled", "bias"], "d", {"alpha": 0.5}),
    ("MatMul", ["d", "plain"], "e", {}),
    ("Transpose", ["e"], "e_T", {"perm": [1, 0]}),
    ("MatMul", ["e", "e_T"], "y", {}),
]


@pytest.fixture
def source(tmp_path):
    """A graph with a matrix of every kind, one of them used twice."""
    random = np.random.default_rng(0)
    shapes = {"table": (1024, 64), "short": (9, 64), "bias": (64,)}
    shapes |= dict.fromkeys(("plain", "turned", "behind", "scaled"), (64, 64))
    arrays = {name: random.normal(0, 0.2, shape) for name, shape in shapes.items()}
    tensors = [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()]
    nodes = [helper.make_node(kind, ins, [out], **more) for kind, ins, out, more in NODES]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["S"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["S", "S"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "a.onnx")
    return tmp_path / "a.onnx"


def run(path):
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {"ids": np.array([0, 8, 3, 5])})[0]


@pytest.mark.parametrize("form", [NBits("int8", 32), Dequantized("int8", 0)])
def test_every_kind_of_matrix_is_found_and_stored_once(source, form):
    out = source.with_name("b.onnx")
    assert quantize_graph(source, out, form, RowCodes(), quiet_progress) == 3
    model = onnx.load(out)
    names = {tensor.name.partition("_")[0]: tensor for tensor in model.graph.initializer}
    kept = {"short", "bias", "scaled"}  # too small, no matrix, and no plain product
    changed = {"table", "plain", "turned", "behind"}
    assert names.keys() == kept | changed
    plain = {tensor.name for tensor in model.graph.initializer if "_" not in tensor.name}
    assert plain == kept
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Transpose") == 1  # the activations' own
    assert kinds.count("Gemm") == 1
    np.testing.assert_allclose(run(out), run(source), atol=0.03 * np.abs(run(source)).max())


def test_tables_stay_where_no_form_is_given_for_them(source):
    out = source.with_name("b.onnx")
    quantize_graph(source, out, NBits("int4", 32), None, quiet_progress)
    assert "table" in {tensor.name for tensor in onnx.load(out).graph.initializer}


def test_progress_sees_every_node_under_a_title(source):
    seen = []

    def progress(nodes, title):
        seen.append((len(nodes), title))
        return nodes

    quantize_graph(source, source.with_name("b.onnx"), NBits("int4", 128), None, progress)
    assert seen == [(len(NODES), "int4 a")]


def test_a_graph_whose_matrices_do_not_fit_is_refused(source):
    form, out = Dequantized("int4", 128), source.with_name("b.onnx")
    with pytest.raises(EngineError, match="matrices that DequantizeLinear with block 128 can hold"):
        quantize_graph(source, out, form, None, quiet_progress)
    assert not out.exists()
