"""FP8 and NVFP4 by modelopt itself, and what is said where it is absent."""

import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from molmo2_ros.engines.modelopt_forms import Fp8, Nvfp4
from molmo2_ros.engines.quantization import Quantization
from molmo2_ros.engines.quantize import quantize_engine
from molmo2_ros.engines.tensor_files import GraphFile, GraphWriter, Matrix
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.golden import Golden


def test_missing_modelopt_is_named_with_its_cure(monkeypatch):
    for name in ("", ".fp8_tensor", ".nvfp4_tensor"):
        module = f"modelopt.torch.quantization.qtensor{name}" if name else "modelopt"
        monkeypatch.setitem(sys.modules, module, None)
    for form in (Fp8, Nvfp4):
        with pytest.raises(EngineError, match="`pip install nvidia-modelopt`"):
            form()


@pytest.fixture
def matrix(tmp_path):
    """Makes a matrix in a file; modelopt is not among what the suite installs, so name it."""
    pytest.importorskip("modelopt", reason="run `pip install nvidia-modelopt` for these tests")

    def make(weights):
        graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(weights, "w")])
        onnx.save(helper.make_model(graph), tmp_path / "w.onnx")
        return Matrix(GraphFile(tmp_path / "w.onnx"), "w")

    return make


def random_weights(dtype):
    return np.random.default_rng(0).normal(0, 0.02, (256, 48)).astype(dtype)


def stored(form, matrix):
    """Names of the operators, and the arrays, of a form of a matrix."""
    writer = GraphWriter(None)
    nodes = form.product(matrix, form.store(matrix, writer), "a", "y")
    arrays = [numpy_helper.to_array(tensor).astype(np.float32) for tensor in writer.tensors]
    return [node.op_type for node in nodes], arrays


@pytest.mark.parametrize(("dtype", "casts"), [(np.float32, []), (np.float16, ["Cast"])])
def test_fp8_is_within_half_a_step(matrix, dtype, casts):
    weights = random_weights(dtype)
    operators, (codes, scale) = stored(Fp8(), matrix(weights))
    assert operators == ["DequantizeLinear", *casts, "MatMul"]
    assert np.abs(codes).max() == 448
    exact = weights.astype(np.float32)
    smallest = np.abs(exact).max() / 448 * 2**-9  # a step below the smallest normal number
    assert (np.abs(codes * scale - exact) <= np.abs(exact) / 16 + smallest).all()


@pytest.mark.parametrize(("dtype", "casts"), [(np.float32, []), (np.float16, ["Cast"])])
def test_nvfp4_has_two_stages_of_scales(matrix, dtype, casts):
    weights = random_weights(dtype)
    operators, (codes, inner, outer) = stored(Nvfp4(), matrix(weights))
    assert operators == ["DequantizeLinear", "DequantizeLinear", "Transpose", *casts, "MatMul"]
    assert codes.shape == (48, 256)
    assert inner.shape == (48, 16)
    exact = weights.astype(np.float32).T
    # The widest step of E2M1 is from 4 to 6; a block's scale is itself rounded to four bits.
    largest = np.abs(exact).reshape(48, 16, 16).max(2).repeat(16, 1)
    error = np.abs(codes * inner.repeat(16, 1) * outer - exact)
    assert (error <= largest / 6 * 1.15).all()
    assert error.mean() < 0.0025


@pytest.mark.parametrize("scheme", ["fp8", "nvfp4"])
def test_an_engine_with_small_floats_answers_as_before(matrix, tmp_path, scheme):
    assert matrix
    quantization = Quantization(scheme=scheme, runtime="tensorrt", architecture="thor")
    manifest = quantize_engine(NANO, tmp_path / "out", quantization, gauge=None, threads=1)
    assert manifest.quantized["decoder"].scheme == scheme
    source, made = (Golden.load(folder / "golden.npz") for folder in (NANO, tmp_path / "out"))
    assert made.tokens.tolist() == source.tokens[: len(made.tokens)].tolist()
    assert len(made.tokens) > 3
