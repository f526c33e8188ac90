"""Manifests: strict reading, and every way in which a folder can be unfit."""

import json
import shutil
from contextlib import suppress
from dataclasses import replace

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.golden import verify_golden
from molmo2_ros.runtime.manifest import FILE_NAME, Manifest, QuantizedFacts, file_entry


def edit(folder, change):
    path = folder / FILE_NAME
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_shipped_manifest_is_whole_and_names_its_tokens():
    manifest = Manifest.load(NANO)
    assert manifest.tokens.ids["<im_patch>"] >= manifest.text.vocab_size
    assert manifest.tokens.bos_id in manifest.tokens.eos_ids
    assert manifest.vision.feature_width == manifest.text.hidden_size


def test_shipped_engine_and_its_checkpoint_are_small_enough_for_the_history():
    sizes = {path: path.stat().st_size for path in NANO.rglob("*") if path.is_file()}
    checkpoint = sum(size for path, size in sizes.items() if NANO / "checkpoint" in path.parents)
    assert 0 < checkpoint < 20e6
    assert sum(sizes.values()) <= 40e6


def test_written_manifest_reads_back_equal(tmp_path):
    manifest = Manifest.load(NANO)
    manifest.write(tmp_path)
    assert Manifest.parse(json.loads((tmp_path / FILE_NAME).read_text())) == manifest


def test_folder_without_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(EngineError, match=r"no manifest\.json in .*molmo2_ros\.engines\.export"):
        Manifest.load(tmp_path)


def test_manifest_cut_off_in_the_middle_is_refused(engine_folder):
    path = engine_folder / FILE_NAME
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EngineError, match="cannot be read .*fetch the folder again"):
        Manifest.load(engine_folder)


def test_manifest_that_is_no_object_is_refused():
    with pytest.raises(EngineError, match="holds list, expected an object"):
        Manifest.parse([1, 2])


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_is_refused_with_the_cure(engine_folder, version):
    edit(engine_folder, lambda content: content.update(format=version))
    with pytest.raises(
        EngineError, match=f"format {version!r}, this version reads format 1; export"
    ):
        Manifest.load(engine_folder)


def test_missing_file_is_named(engine_folder):
    (engine_folder / "decoder.onnx").unlink()
    with pytest.raises(EngineError, match=r"decoder\.onnx is missing.*fetch the folder again"):
        Manifest.load(engine_folder)


def test_cut_file_is_named_even_without_hashing(engine_folder):
    path = engine_folder / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r"decoder\.onnx has \d+ bytes, manifest\.json says \d+"):
        Manifest.load(engine_folder, verify=False)


def test_one_altered_byte_is_found(engine_folder):
    path = engine_folder / "vision.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"vision\.onnx was altered: its sha256"):
        Manifest.load(engine_folder)


def test_file_outside_the_folder_is_refused(engine_folder):
    def change(content):
        content["files"]["../secret"] = content["files"]["config.json"]

    edit(engine_folder, change)
    with pytest.raises(EngineError, match=r"'\.\./secret' is not a plain file name"):
        Manifest.load(engine_folder)


def test_link_out_of_the_folder_is_refused_with_the_cure(engine_folder, tmp_path):
    """As the hub's cache lays files out: the folder alone could not be moved."""
    blob = tmp_path / "blobs" / "0123"
    blob.parent.mkdir()
    (engine_folder / "decoder.onnx").rename(blob)
    (engine_folder / "decoder.onnx").symlink_to(blob)
    with pytest.raises(EngineError, match=r"decoder\.onnx is a link to .*0123, .* `cp -rL"):
        Manifest.load(engine_folder)


def test_link_within_the_folder_is_a_file_of_it(engine_folder):
    (engine_folder / "decoder.onnx").rename(engine_folder / "other.onnx")
    (engine_folder / "decoder.onnx").symlink_to("other.onnx")
    assert Manifest.load(engine_folder).name == "molmo2-nano"


def test_link_to_nowhere_is_refused(engine_folder):
    (engine_folder / "tokenizer.json").unlink()
    (engine_folder / "tokenizer.json").symlink_to("gone.json")
    with pytest.raises(EngineError, match=r"tokenizer\.json is missing"):
        Manifest.load(engine_folder)


@pytest.mark.parametrize("name", ["weights.bin", "../weights.bin", "/data/weights.bin"])
def test_graph_that_reads_weights_that_the_manifest_does_not_list_is_refused(
    engine_folder, vouch_for, name
):
    path = engine_folder / "vision.onnx"
    graph = onnx.load(path)
    onnx.save(graph, path, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    graph = onnx.load(path, load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            entry.value = name if entry.key == "location" else entry.value
    path.write_bytes(graph.SerializeToString())
    vouch_for(engine_folder, "vision.onnx")
    with pytest.raises(EngineError, match=rf"reads weights from {name}, which manifest\.json does"):
        Manifest.load(engine_folder)


def test_weights_beside_the_graph_are_taken_where_the_manifest_lists_them(engine_folder, vouch_for):
    path = engine_folder / "vision.onnx"
    graph = onnx.load(path)
    onnx.save(graph, path, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    for name in ("vision.onnx", "weights.bin"):
        vouch_for(engine_folder, name)
    assert verify_golden(load_engine(engine_folder, threads=1)) < 1e-4


def test_graph_of_another_form_than_the_manifest_says_is_refused(engine_folder, vouch_for):
    path = engine_folder / "decoder.onnx"
    graph = onnx.load(path)
    graph.opset_import[0].version = 20
    onnx.save(graph, path)
    vouch_for(engine_folder, "decoder.onnx")
    with pytest.raises(EngineError, match=r"decoder\.onnx has opset 20, .* 'fused' of opset 23: "):
        Manifest.load(engine_folder)


@pytest.mark.parametrize("name", ["decoder.onnx", "golden.npz", "manifest.json"])
def test_copy_that_was_interrupted_is_refused(engine_folder, tmp_path, name):
    """Files are copied in some order; whichever is not there yet, nothing is loaded."""
    half = tmp_path / "half"
    half.mkdir()
    for path in engine_folder.iterdir():
        if path.name != name:
            shutil.copy(path, half)
    with pytest.raises(EngineError, match=rf"{name}"):
        load_engine(half)


def test_checksum_tells_files_apart_and_not_what_is_said_about_them(engine_folder):
    manifest = Manifest.load(engine_folder)
    assert replace(manifest, name="other").checksum == manifest.checksum
    entry = replace(manifest.files["decoder.onnx"], sha256="0" * 64)
    changed = replace(manifest, files={**manifest.files, "decoder.onnx": entry})
    assert changed.checksum != manifest.checksum
    assert len(manifest.checksum) == 64


def test_precision_names_what_is_quantised():
    manifest = Manifest.load(NANO)
    assert manifest.precision == "float32"
    facts = QuantizedFacts(scheme="int4", operator="MatMulNBits", block=32)
    assert replace(manifest, quantized={"decoder": facts}).precision == "float32, decoder int4"


def test_shipped_engine_says_on_what_terms_its_weights_may_be_used():
    source = Manifest.load(NANO).source
    assert source.license == "Apache-2.0"
    assert source.weights_sha256 == file_entry(NANO / "checkpoint" / "model.safetensors").sha256


def curves(scores, probabilities):
    """A calibration as JSON."""
    curve = {"scores": scores, "probabilities": probabilities, "num_points": 5}
    whole = {"scores": [0.5], "probabilities": [0.5], "num_points": 5}
    return {"points": curve, "tracks": whole, "stills": 2, "clips": 1, "seed": 100}


CURVES = curves([0.1, 0.2], [0.5, 0.9])


QUANTIZED = {"scheme": "int4", "operator": "MatMulNBits", "block": 32}
ACCURACY = {"before": {}, "after": {}, "largest_drop": 0.02, "scenes": 100, "seed": 0}


def test_manifest_without_a_calibration_is_read(engine_folder):
    edit(engine_folder, lambda content: content.pop("calibration", None))
    assert Manifest.load(engine_folder).calibration is None


def test_calibration_is_read_and_written_back_equal(engine_folder, tmp_path):
    edit(engine_folder, set_at("calibration", CURVES))
    manifest = Manifest.load(engine_folder)
    assert manifest.calibration.points.scores == (0.1, 0.2)
    assert manifest.calibration.tracks.probabilities == (0.5,)
    manifest.write(tmp_path)
    assert Manifest.parse(json.loads((tmp_path / FILE_NAME).read_text())) == manifest


def set_at(path, value):
    """A change of the manifest's JSON at a dotted path."""

    def change(content):
        *parents, last = path.split(".")
        for name in parents:
            content = content[name]
        content[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", "red", "unknown key colour, known are format, name"),
        ("vision.zoom", 2, "vision: unknown key zoom"),
        ("vision.image_size", "168", "vision: image_size is '168', expected int"),
        ("vision.patch_size", True, "vision: patch_size is True, expected int"),
        ("vision.video_pooling", 2, "vision: video_pooling is 2, expected tuple"),
        ("vision.video_pooling", [2, 2, 2], r"video_pooling is \[2, 2, 2\], expected 2 values"),
        ("vision.image_size", 0, "image_size is 0, expected 1 at least"),
        ("vision.image_size", 15, "image_size 15 is no multiple of patch_size 14"),
        ("vision.image_pooling", [2, 0], r"image_pooling is \(2, 0\), expected 1 at least"),
        ("sampling.point_fps", float("nan"), "point_fps is nan, expected 0.001 at least"),
        ("text", 4, "text holds 4, expected an object"),
        ("sampling.point_fps", None, "sampling: point_fps is None, expected float"),
        ("tokens.ids", {}, r"tokens\.ids lacks"),
        ("tokens.ids", {"<im_patch>": 1.5}, "tokens: ids: <im_patch> is 1.5, expected int"),
        ("calibration", {**CURVES, "zoom": 1}, "calibration: unknown key zoom"),
        ("calibration", {**CURVES, "points": None}, "calibration: points holds None"),
        ("calibration", curves([], []), "points has 0 scores and 0 probabilities"),
        ("calibration", curves([0.1, 0.2], [0.5]), "points has 2 scores and 1 probabilities"),
        ("calibration", curves([0.2, 0.1], [0, 1]), r"scores are \[0.2, 0.1\]"),
        ("calibration", curves([0.2, 0.2], [0, 1]), "a score stands twice .*training.calibrate"),
        ("calibration", curves([0.1, 0.2], [0.6, 0.5]), r"probabilities are \[0.6, 0.5\]"),
        ("calibration", curves([0.1, 0.2], [0.5, 1.1]), "that never fall"),
        ("calibration", curves([0.1, 0.2], [float("nan"), 1]), "within 0..1"),
        ("head", "pointer", "head is 'pointer'"),
        ("form", "melted", "form is 'melted', expected one of fused, decomposed"),
        ("dtype", "float8", "dtype is 'float8', expected one of float32, float16, bfloat16"),
        ("quantized", {"decoder": {"scheme": "int4"}}, "decoder: key block, operator is missing"),
        ("opset", 20, "form is 'fused' with opset 20, expected opset 23 or later for 'fused'"),
        ("form", "decomposed", "form is 'decomposed' with opset 23"),
        ("golden", {"file": "golden.npz", "logit_tolerance": 0}, "logit_tolerance is 0"),
        (
            "golden",
            {"file": "golden.npz", "feature_tolerance": float("inf")},
            "feature_tolerance is inf, expected a number above 0",
        ),
        ("quantized", {"tower": QUANTIZED}, "quantized has tower: .* expected vision or decoder"),
        (
            "quantized",
            {"vision": {**QUANTIZED, "scheme": "int3"}},
            "scheme='int3'.*a scheme of",
        ),
        ("quantized", {"vision": {**QUANTIZED, "block": -1}}, "block=-1.*a block of 0 or more"),
        ("accuracy", {**ACCURACY, "largest_drop": 2}, "accuracy: largest_drop is 2.0, expected 0"),
        ("accuracy", {**ACCURACY, "seeds": 2}, "accuracy: unknown key seeds"),
        ("source", {"licence": "MIT"}, "source: unknown key licence, known are checkpoint"),
        ("skills", ["juggle"], r"unknown skills \['juggle'\], known are"),
        ("golden", {"file": "other.npz"}, r"files lacks other\.npz"),
        ("files", {}, r"files lacks decoder\.onnx, .*tokenizer\.json, vision\.onnx"),
    ],
)
def test_wrong_value_is_named(engine_folder, path, value, message):
    edit(engine_folder, set_at(path, value))
    with pytest.raises(EngineError, match=message):
        Manifest.load(engine_folder)


def test_missing_key_is_named(engine_folder):
    edit(engine_folder, lambda content: content["vision"].pop("max_crops"))
    with pytest.raises(EngineError, match="vision: key max_crops is missing"):
        Manifest.load(engine_folder)


def test_whole_number_is_read_where_a_fraction_is_expected(engine_folder):
    edit(engine_folder, set_at("sampling.point_fps", 2))
    assert type(Manifest.load(engine_folder).sampling.point_fps) is float


def paths(content, prefix=()):
    """Every place in nested objects."""
    for key, value in content.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


SHIPPED = json.loads((NANO / FILE_NAME).read_text())
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from(list(paths(SHIPPED))), ANY_JSON)
def test_any_value_anywhere_is_read_or_refused(path, value):
    content = json.loads(json.dumps(SHIPPED))
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with suppress(EngineError):
        Manifest.parse(content)
