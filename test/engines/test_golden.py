"""Golden examples made anew: by the model, or by a quantised engine for other machines."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from safetensors.numpy import load_file, save_file

from molmo2_ros.engines.golden import main, record_golden, renew_golden
from molmo2_ros.engines.parity import golden_facts
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.golden import GOLDEN_FILE, Golden, examine, verify_golden
from molmo2_ros.runtime.manifest import FILE_NAME, Manifest, QuantizedFacts, file_entry


@pytest.fixture
def copy(tmp_path):
    """Copy the shipped engine under a name."""

    def do(name):
        return shutil.copytree(NANO, tmp_path / name, ignore=shutil.ignore_patterns("checkpoint"))

    return do


@pytest.fixture
def folder(copy):
    return copy("engine")


def quantize(folder, accuracy_level):
    """Int4 weights in the decoder, by ONNX Runtime's own quantiser."""
    path = folder / "decoder.onnx"
    quantizer = MatMulNBitsQuantizer(
        onnx.load(NANO / path.name),
        block_size=32,
        is_symmetric=True,
        accuracy_level=accuracy_level,
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))
    manifest = Manifest.load(NANO)
    facts = QuantizedFacts(scheme="int4", operator="MatMulNBits", block=32)
    files = {**manifest.files, path.name: file_entry(path)}
    replace(manifest, files=files, quantized={"decoder": facts}).write(folder)
    return folder


def test_example_of_the_model_is_equal_to_the_shipped_one(folder, capsys):
    checkpoint = str(NANO / "checkpoint")
    assert main([str(folder), "--checkpoint", checkpoint]) == 0
    assert "logits within" in capsys.readouterr().out
    fresh, shipped = Golden.load(folder / GOLDEN_FILE), Golden.load(NANO / GOLDEN_FILE)
    np.testing.assert_array_equal(fresh.tokens, shipped.tokens)
    np.testing.assert_array_equal(fresh.frames, shipped.frames)
    for name in ("logits", "step_logits", "late_logits", "features"):
        np.testing.assert_allclose(getattr(fresh, name), getattr(shipped, name), atol=1e-3)
    assert Manifest.load(folder).golden == Manifest.load(NANO).golden
    assert verify_golden(load_engine(folder, threads=1)) < 1e-4


def test_engine_of_a_model_of_other_sizes_is_left_as_it_was(folder, checkpoint, capsys):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main([str(folder), "--checkpoint", str(checkpoint)]) == 2
    assert "has other sizes than" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_engine_of_another_training_is_left_as_it_was(folder, tmp_path):
    checkpoint = shutil.copytree(NANO / "checkpoint", tmp_path / "checkpoint")
    weights = load_file(checkpoint / "model.safetensors")
    weights["lm_head.weight"] *= 1.01
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(EngineError, match="computes wrongly here .* logits differ by 0.1"):
        renew_golden(folder, checkpoint)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_quantised_engine_cannot_be_held_against_its_model(folder):
    quantize(folder, 4)
    with pytest.raises(EngineError, match=r"is quantised .decoder., .* give --own, and measure"):
        renew_golden(folder, NANO / "checkpoint")
    with pytest.raises(EngineError, match="computes wrongly here"):
        load_engine(folder, threads=1)


def test_quantised_engine_proves_itself_on_kernels_that_round_otherwise(folder, copy):
    """Level 0 multiplies in float32, level 4 rounds activations to int8, as processors choose."""
    assert main([str(quantize(folder, 4)), "--own"]) == 0
    golden = Golden.load(folder / GOLDEN_FILE)
    facts = Manifest.load(folder).golden
    # Written token by token, read in passes: rounding to int8 may turn over even on one kernel.
    itself = verify_golden(load_engine(folder, threads=1))
    other = load_engine(quantize(copy("other"), 0), threads=1, self_test="off")
    assert max(1e-2, itself) < examine(other, golden, facts) < facts.logit_tolerance
    unquantized = load_engine(NANO, threads=1)
    with pytest.raises(EngineError, match="computes wrongly here"):
        examine(unquantized, golden, facts)


def test_what_an_engine_records_is_what_its_model_computes():
    engine = load_engine(NANO, threads=1)
    shipped = Golden.load(NANO / GOLDEN_FILE)
    own = record_golden(engine, shipped)
    np.testing.assert_array_equal(own.tokens, shipped.tokens)
    for name in ("logits", "step_logits", "late_logits", "features"):
        np.testing.assert_allclose(getattr(own, name), getattr(shipped, name), atol=1e-3)
    assert examine(engine, own, golden_facts(own, "float32")) < 1e-4


def test_example_may_be_given(folder, tmp_path):
    shipped = Golden.load(NANO / GOLDEN_FILE)
    arguments = {"frames": shipped.frames[:1], "times_s": np.zeros(1)}
    np.savez(tmp_path / "example.npz", question=np.array("How many mugs are there?"), **arguments)
    assert main([str(folder), "--own", "--example", str(tmp_path / "example.npz")]) == 0
    assert Golden.load(folder / GOLDEN_FILE).question == "How many mugs are there?"
    assert verify_golden(load_engine(folder, threads=1)) < 1e-4


def test_engine_without_an_example_gets_one(folder):
    path = folder / FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "golden": None}))
    renew_golden(folder, None)
    assert verify_golden(load_engine(folder, threads=1)) < 1e-4


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("float32", 2e-3), ("float16", 0.5), ("bfloat16", 3.0)],
)
def test_tolerances_are_in_units_of_the_engines_own_logits(precision, tolerance):
    golden = replace(Golden.load(NANO / GOLDEN_FILE), logits=np.float32([-2, 2] * 50))
    assert golden_facts(golden, precision).logit_tolerance == tolerance
    quantized = golden_facts(golden, precision, is_quantized=True)
    assert quantized.logit_tolerance == max(tolerance, 1.0)
    assert quantized.feature_tolerance == 5e-2
