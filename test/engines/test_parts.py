"""A graph that is run a part at a time, and what a large engine's check finds."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from molmo2_ros.engines import export, parts
from molmo2_ros.engines.checkpoint import load_checkpoint
from molmo2_ros.engines.export import export_checkpoint
from molmo2_ros.engines.parity import make_golden
from molmo2_ros.engines.parts import PartedEngine, PartedGraph, check_in_parts
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.golden import GOLDEN_FILE, Golden, verify_golden
from molmo2_ros.runtime.manifest import Manifest

PART_BYTES = 40_000  # of some 300,000


@pytest.fixture(scope="module")
def large(sharded, tmp_path_factory):
    """Exported as what memory cannot hold: streamed, and proven part by part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_RESIDENT_BYTES", 0)
        patch.setattr(parts, "PART_BYTES", PART_BYTES)
        folder = tmp_path_factory.mktemp("large") / "engine"
        export_checkpoint(sharded, folder)
    return folder


def test_large_export_is_an_engine_that_loads_and_proves_itself(large, sharded):
    engine = load_engine(large, threads=1)
    golden = Golden.load(large / GOLDEN_FILE)
    assert len(golden.tokens) <= 8
    assert verify_golden(engine) < 1e-4


def test_parts_hold_all_nodes_in_their_order_and_few_weights(large):
    graph = PartedGraph(large / "decoder.onnx", PART_BYTES)
    nodes = [node.name for part in graph.parts for node in part.nodes]
    whole = onnx.load(large / "decoder.onnx", load_external_data=False).graph
    assert nodes == [node.name for node in whole.node]
    assert len(graph.parts) > 3
    for part in graph.parts:
        sizes = [4 * int(np.prod(weight.dims)) for weight in part.weights]
        assert sum(sizes) <= max([PART_BYTES, *sizes]) or len(part.nodes) == 1


def test_parts_compute_what_the_whole_does(large):
    path = large / "decoder.onnx"
    session = onnxruntime.InferenceSession(path)
    random = np.random.default_rng(0)
    feeds = {
        "input_ids": random.integers(0, 500, (1, 5)),
        "visual_add": random.normal(size=(1, 5, 64)).astype(np.float32),
        "position_ids": np.arange(5)[None],
        "attn_bias": np.zeros((1, 1, 5, 5), np.float32),
        "logit_indices": np.array([4, 1]),
    }
    for value in session.get_inputs():
        if value.name.startswith("past"):
            feeds[value.name] = np.zeros((1, 2, 0, 16), np.float32)
    names = [value.name for value in session.get_outputs()]
    graph = PartedGraph(path, PART_BYTES)
    for ours, theirs in zip(graph.run(names, feeds), session.run(names, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_parted_engine_gives_the_features_of_the_whole_one(large):
    random = np.random.default_rng(0)
    patches = random.uniform(-1, 1, (1, 729, 588)).astype(np.float32)
    pooling = random.integers(0, 729, (4, 9))
    whole, parted = load_engine(large, threads=1), PartedEngine(large, device="cpu")
    np.testing.assert_allclose(
        parted.encode(patches, pooling), whole.encode(patches, pooling), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.language_model.layers.1.mlp.up_proj.weight", "golden example's logits differ by"),
        (
            "model.vision_tower.layers.0.mlp.fc1.weight",
            "example's visual features differ by",
        ),
    ],
)
def test_one_changed_weight_of_a_large_engine_is_found(large, sharded, name, message):
    model = load_checkpoint(sharded)
    with torch.no_grad():
        model.get_parameter(name).mul_(1.05)
    manifest = Manifest.load(large)
    golden = Golden.load(large / GOLDEN_FILE)
    golden = make_golden(model, large, manifest.vision, manifest.tokens, golden, num_tokens=4)
    with pytest.raises(EngineError, match=message):
        check_in_parts(large, model, golden)


def test_another_token_than_the_models_is_found(large, sharded):
    golden = Golden.load(large / GOLDEN_FILE)
    golden.tokens[-1] = (golden.tokens[-1] + 1) % 500
    with pytest.raises(EngineError, match="golden example.* along the answer"):
        check_in_parts(large, load_checkpoint(sharded), golden)
