"""Forms of quantised weights: what they store is near the weights, and multiplies like them."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from molmo2_ros.engines import tensor_files
from molmo2_ros.engines.tensor_files import GraphFile, GraphWriter, Matrix
from molmo2_ros.engines.weight_forms import Dequantized, NBits, RowCodes, pack_nibbles

FORMS = {
    "nbits-4": NBits("int4", 32),
    "nbits-4-128": NBits("int4", 128),
    "nbits-8": NBits("int8", 32),
    "blocks-4": Dequantized("int4", 32),
    "blocks-4-128": Dequantized("int4", 128),
    "columns-8": Dequantized("int8", 0),
}
# Largest error of a weight as a share of the largest weight of its block. Half a step where codes
# are symmetric; ONNX Runtime's have one step more below zero, and what is cut off above is whole.
ERRORS = {
    ("MatMulNBits", "int4"): 1 / 8,
    ("MatMulNBits", "int8"): 1 / 128,
    ("DequantizeLinear", "int4"): 1 / 14,
    ("DequantizeLinear", "int8"): 1 / 254,
}


class Held(GraphFile):
    """A file that holds one matrix and was never on a disk."""

    def __init__(self, weights):
        self.path = None
        self.tensors = {"w": numpy_helper.from_array(weights, "w")}


def multiply(form, weights, activations):
    """What ONNX Runtime makes of the form of some weights, optimised and not."""
    matrix, writer = Matrix(Held(weights), "w"), GraphWriter(None)
    assert form.fits(matrix)
    nodes = form.product(matrix, form.store(matrix, writer), "a", "y")
    dtype = helper.np_dtype_to_tensor_dtype(weights.dtype)
    inputs = [helper.make_tensor_value_info("a", dtype, ["M", len(weights)])]
    outputs = [helper.make_tensor_value_info("y", dtype, ["M", weights.shape[1]])]
    graph = helper.make_graph(nodes, "product", inputs, outputs, writer.tensors)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"a": activations.astype(weights.dtype)})[0]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_form_multiplies_by_weights_within_a_step_of_the_given_ones(name, dtype):
    form = FORMS[name]
    weights = np.random.default_rng(0).normal(0, 0.02, (256, 48)).astype(dtype)
    weights[:, 3] = 0  # a block of zeros has no scale of its own
    # Each row of the identity reads one weight of every output, whatever the activations' steps.
    found = multiply(form, weights, np.eye(256))
    block = form.block or 256
    exact = weights.astype(np.float32)
    largest = np.abs(exact).reshape(-1, block, 48).max(1).repeat(block, 0)
    error = np.abs(found - exact)
    rounding = 1e-6 if dtype == np.float32 else 2e-5
    assert (error <= largest * ERRORS[form.operator, form.scheme] * 1.04 + rounding).all()
    assert float(np.abs(found[:, 3]).max()) < 1e-30
    assert error.max() > 0  # they are quantised


def test_a_last_block_that_is_not_full_is_padded():
    weights = np.random.default_rng(0).normal(0, 1, (588, 16)).astype(np.float32)
    for scheme in ("int4", "int8"):
        found = multiply(NBits(scheme, 32), weights, np.eye(588))
        assert (
            np.abs(found - weights).max() <= np.abs(weights).max() * ERRORS["MatMulNBits", scheme]
        )


@pytest.mark.parametrize("name", FORMS)
def test_pieces_give_the_codes_of_the_whole(monkeypatch, name):
    matrix = Matrix(Held(np.random.default_rng(1).normal(size=(256, 60)).astype(np.float32)), "w")
    stored = []
    for size in (1 << 20, 32 << 10):
        monkeypatch.setattr(tensor_files, "PIECE_BYTES", size)
        writer = GraphWriter(None)
        FORMS[name].store(matrix, writer)
        stored.append([tensor.raw_data for tensor in writer.tensors])
    assert stored[0] == stored[1]


@pytest.mark.parametrize(("scheme", "block"), [("int4", 32), ("int8", 0)])
def test_tensorrts_scales_are_above_zero_and_codes_symmetric(scheme, block):
    weights = np.random.default_rng(2).normal(size=(64, 8)).astype(np.float16)
    weights[:32, 0] = 0
    weights[0, 1] = -50  # the largest magnitude is negative
    writer = GraphWriter(None)
    Dequantized(scheme, block).store(Matrix(Held(weights), "w"), writer)
    codes, scales = (numpy_helper.to_array(tensor).astype(np.float32) for tensor in writer.tensors)
    largest = 7 if scheme == "int4" else 127
    assert (scales > 0).all()
    assert (codes.min(), codes[0, 1]) == (-largest, -largest)
    assert codes.max() == largest


@pytest.mark.parametrize(("shape", "fits"), [((96, 8), True), ((100, 8), False), ((96, 7), False)])
def test_tensorrt_is_given_whole_blocks_and_whole_bytes_only(shape, fits):
    assert Dequantized("int4", 32).fits(Matrix(Held(np.ones(shape, np.float32)), "w")) == fits


def test_rows_of_a_table_come_back_within_half_a_step():
    table = np.random.default_rng(3).normal(size=(300, 64)).astype(np.float32)
    table[7] = 0
    form, writer = RowCodes(), GraphWriter(None)
    matrix = Matrix(Held(table), "w")
    nodes = form.lookup(matrix, form.store(matrix, writer), "i", "y")
    inputs = [helper.make_tensor_value_info("i", TensorProto.INT64, ["B", "S"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", "S", 64])]
    graph = helper.make_graph(nodes, "rows", inputs, outputs, writer.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    indices = np.array([[0, 7, 299], [7, 8, 9]])
    (found,) = session.run(None, {"i": indices})
    largest = np.abs(table[indices]).max(-1, keepdims=True)
    assert (np.abs(found - table[indices]) <= largest / 254 * 1.001).all()
    assert writer.tensors[0].data_type == TensorProto.INT8


@given(
    st.lists(st.integers(0, 15), min_size=2, max_size=40).filter(lambda codes: len(codes) % 2 == 0)
)
def test_nibbles_are_packed_as_onnx_packs_them(codes):
    packed = pack_nibbles(np.array(codes))
    tensor = TensorProto(data_type=TensorProto.UINT4, dims=[len(codes)], raw_data=packed.tobytes())
    assert numpy_helper.to_array(tensor).astype(int).tolist() == codes
