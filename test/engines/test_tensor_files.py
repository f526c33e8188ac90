"""Weights of ONNX files, read and written piece by piece."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from molmo2_ros.engines import tensor_files
from molmo2_ros.engines.tensor_files import GraphFile, GraphWriter, Matrix
from molmo2_ros.errors import EngineError


def write_graph(path, arrays, *, beside):
    """A graph of nothing but weights."""
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph([], "weights", [], [], tensors)
    model = helper.make_model(graph)
    onnx.save(model, path, save_as_external_data=beside, location="data", size_threshold=0)
    return GraphFile(path)


@pytest.fixture(params=[False, True], ids=["inside", "beside"])
def beside(request):
    return request.param


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_pieces_of_a_matrix_are_its_columns_and_rows(
    tmp_path, monkeypatch, beside, dtype, transposed
):
    monkeypatch.setattr(tensor_files, "PIECE_BYTES", 512)
    stored = np.random.default_rng(0).normal(size=(20, 36)).astype(dtype)
    file = write_graph(tmp_path / "a.onnx", {"other": stored[:3], "w": stored}, beside=beside)
    matrix = Matrix(file, "w", transposed)
    expected = (stored.T if transposed else stored).astype(np.float32)
    assert (matrix.num_inputs, matrix.num_outputs) == expected.shape
    columns, rows = list(matrix.columns()), list(matrix.rows(multiple=2))
    assert len(columns) > 2
    assert len(rows) > 2
    assert all(len(piece) % 2 == 0 for piece in rows)
    np.testing.assert_array_equal(np.concatenate(columns, axis=1), expected)
    np.testing.assert_array_equal(np.concatenate(rows), expected)


def test_what_is_written_beside_a_graph_is_read_back_by_onnx(tmp_path):
    large = np.random.default_rng(0).normal(size=(64, 40)).astype(np.float32)
    source = write_graph(tmp_path / "a.onnx", {"copied": large[::-1], "tiny": large[:1]}, beside=1)
    writer = GraphWriter(tmp_path / "b.data")
    writer.add(
        "pieces", TensorProto.FLOAT, large.shape, (large[i : i + 7] for i in range(0, 64, 7))
    )
    writer.add("nibbles", TensorProto.UINT4, (3, 3), [np.arange(5, dtype=np.uint8)])
    for name in ("copied", "tiny"):
        writer.copy(source, name)
    model = helper.make_model(helper.make_graph([], "weights", [], [], writer.tensors))
    onnx.save(model, tmp_path / "b.onnx")
    read = {tensor.name: tensor for tensor in onnx.load(tmp_path / "b.onnx").graph.initializer}
    np.testing.assert_array_equal(numpy_helper.to_array(read["pieces"]), large)
    np.testing.assert_array_equal(numpy_helper.to_array(read["copied"]), large[::-1])
    assert numpy_helper.to_array(read["nibbles"]).shape == (3, 3)
    beside = GraphFile(tmp_path / "b.onnx")
    assert beside.data_files == {"b.data"}
    entries = {
        e.key: int(e.value) for e in beside.tensors["copied"].external_data if e.key != "location"
    }
    assert entries == {"offset": 3 * 4096, "length": large.nbytes}
    assert not beside.tensors["tiny"].external_data


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"a")])
def test_weights_that_are_cut_off_or_missing_are_named(tmp_path, spoil):
    file = write_graph(tmp_path / "a.onnx", {"w": np.ones((20, 36), np.float32)}, beside=True)
    spoil(tmp_path / "data")
    with pytest.raises(EngineError, match=r"data does not hold w of a.onnx"):
        file.array("w")


@pytest.mark.parametrize("location", ["../data", "/etc/passwd", ""])
def test_weights_that_lie_elsewhere_are_refused(tmp_path, location):
    write_graph(tmp_path / "a.onnx", {"w": np.ones((20, 36), np.float32)}, beside=True)
    model = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match="expected a file beside the graph"):
        GraphFile(tmp_path / "a.onnx")


@pytest.mark.parametrize("content", [b"not a graph", None])
def test_a_file_that_is_no_graph_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(EngineError, match=r"a\.onnx is no ONNX graph"):
        GraphFile(tmp_path / "a.onnx")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, beside, value):
    weights = np.ones((20, 36), np.float16)
    weights[19, 35] = value
    matrix = Matrix(write_graph(tmp_path / "a.onnx", {"w": weights}, beside=beside), "w")
    for pieces in (matrix.columns(), matrix.rows()):
        with pytest.raises(EngineError, match="w of .*a.onnx holds values that are no numbers"):
            list(pieces)
