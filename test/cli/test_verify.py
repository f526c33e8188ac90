"""`molmo2 verify`: one table where an engine is right, one line where it is not."""

import dataclasses
import shutil
import sys

import onnx
import pytest
from onnx import numpy_helper

from molmo2_ros.cli.main import main
from molmo2_ros.engines.golden import renew_golden
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.manifest import Manifest, QuantizedFacts, file_entry


@pytest.fixture
def folder(tmp_path):
    ignored = shutil.ignore_patterns("checkpoint")
    return shutil.copytree(NANO, tmp_path / "engine", ignore=ignored)


def verify(capsys, *arguments):
    """Exit code, rows of the table, standard error."""
    code = main(["verify", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, {line[:16].strip(): line[16:] for line in captured.out.splitlines()}, captured.err


def test_shipped_engine_is_right(capsys):
    code, rows, _ = verify(capsys)
    assert code == 0
    assert rows["engine"] == f"molmo2-nano, checksum {Manifest.load(NANO).checksum[:12]}, fused"
    assert rows["runtime"].startswith("onnxruntime ")
    assert (rows["precision"], rows["license"]) == ("float32", "Apache-2.0")
    assert "allowed 0.0017 (0." in rows["golden example"]
    assert "checkpoint" not in rows


def test_transformers_is_asked_where_the_checkpoint_is_given(capsys):
    code, rows, _ = verify(capsys, NANO, "--checkpoint", NANO / "checkpoint", "--threads", "1")
    assert code == 0
    assert rows["checkpoint"].startswith("logits within ")


def test_an_engine_whose_example_is_its_own_is_found_by_its_checkpoint(capsys, folder):
    """Another training, example and all: whole in itself, and not what is claimed."""
    path = folder / "decoder.onnx"
    graph = onnx.load(path)
    head = [node for node in graph.graph.node if node.op_type == "MatMul"][-1].input[1]
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == head)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, head))
    onnx.save(graph, path)
    manifest = Manifest.load(NANO)
    files = {**manifest.files, path.name: file_entry(path)}
    dataclasses.replace(manifest, files=files).write(folder)
    renew_golden(folder, None)
    assert verify(capsys, folder)[0] == 0
    code, rows, err = verify(capsys, folder, "--checkpoint", NANO / "checkpoint")
    assert (code, rows) == (2, {})
    assert "molmo2 verify: error: molmo2-nano computes wrongly here" in err


def test_quantised_engine_is_not_held_against_its_checkpoint(capsys, folder):
    facts = QuantizedFacts(scheme="int4", operator="MatMulNBits", block=32)
    dataclasses.replace(Manifest.load(NANO), quantized={"decoder": facts}).write(folder)
    code, _, err = verify(capsys, folder, "--checkpoint", NANO / "checkpoint")
    assert code == 2
    assert "is quantised (decoder)" in err


def test_missing_torch_is_named_with_the_cure(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("molmo2_ros.engines")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    code, _, err = verify(capsys, "--checkpoint", NANO / "checkpoint")
    assert code == 2
    assert "--checkpoint needs torch and transformers" in err
    assert "[training]" in err
