"""Quantised engine folders: what they hold, that they compute it, and what is refused."""

import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from molmo2_ros.engines.export import export_checkpoint
from molmo2_ros.engines.golden import record_golden
from molmo2_ros.engines.parity import measured_facts
from molmo2_ros.engines.quantization import Gauge, Quantization
from molmo2_ros.engines.quantize import quantize_engine
from molmo2_ros.engines.reference import ReferenceEngine, write_reference
from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import Draft, Guide, generate, prefill
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.golden import Golden, clip_inputs, verify_golden
from molmo2_ros.runtime.manifest import Manifest, file_entry

# Name: how, operator of the decoder, block, and the most that is left of its bytes.
MADE = {
    "int8": (Quantization(scheme="int8"), "MatMulNBits", 32, 0.35),
    "int4": (Quantization(scheme="int4", block=128, vision="int8"), "MatMulNBits", 128, 0.25),
    "tensorrt int4": (Quantization(runtime="tensorrt"), "DequantizeLinear", 32, 0.3),
    "tensorrt int8": (
        Quantization(scheme="int8", runtime="tensorrt", vision="int8", architecture="orin"),
        "DequantizeLinear",
        0,
        0.4,
    ),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Molmo2-nano, quantised in each way."""
    folder = tmp_path_factory.mktemp("quantized")
    for name, (quantization, *_) in MADE.items():
        quantize_engine(NANO, folder / name, quantization, gauge=None, threads=1)
    return folder


@pytest.fixture(params=MADE)
def quantized(made, request):
    return made / request.param


@pytest.fixture
def nano(tmp_path):
    """A copy of molmo2-nano that a test may spoil."""
    ignored = shutil.ignore_patterns("checkpoint")
    return shutil.copytree(NANO, tmp_path / "nano", ignore=ignored)


def vouch(folder):
    """Make the manifest agree with the files."""
    manifest = Manifest.parse(json.loads((folder / "manifest.json").read_text()))
    names = [path.name for path in folder.iterdir() if path.name != "manifest.json"]
    replace(manifest, files={name: file_entry(folder / name) for name in names}).write(folder)


def run_example(engine):
    return record_golden(engine, Golden.load(NANO / "golden.npz"))


def test_a_quantised_folder_says_how_it_is_stored_and_passes_its_example(quantized):
    quantization, operator, block, share = MADE[quantized.name]
    manifest, before = Manifest.load(quantized), Manifest.load(NANO)
    assert manifest.name == f"molmo2-nano {quantization.scheme}"
    facts = manifest.quantized["decoder"]
    assert (facts.scheme, facts.operator, facts.block) == (quantization.scheme, operator, block)
    assert ("vision" in manifest.quantized) == (quantization.vision == "int8")
    assert manifest.accuracy is None
    assert manifest.calibration == before.calibration
    assert manifest.files.keys() == before.files.keys()
    sizes = [entry.files["decoder.onnx"].bytes for entry in (manifest, before)]
    table = 704 * 128 * 4 if operator == "DequantizeLinear" else 0
    assert sizes[0] - table < share * (sizes[1] - table)
    engine = load_engine(quantized, threads=1)
    assert verify_golden(engine) <= manifest.golden.logit_tolerance
    assert len(Golden.load(quantized / "golden.npz").tokens) > 3


def test_operators_are_those_of_the_runtime(quantized):
    model = onnx.load(quantized / "decoder.onnx")
    operators = {(node.domain, node.op_type) for node in model.graph.node}
    is_tensorrts = "tensorrt" in quantized.name
    assert (("com.microsoft", "MatMulNBits") in operators) != is_tensorrts
    assert {entry.domain for entry in model.opset_import} == {"", "com.microsoft"} - (
        {"com.microsoft"} if is_tensorrts else set()
    )
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    assert (tensors.get("text.embed_tokens.weight") is None) != is_tensorrts
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            assert len(node.input) == 2  # no zero point
            assert (numpy_helper.to_array(tensors[node.input[1]]) > 0).all()
        if node.op_type == "MatMul":
            assert node.input[1] not in tensors  # no matrix was left
    if is_tensorrts:
        onnx.checker.check_model(model)


def test_answers_of_a_quantised_engine_are_much_those_of_the_source(quantized):
    logits, expected = (run_example(load_engine(at, threads=1)).logits for at in (quantized, NANO))
    assert logits.argmax() == expected.argmax()
    assert (
        np.abs(logits - expected).max() < {"int8": 0.5, "int4": 3}[MADE[quantized.name][0].scheme]
    )


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_drafts_change_no_token_within_one_quantised_file(made, name):
    engine = load_engine(made / name, threads=1)
    golden = Golden.load(made / name / "golden.npz")
    tokenizer = PromptTokenizer(made / name)
    inputs = [
        clip_inputs(engine.manifest.vision, tokenizer, golden.frames, golden.times_s, question)
        for question in (golden.question, "Point to all mugs.", "How many cups are there?")
    ]
    prefix = prefill(
        engine, inputs[0].prefix, engine.encode(inputs[0].patches_KNC, inputs[0].pooling_MW)
    )
    suffixes = [part.suffix.ids for part in inputs]
    plain = [generate(engine, prefix, [ids], max_new_tokens=60)[0] for ids in suffixes]
    rng = np.random.default_rng(0)

    class Noisy:
        def __init__(self, ids):
            self.ids = ids

        def draft(self, written):
            tokens = list(self.ids[len(written) :][: rng.integers(1, 20)])
            if rng.random() < 0.5 and tokens:
                tokens[rng.integers(len(tokens))] = int(rng.integers(500))
            return Draft.line(tokens)

        def verified(self, written, draft, chosen):
            pass

    guides = [Guide(drafts=Noisy(answer.ids)) for answer in plain]
    drafted = generate(engine, prefix, suffixes, max_new_tokens=60, guides=guides)
    assert [answer.ids for answer in drafted] == [answer.ids for answer in plain]
    assert sum(answer.num_accepted for answer in drafted) > 20
    assert sum(answer.num_passes for answer in drafted) < sum(answer.num_passes for answer in plain)


def roll(model, ending):
    """Give each output the codes or scales of its neighbour, in one matrix of a layer."""
    tensor = next(
        t for t in model.graph.initializer if t.name.endswith(ending) and t.dims[0] == 384
    )
    tensor.raw_data = numpy_helper.from_array(np.roll(numpy_helper.to_array(tensor), 1, 0)).raw_data


@pytest.mark.parametrize("ending", ["_codes", "_scales"])
def test_an_engine_that_multiplies_by_other_numbers_is_found(made, tmp_path, ending):
    folder = shutil.copytree(made / "int8", tmp_path / "engine")
    write_reference(folder, tmp_path / "reference")
    model = onnx.load(folder / "decoder.onnx")
    roll(model, ending)
    onnx.save(model, folder / "decoder.onnx")
    vouch(folder)
    golden = run_example(ReferenceEngine(tmp_path / "reference", threads=1))
    spoilt = load_engine(folder, threads=1, self_test="off")
    with pytest.raises(EngineError, match=r"computes wrongly here .* differ by"):
        measured_facts(spoilt, golden)


def test_reference_shares_no_operator_with_what_it_judges(made, tmp_path):
    write_reference(made / "int4", tmp_path / "reference")
    for name in ("vision.onnx", "decoder.onnx"):
        model = onnx.load(tmp_path / "reference" / name)
        assert {node.domain for node in model.graph.node} == {""}
        assert any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def move_weights_out(folder):
    """Put the decoder's weights beside its graph."""
    model = onnx.load(folder / "decoder.onnx")
    onnx.save(
        model,
        folder / "decoder.onnx",
        save_as_external_data=True,
        location="decoder.onnx.data",
        size_threshold=1024,
    )
    vouch(folder)


@pytest.mark.parametrize("name", ["int8", "tensorrt int4"])
def test_weights_beside_the_graph_stay_there_and_become_the_same_codes(made, nano, tmp_path, name):
    move_weights_out(nano)
    out = tmp_path / "out"
    manifest = quantize_engine(nano, out, MADE[name][0], gauge=None, threads=1)
    assert set(manifest.files) == set(Manifest.load(nano).files)
    at_once, beside = (onnx.load(folder / "decoder.onnx") for folder in (made / name, out))
    inside = {t.name: numpy_helper.to_array(t) for t in at_once.graph.initializer}
    assert inside.keys() == {tensor.name for tensor in beside.graph.initializer}
    for tensor in beside.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), inside[tensor.name])
    sizes = [(out / end).stat().st_size for end in ("decoder.onnx.data", "decoder.onnx")]
    assert sizes[0] > 3 * sizes[1]


def test_decomposed_graphs_are_raised_to_the_opset_that_knows_int4(checkpoint, tmp_path):
    export_checkpoint(checkpoint, tmp_path / "engine", form="decomposed")
    quantization = Quantization(runtime="tensorrt")
    manifest = quantize_engine(
        tmp_path / "engine", tmp_path / "out", quantization, gauge=None, threads=1
    )
    assert (manifest.opset, manifest.form) == (21, "decomposed")
    model = onnx.load(tmp_path / "out" / "decoder.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
    types = {tensor.data_type for tensor in model.graph.initializer}
    assert TensorProto.INT4 in types


def figures(value, cases=100):
    return {"pointing_f1": value, "said_none_wrongly": 1 - value}, dict.fromkeys(
        ("pointing_f1", "said_none_wrongly"), cases
    )


def gauge_of(*measured, largest_drop=0.02):
    """A gauge that has measured already."""
    values = iter(measured)
    return Gauge(
        measure=lambda engine: next(values),
        errors=("said_none_wrongly",),
        largest_drop=largest_drop,
        scenes=100,
        seed=3,
    )


@pytest.mark.parametrize(
    ("before", "after", "largest_drop", "cases", "named"),
    [
        (0.90, 0.89, 0.02, 100, None),
        (0.90, 0.95, 0.02, 100, None),  # better is never worse, for errors too
        (0.90, 0.87, 0.02, 100, "pointing_f1 from 0.9000 to 0.8700, said_none_wrongly from 0.1000"),
        (0.90, 0.87, 0.05, 100, None),
        (0.90, 0.87, 0.02, 49, None),  # one answer of 49 is more than 0.02
        (0.90, float("nan"), 0.02, 100, "pointing_f1 from 0.9000 to nan"),
    ],
)
def test_a_drop_is_held_against_the_bound(before, after, largest_drop, cases, named):
    gauge = gauge_of(largest_drop=largest_drop)
    if named is None:
        facts = gauge.compare(figures(before, cases), figures(after, cases))
        assert facts.before["pointing_f1"] == before
        assert (facts.scenes, facts.seed, facts.largest_drop) == (100, 3, largest_drop)
        return
    with pytest.raises(EngineError, match=f"answers worse: {named}"):
        gauge.compare(figures(before, cases), figures(after, cases))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"scheme": "int5"}, "scheme is 'int5', expected one of int4, int8, fp8, nvfp4"),
        ({"block": 64}, "block is 64, expected one of 32, 128"),
        ({"vision": "int4"}, "vision is 'int4', expected one of int8"),
        ({"runtime": "coreml"}, "runtime is 'coreml', expected one of onnxruntime, tensorrt"),
        ({"architecture": "nano"}, "device is 'nano', expected one of orin"),
        ({"scheme": "fp8"}, "fp8 is for TensorRT"),
        (
            {"scheme": "fp8", "runtime": "tensorrt", "architecture": "orin"},
            "orin cannot multiply by fp8, it has int4, int8",
        ),
        (
            {"scheme": "nvfp4", "runtime": "tensorrt", "architecture": "hopper"},
            "hopper cannot multiply by nvfp4, it has int4, int8, fp8",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(choice, message):
    with pytest.raises(EngineError, match=message):
        Quantization(**choice)


def refuse(source, out, message):
    with pytest.raises(EngineError, match=message):
        quantize_engine(source, out, Quantization(scheme="int8"), gauge=None, threads=1)


def test_an_engine_is_quantised_once_only(made, tmp_path):
    refuse(made / "int8", tmp_path / "out", r"is quantised already \(decoder\)")
    assert not (tmp_path / "out").exists()


def test_an_engine_is_not_written_over_itself(nano):
    refuse(nano, nano, "is the engine itself, expected another folder")
    assert Manifest.load(nano)


def test_an_engine_without_an_example_is_refused(nano, tmp_path):
    replace(Manifest.load(nano), golden=None).write(nano)
    refuse(nano, tmp_path / "out", "has no golden example; export the checkpoint again")


def test_an_altered_engine_is_refused(nano, tmp_path):
    with (nano / "decoder.onnx").open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"spoilt")
    refuse(nano, tmp_path / "out", "decoder.onnx was altered")
    refuse(tmp_path / "nothing", tmp_path / "out", "no manifest.json in")


def test_a_graph_without_matrices_is_refused(nano, tmp_path):
    model = onnx.load(nano / "decoder.onnx")
    kept = [node for node in model.graph.node if node.op_type != "MatMul"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.save(model, nano / "decoder.onnx")
    vouch(nano)
    refuse(
        nano, tmp_path / "out", "has no constant matrices that MatMulNBits with block 32 can hold"
    )


def test_a_full_disk_ends_the_command_and_leaves_the_old_engine(made, tmp_path):
    out = shutil.copytree(made / "int4", tmp_path / "out")
    before = Manifest.load(out)
    most = 300_000

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    command = [sys.executable, "-m", "molmo2_ros.cli.main", "quantize", str(NANO), str(out)]
    done = subprocess.run(
        [*command, "--no-accuracy"], preexec_fn=limit, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "out cannot be written (" in done.stderr
    assert "make room, or give another folder" in done.stderr
    assert Manifest.load(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
