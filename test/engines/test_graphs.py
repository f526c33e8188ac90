"""Exported graphs: restrictions of TensorRT, and equality with the model."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from molmo2_ros.engines.export import OPSETS, write_graphs
from molmo2_ros.engines.graphs import export_attention
from molmo2_ros.engines.parity import reference_features

# Operators whose output shape depends on data, or that hide control flow: TensorRT refuses them or
# loses its CUDA graphs.
DATA_DEPENDENT = {"NonZero", "Compress", "Unique", "If", "Loop", "Scan", "NonMaxSuppression"}
LATE_OPERATORS = {"Attention", "RMSNormalization", "RotaryEmbedding"}  # of opset 23


@pytest.fixture(scope="session")
def decomposed(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decomposed")
    write_graphs(model, folder, opset=OPSETS["decomposed"])
    return folder


@pytest.fixture(params=["fused", "decomposed"])
def folder(request, exported):
    return exported if request.param == "fused" else request.getfixturevalue("decomposed")


def operators(path):
    return {node.op_type for node in onnx.load(path).graph.node}


def attention_nodes(path):
    return [node for node in onnx.load(path).graph.node if node.op_type == "Attention"]


@pytest.mark.parametrize("name", ["vision.onnx", "decoder.onnx"])
def test_every_fused_attention_has_one_output_and_no_past_inside(exported, name):
    nodes = attention_nodes(exported / name)
    assert len(nodes) == {"vision.onnx": 3, "decoder.onnx": 2}[name]  # two layers, and the pooling
    for node in nodes:
        assert len(node.output) == 1
        assert len(node.input) <= 4  # query, key, value, bias
        causal = [attribute.i for attribute in node.attribute if attribute.name == "is_causal"]
        assert causal in ([], [0])


def test_past_is_joined_by_a_concat_that_feeds_attention_directly(exported):
    graph = onnx.load(exported / "decoder.onnx").graph
    maker = {output: node for node in graph.node for output in node.output}
    present = [output.name for output in graph.output if output.name.startswith("present")]
    assert len(present) == 4
    for name in present:
        assert maker[name].op_type == "Concat"
        assert maker[name].input[0] == name.replace("present", "past")
    # Grouped heads are not repeated: attention reads the cache as it is.
    read = [source for node in attention_nodes(exported / "decoder.onnx") for source in node.input]
    assert set(present) <= set(read)


@pytest.mark.parametrize("name", ["vision.onnx", "decoder.onnx"])
def test_graphs_hold_no_data_dependent_operator_and_no_foreign_one(folder, name):
    loaded = onnx.load(folder / name)
    assert not operators(folder / name) & DATA_DEPENDENT
    assert {entry.domain for entry in loaded.opset_import} == {""}
    assert not loaded.functions


@pytest.mark.parametrize("name", ["vision.onnx", "decoder.onnx"])
def test_forms_have_their_opsets_and_operators(exported, decomposed, name):
    assert operators(exported / name) & LATE_OPERATORS
    assert not operators(decomposed / name) & LATE_OPERATORS
    versions = [onnx.load(at / name).opset_import[0].version for at in (exported, decomposed)]
    assert versions == [23, 20]


def test_weights_are_inside_the_files(folder):
    for name in ("vision.onnx", "decoder.onnx"):
        loaded = onnx.load(folder / name, load_external_data=False)
        inside = [tensor.data_location for tensor in loaded.graph.initializer]
        assert set(inside) == {onnx.TensorProto.DEFAULT}


def run(path, **feeds):
    return onnxruntime.InferenceSession(path).run(None, feeds)


def test_vision_graph_equals_the_model_for_any_windows(folder, model):
    random = np.random.default_rng(0)
    patches = random.uniform(-1, 1, (3, 16, 588)).astype(np.float32)
    pooling = random.integers(0, 48, (7, 6))  # windows may straddle views
    pooling[0, 1:], pooling[1, :3], pooling[2, 5] = -1, -1, -1
    (features,) = run(folder / "vision.onnx", patches=patches, pooling=pooling)
    expected = reference_features(model, patches, pooling)
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("batch", "num_past", "num_new", "num_logits"),
    [(1, 0, 9, 1), (1, 0, 1, 1), (1, 7, 1, 1), (1, 7, 5, 5), (4, 3, 2, 2), (3, 0, 6, 3)],
)
def test_decoder_graph_equals_the_model(folder, model, batch, num_past, num_new, num_logits):
    random = np.random.default_rng(1)
    total = num_past + num_new
    text = model.config.text_config
    ids = random.integers(0, text.vocab_size, (batch, total))
    visual = random.normal(0, 0.5, (batch, total, text.hidden_size)).astype(np.float32)
    positions = np.sort(random.integers(0, 60, (batch, total)))
    seen = np.tri(total, dtype=bool)[None].repeat(batch, 0)
    seen |= random.random((batch, total, total)) < 0.3  # some look ahead, as visual tokens do
    seen[:, :num_past, num_past:] = False  # the past was read before the new tokens came
    with torch.no_grad():
        embedded = model.get_input_embeddings()(torch.from_numpy(ids)) + torch.from_numpy(visual)
        expected = model(
            inputs_embeds=embedded,
            attention_mask=torch.from_numpy(seen)[:, None],
            position_ids=torch.from_numpy(positions),
        ).logits.numpy()
    bias = np.where(seen, 0, np.finfo(np.float32).min).astype(np.float32)[:, None]
    wanted = np.arange(num_new - num_logits, num_new)
    shape = (batch, text.num_key_value_heads, 0, text.head_dim)
    session = onnxruntime.InferenceSession(folder / "decoder.onnx")
    names = [value.name for value in session.get_inputs() if value.name.startswith("past")]
    past = [np.zeros(shape, np.float32) for _ in names]
    for start, stop in ((0, num_past), (num_past, total)):
        if start == stop:
            continue
        here = slice(start, stop)
        logits, *past = session.run(
            None,
            {
                "input_ids": ids[:, here],
                "visual_add": visual[:, here],
                "position_ids": positions[:, here],
                "attn_bias": bias[:, :, here, :stop],
                "logit_indices": wanted if stop == total else np.arange(1),
                **dict(zip(names, past, strict=True)),
            },
        )
    assert logits.shape == (batch, num_logits, text.vocab_size)
    np.testing.assert_allclose(logits, expected[:, total - num_logits :], rtol=0, atol=1e-4)
    assert all(tensor.shape[2] == total for tensor in past)


def test_exports_attention_is_lent_to_the_model_and_taken_back(model):
    before = model.config.text_config._attn_implementation
    with export_attention(model):
        assert model.config.text_config._attn_implementation != before
    assert model.config.text_config._attn_implementation == before
