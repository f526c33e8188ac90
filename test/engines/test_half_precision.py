"""Engines of half precision: float16 answers on this CPU, bfloat16 says where it would."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from molmo2_ros.engines.checkpoint import load_checkpoint
from molmo2_ros.engines.parity import reference_features
from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.layout import HIDDEN
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.golden import verify_golden
from molmo2_ros.runtime.manifest import Manifest


@pytest.fixture(scope="module")
def engine(float16):
    return load_engine(float16, threads=1)


def forward(engine, ids_S, bias_ST=None, kv=None, **options):
    """One row of tokens; causal where no mask is given."""
    kv = engine.empty_kv() if kv is None else kv
    num_new, num_all = len(ids_S), kv.length + len(ids_S)
    if bias_ST is None:
        seen = np.tri(num_new, num_all, kv.length, dtype=bool)
        bias_ST = np.where(seen, 0, HIDDEN).astype(np.float32)
    positions = np.arange(kv.length, num_all)
    return engine.forward(np.array([ids_S]), positions[None], bias_ST[None, None], kv, **options)


def test_float16_engine_proves_itself_and_gives_float32(engine):
    assert engine.manifest.dtype == "float16"
    assert verify_golden(engine) < engine.manifest.golden.logit_tolerance
    logits, kv = forward(engine, [1, 2, 3])
    assert logits.dtype == np.float32
    assert {tensor.data_type() for tensor in kv.tensors} == {"tensor(float16)"}


def test_features_of_float16_are_float32_near_the_models(engine, sharded):
    random = np.random.default_rng(0)
    patches = random.uniform(-1, 1, (1, 729, 588)).astype(np.float32)
    pooling = random.integers(0, 729, (5, 9))
    pooling[1, 4:], pooling[2, 1:] = -1, -1
    features = engine.encode(patches, pooling)
    expected = reference_features(load_checkpoint(sharded), patches, pooling)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=0, atol=0.01 * np.abs(expected).max())


def test_window_without_any_patch_gives_numbers(engine):
    patches = np.random.default_rng(0).uniform(-1, 1, (1, 729, 588)).astype(np.float32)
    pooling = np.arange(18).reshape(2, 9)
    pooling[1] = -1
    assert np.isfinite(engine.encode(patches, pooling)).all()


def test_row_that_may_see_nothing_gives_numbers(engine):
    bias = np.full((3, 3), HIDDEN, np.float32)
    bias[0, 0] = bias[2, :] = 0
    logits, _ = forward(engine, [1, 2, 3], bias, logit_indices_L=np.arange(3))
    assert np.isfinite(logits).all()


def test_hidden_token_changes_nothing_bit_for_bit(engine):
    bias = np.zeros((3, 3), np.float32)
    bias[:, 1] = HIDDEN
    bias[1, 1] = 0
    rows = [
        forward(engine, [1, other, 3], bias, logit_indices_L=np.array([0, 2]))[0]
        for other in (2, 500)
    ]
    np.testing.assert_array_equal(*rows)


def test_cache_of_float16_is_cut_and_goes_on(engine):
    _, kv = forward(engine, [5, 6, 7, 8])
    short = engine.keep_kv(kv, np.arange(2))
    assert short.length == 2
    ours, _ = forward(engine, [9], kv=short)
    whole, _ = forward(engine, [5, 6, 9])
    np.testing.assert_allclose(ours, whole, rtol=0, atol=0.02)


def test_float16_engine_is_about_half_as_large(float16, sharded):
    weights = sum(path.stat().st_size for path in sharded.glob("*.safetensors"))  # bfloat16
    graphs = sum((float16 / name).stat().st_size for name in ("vision.onnx", "decoder.onnx"))
    assert graphs < 2 * weights  # structure and 4096 bytes a weight beside them


def test_bfloat16_engine_says_that_the_cpu_has_no_kernels(float16, tmp_path):
    folder = shutil.copytree(float16, tmp_path / "engine")
    replace(Manifest.load(folder), dtype="bfloat16").write(folder)
    with pytest.raises(
        EngineError, match="which ONNX Runtime does not multiply on the CPU; ask for cuda"
    ):
        load_engine(folder, device="cpu")


def test_graph_of_another_dtype_than_the_manifests_is_refused(float16, tmp_path):
    folder = shutil.copytree(float16, tmp_path / "engine")
    replace(Manifest.load(folder), dtype="float32").write(folder)
    with pytest.raises(EngineError, match=r"float16"):
        load_engine(folder, device="cpu")


def test_float16_rounds_the_model_as_torch_does(engine, sharded):
    """Against transformers in float16, whose kernels round in another order."""
    model = load_checkpoint(sharded)
    ids = [1, 2, 3, 4]
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits[0, -1].numpy()
        half = model.half()(input_ids=torch.tensor([ids])).logits[0, -1].float().numpy()
    ours = forward(engine, ids)[0][0, 0]
    theirs_error, our_error = np.abs(half - expected).max(), np.abs(ours - expected).max()
    assert our_error < 2 * theirs_error + 1e-3
