"""What a checkpoint's own files say, and the fields that nobody would read."""

import json
import shutil

import pytest

from molmo2_ros.engines.checkpoint import load_checkpoint, read_config
from molmo2_ros.engines.export import main
from molmo2_ros.errors import EngineError


@pytest.fixture
def spoilt(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


def edit(folder, part=None, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    (content if part is None else content[part]).update(changes)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (None, "depth_config", {"layers": 4}),
        ("text_config", "num_experts", 8),
        ("text_config", "sliding_window", 4096),
        ("vision_config", "num_register_tokens", 4),
        ("adapter_config", "pooling", "perceiver"),
        # Known, and taken for granted.
        ("adapter_config", "pooling_attention_mask", False),
        ("text_config", "use_qk_norm", False),
    ],
)
def test_unknown_field_of_the_architecture_is_refused_by_its_name(spoilt, part, field, value):
    edit(spoilt, part, **{field: value})
    where = field if part is None else f"{part}.{field}"
    with pytest.raises(EngineError, match=f"has {where} .*, which no released Molmo2 has"):
        read_config(spoilt)
    with pytest.raises(EngineError, match="a graph made without it would answer differently"):
        load_checkpoint(spoilt)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        # Of the released files' own configuration classes.
        ("text_config", "residual_dropout", 0.1),
        ("text_config", "use_qk_norm", True),
        ("text_config", "qkv_bias", False),
        ("text_config", "layer_norm_eps", 1e-6),
        ("adapter_config", "pooling_attention_mask", True),
        ("adapter_config", "image_feature_dropout", 0.0),
        ("vision_config", "float32_attention", True),
        (None, "auto_map", {"AutoConfig": "configuration_molmo2.Molmo2Config"}),
        # Switched off.
        ("text_config", "num_experts", 0),
        ("text_config", "sliding_window", None),
    ],
)
def test_fields_of_released_files_and_what_is_switched_off_are_read(spoilt, part, field, value):
    edit(spoilt, part, **{field: value})
    assert read_config(spoilt).text_config.hidden_size == 64


def test_released_names_of_the_vision_part_are_read(spoilt):
    path = spoilt / "config.json"
    content = json.loads(path.read_text())
    vision, adapter = content.pop("vision_config"), content["adapter_config"]
    vision["image_default_input_size"] = vision.pop("image_size")
    vision["image_patch_size"] = vision.pop("patch_size")
    vision["image_num_pos"] = vision.pop("num_position_embeddings")
    adapter["vit_layers"] = adapter.pop("vision_feature_layer")
    path.write_text(json.dumps({**content, "vit_config": vision}))
    config = read_config(spoilt)
    assert config.vision_config.image_size == [56, 56]
    assert config.adapter_config.vision_feature_layer == [1, 0]


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("text_config", {"qk_norm_type": "layer"}, "describes no Molmo2 that transformers knows"),
        ("text_config", {"hidden_size": "wide"}, "describes no Molmo2 that transformers knows"),
    ],
)
def test_value_that_transformers_refuses_is_told(spoilt, part, changes, message):
    edit(spoilt, part, **changes)
    with pytest.raises(EngineError, match=message):
        read_config(spoilt)


def test_command_tells_an_unknown_field_in_one_line_and_leaves_nothing(spoilt, tmp_path, capsys):
    edit(spoilt, "text_config", num_experts=8)
    assert main([str(spoilt), str(tmp_path / "out" / "engine")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("export: ")
    assert error.count("\n") == 1
    assert "text_config.num_experts 8" in error
    assert not (tmp_path / "out").exists()
