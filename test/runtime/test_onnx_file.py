"""What is read of an ONNX file without the onnx package, against that package."""

from contextlib import suppress

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.onnx_file import read_onnx_facts


def saved(path, *opsets, location=""):
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [1], [1.0])
    if location:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "4")):
            weight.external_data.add(key=key, value=value)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Add", ["x", "weight"], ["y"])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "graph", [value], [result], [weight])
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets]
    path.write_bytes(helper.make_model(graph, opset_imports=imports).SerializeToString())
    return path


@pytest.mark.parametrize("name", ["vision.onnx", "decoder.onnx"])
def test_shipped_graphs_are_read_as_onnx_reads_them(name):
    facts = read_onnx_facts(NANO / name)
    assert facts.opset == onnx.load(NANO / name).opset_import[0].version
    assert facts.external == frozenset()


@pytest.mark.parametrize(
    "opsets",
    [[("", 20)], [("ai.onnx", 20)], [("com.microsoft", 1), ("", 20)], [("", 20), ("local", 300)]],
)
def test_opset_is_that_of_the_standard_operators(tmp_path, opsets):
    assert read_onnx_facts(saved(tmp_path / "a.onnx", *opsets)).opset == 20


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300))
def test_file_of_weights_is_named_whatever_its_name(tmp_path_factory, name):
    path = saved(tmp_path_factory.mktemp("graph") / "a.onnx", ("", 23), location=name)
    assert read_onnx_facts(path).external == {name}


def test_every_file_of_weights_is_named(tmp_path):
    graph = onnx.load(saved(tmp_path / "a.onnx", ("", 23), location="a"), load_external_data=False)
    for name in ("b", "a", "c"):
        weight = graph.graph.initializer.add()
        weight.CopyFrom(graph.graph.initializer[0])
        weight.external_data[0].value = name
    (tmp_path / "a.onnx").write_bytes(graph.SerializeToString())
    assert read_onnx_facts(tmp_path / "a.onnx").external == {"a", "b", "c"}


@pytest.mark.parametrize("content", [b"", b"\x00", b"not a graph at all", b"\xff" * 20, b"\x08"])
def test_file_that_is_no_graph_is_refused(tmp_path, content):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"a\.onnx is no ONNX file .*; make the engine anew"):
        read_onnx_facts(path)


def test_graph_that_was_cut_off_is_refused(tmp_path):
    whole = (NANO / "vision.onnx").read_bytes()
    (tmp_path / "a.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EngineError, match="it ends within a field of"):
        read_onnx_facts(tmp_path / "a.onnx")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("graph") / "a.onnx"
    path.write_bytes(content)
    with suppress(EngineError):
        assert read_onnx_facts(path).opset > 0
