"""The decoder without its embedding table computes what the whole one does."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from molmo2_ros.engines.embedding_table import split_embedding
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import NANO


def feeds(session, embedded):
    """Random inputs for a decoder after two tokens; ids or embeddings come first."""
    random = np.random.default_rng(0)
    past = {
        value.name: random.normal(size=(1, 2, 2, 32)).astype(np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past")
    }
    return {
        **embedded,
        "visual_add": random.normal(size=(1, 3, 128)).astype(np.float32),
        "position_ids": np.array([[2, 3, 4]]),
        "attn_bias": np.zeros((1, 1, 3, 5), np.float32),
        "logit_indices": np.array([0, 2]),
        **past,
    }


def test_table_and_graph_together_give_the_same_logits_and_cache():
    path = NANO / "decoder.onnx"
    ids = np.array([[5, 641, 3]])
    whole = onnxruntime.InferenceSession(path)
    model, table = split_embedding(path)
    assert table.shape == (768, 128)
    assert table.dtype == np.float32
    split = onnxruntime.InferenceSession(model)
    assert [value.name for value in split.get_inputs()][0] == "inputs_embeds"
    expected = whole.run(None, feeds(whole, {"input_ids": ids}))
    found = split.run(None, feeds(split, {"inputs_embeds": table[ids]}))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_graph_without_its_table_is_smaller_by_it():
    path = NANO / "decoder.onnx"
    model, table = split_embedding(path)
    assert abs(path.stat().st_size - len(model) - table.nbytes) < 2000


def graph_of(nodes, initializers, float_type=TensorProto.FLOAT):
    """A small graph that embeds tokens."""
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "S"]),
        helper.make_tensor_value_info("visual_add", float_type, [1, "S", 4]),
    ]
    output = helper.make_tensor_value_info("logits", float_type, None)
    graph = helper.make_graph(nodes, "decoder", inputs, [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])


def test_a_table_that_is_the_head_s_too_stays_in_the_graph(tmp_path):
    table = numpy_helper.from_array(np.eye(4, dtype=np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Add", ["embedded", "visual_add"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "table"], ["logits"]),
    ]
    onnx.save(graph_of(nodes, [table]), tmp_path / "decoder.onnx")
    model, found = split_embedding(tmp_path / "decoder.onnx")
    np.testing.assert_array_equal(found, np.eye(4))
    assert [tensor.name for tensor in onnx.load_from_string(model).graph.initializer] == ["table"]


def test_bfloat16_is_handed_on_as_its_bits(tmp_path):
    table = helper.make_tensor("table", TensorProto.BFLOAT16, [2, 4], [1.0] * 8)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Add", ["embedded", "visual_add"], ["logits"]),
    ]
    onnx.save(graph_of(nodes, [table], TensorProto.BFLOAT16), tmp_path / "decoder.onnx")
    _, found = split_embedding(tmp_path / "decoder.onnx")
    assert found.dtype == np.uint16
    assert (found == 0x3F80).all()


def test_a_quantised_table_is_refused_with_the_cure(tmp_path):
    table = numpy_helper.from_array(np.ones((4, 4), np.int8), "table")
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "scale")
    nodes = [
        helper.make_node("DequantizeLinear", ["table", "scale"], ["wide"]),
        helper.make_node("Gather", ["wide", "input_ids"], ["embedded"]),
        helper.make_node("Add", ["embedded", "visual_add"], ["logits"]),
    ]
    onnx.save(graph_of(nodes, [table, scale]), tmp_path / "decoder.onnx")
    with pytest.raises(
        EngineError,
        match=r"input_ids is read by \['Gather'\], expected one Gather from a table of weights; le",
    ):
        split_embedding(tmp_path / "decoder.onnx")
