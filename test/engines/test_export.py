"""The export command: what it writes, what it refuses, what it leaves alone."""

import json
import shutil

import numpy as np
import pytest

from molmo2_ros.engines.checkpoint import load_checkpoint, token_facts, vision_facts
from molmo2_ros.engines.export import export_checkpoint, main, read_description
from molmo2_ros.engines.parity import check_engine, drawn_example
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.golden import Golden, verify_golden
from molmo2_ros.runtime.manifest import SKILLS, Manifest, file_entry

DESCRIPTION = {
    "name": "tiny",
    "skills": ["track", "point"],
    "vocabulary": ["mug"],
    "sampling": {"point_fps": 2, "track_fps": 4.0, "max_frames": 8, "max_clip_s": 6.0},
    "training": {"commit": "abc", "seed": 3, "config": {"steps": 9}, "metrics": {"f1": 0.5}},
}


@pytest.fixture
def spoilt(checkpoint, tmp_path):
    """A copy of the checkpoint that a test may spoil."""
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_exported_folder_loads_and_reproduces_its_example(exported):
    assert verify_golden(load_engine(exported, threads=1)) < 1e-4


def test_manifest_tells_what_the_checkpoint_says(exported, checkpoint):
    manifest = Manifest.load(exported)
    assert (manifest.format, manifest.opset, manifest.dtype) == (1, 23, "float32")
    assert manifest.skills == tuple(SKILLS)
    assert manifest.vision.image_size == 56
    assert manifest.vision.feature_width == manifest.text.hidden_size == 64
    assert manifest.vision.video_pooling == manifest.vision.image_pooling == (2, 2)
    assert not manifest.vision.use_single_crop_col_tokens
    assert (manifest.text.num_layers, manifest.text.num_kv_heads) == (2, 2)
    assert manifest.tokens.bos == "<|im_end|>"
    assert manifest.tokens.eos_ids == {manifest.tokens.ids["<|im_end|>"]}
    assert manifest.tokens.ids["<im_start>"] == manifest.text.vocab_size
    assert manifest.files.keys() == {path.name for path in exported.iterdir()} - {"manifest.json"}
    assert manifest.files["config.json"] == file_entry(checkpoint / "config.json")
    assert manifest.form == "fused"
    assert manifest.source.checkpoint == checkpoint.name
    assert manifest.source.weights_sha256 == file_entry(checkpoint / "model.safetensors").sha256
    assert {"torch", "transformers", "onnx"} <= manifest.source.versions.keys()


def test_description_and_example_are_taken_from_files(checkpoint, tmp_path, capsys):
    (tmp_path / "description.json").write_text(json.dumps(DESCRIPTION))
    frames = np.random.default_rng(0).integers(0, 255, (2, 30, 40, 3), np.uint8)
    example = Golden(frames=frames, times_s=np.array([0.0, 1.0]), question="Track the mug.")
    example.save(tmp_path / "example.npz")
    options = ["--description", tmp_path / "description.json", "--golden", tmp_path / "example.npz"]
    folder = tmp_path / "engine"
    assert main([str(part) for part in (checkpoint, folder, *options)]) == 0
    assert capsys.readouterr().out.startswith(f"{folder}: tiny, fused, opset 23, float32, ")
    manifest = Manifest.load(folder)
    assert manifest.name == "tiny"
    assert manifest.skills == ("track", "point")
    assert manifest.vocabulary == ("mug",)
    assert manifest.sampling.track_fps == 4
    assert manifest.training.metrics == {"f1": 0.5}
    golden = Golden.load(folder / "golden.npz")
    assert golden.question == "Track the mug."
    assert len(golden.logits) == manifest.text.vocab_size
    np.testing.assert_array_equal(golden.frames, frames)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown key colour"),
        ({"sampling": {"point_fps": 2}}, "key max_clip_s, max_frames, track_fps is missing"),
        ({"skills": "track"}, "skills is 'track'"),
    ],
)
def test_description_with_a_wrong_key_is_refused(tmp_path, change, message):
    path = tmp_path / "description.json"
    path.write_text(json.dumps({**DESCRIPTION, **change}))
    with pytest.raises(EngineError, match=message):
        read_description(path)


def test_description_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "description.json"
    path.write_text("name: tiny")
    with pytest.raises(EngineError, match="cannot be read as JSON"):
        read_description(path)


def test_missing_checkpoint_ends_the_command_with_a_clear_line(tmp_path, capsys):
    assert main([str(tmp_path / "nothing"), str(tmp_path / "engine")]) == 2
    assert "config.json is missing; give a complete Hugging Face folder" in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()


def test_checkpoint_of_another_model_is_refused(spoilt):
    edit(spoilt / "config.json", model_type="llama")
    with pytest.raises(EngineError, match="model_type 'llama', expected 'molmo2'"):
        load_checkpoint(spoilt)


def test_checkpoint_with_cut_weights_is_refused(spoilt):
    weights = spoilt / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EngineError, match="transformers cannot load .*model.safetensors"):
        load_checkpoint(spoilt)


def test_tokenizer_of_another_checkpoint_is_refused(spoilt, model):
    path = spoilt / "tokenizer.json"
    path.write_text(path.read_text().replace("<im_patch>", "<im_path>"))
    with pytest.raises(EngineError, match="<im_patch> is None, config.json says 322"):
        token_facts(spoilt, model)


def test_ending_token_that_the_tokenizer_lacks_is_refused(spoilt, model):
    edit(spoilt / "tokenizer_config.json", bos_token="<s>")
    with pytest.raises(EngineError, match="bos '<s>' and eos .* are not special tokens"):
        token_facts(spoilt, model)


def test_layout_that_no_release_has_is_refused(spoilt, model):
    edit(spoilt / "processor_config.json", use_frame_special_tokens=False)
    with pytest.raises(EngineError, match="use_frame_special_tokens False, only True is supported"):
        vision_facts(spoilt, model.config)


def test_separate_processor_files_are_read_too(spoilt, model):
    processor = json.loads((spoilt / "processor_config.json").read_text())
    image, video = processor.pop("image_processor"), processor.pop("video_processor")
    del processor["use_single_crop_col_tokens"]
    (spoilt / "preprocessor_config.json").write_text(json.dumps({**image, "max_crops": 24}))
    del video["pooling_size"]
    (spoilt / "video_preprocessor_config.json").write_text(json.dumps(video))
    (spoilt / "processor_config.json").write_text(json.dumps(processor))
    vision = vision_facts(spoilt, model.config)
    assert vision.max_crops == 24
    assert vision.video_pooling == (3, 3)  # the class's default
    assert vision.use_single_crop_col_tokens  # absent means yes, as in Molmo2Processor


def test_graphs_of_other_weights_are_found(exported, make_checkpoint, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "engine")
    other = load_checkpoint(make_checkpoint(1))
    with pytest.raises(EngineError, match="vision graph differs from the model by"):
        check_engine(folder, other)


def test_failed_export_leaves_the_old_engine_as_it_was(exported, spoilt, tmp_path, capsys):
    folder = shutil.copytree(exported, tmp_path / "engine")
    before = Manifest.load(folder)
    example = drawn_example()
    np.savez(tmp_path / "bad.npz", frames=example.frames, times_s=example.times_s)
    options = ["--golden", str(tmp_path / "bad.npz")]
    assert main([str(spoilt), str(folder), *options]) == 2
    assert "is not a golden example" in capsys.readouterr().err
    assert Manifest.load(folder) == before
    assert [path.name for path in tmp_path.glob(".export-*")] == []


def test_engine_folder_is_self_contained_and_loads_wherever_it_lies(exported, tmp_path):
    assert not [path for path in exported.iterdir() if path.is_symlink()]
    moved = shutil.copytree(exported, tmp_path / "another" / "place")
    assert verify_golden(load_engine(moved, threads=1)) < 1e-4
    # Nothing in it tells where it was made, or by whom.
    for path in moved.iterdir():
        content = path.read_bytes()
        assert b"/site-packages/" not in content
        assert str(exported.parent).encode() not in content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "fast"}, "form is 'fast', expected one of fused, decomposed"),
        ({"dtype": "int8"}, "dtype is 'int8', expected one of float32, float16, bfloat16"),
    ],
)
def test_unknown_form_and_dtype_are_refused(checkpoint, tmp_path, options, message):
    with pytest.raises(EngineError, match=message):
        export_checkpoint(checkpoint, tmp_path / "engine", **options)
    assert list(tmp_path.iterdir()) == []
