"""Reads a Hugging Face Molmo2 folder: the model, and the facts that an engine's manifest keeps."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from molmo2_ros.engines.skeleton import build_skeleton
from molmo2_ros.engines.torchvision_ops import declare_missing_ops
from molmo2_ros.engines.weights import weight_files
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.manifest import TextFacts, TokenFacts, VisionFacts

if TYPE_CHECKING:
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration

# Class defaults of transformers' Molmo2ImageProcessor and Molmo2VideoProcessor.
_IMAGE_DEFAULTS = {"pooling_size": [2, 2], "max_crops": 8, "overlap_margins": [4, 4]}
_VIDEO_DEFAULTS = {"pooling_size": [3, 3]}
# Layout settings of Molmo2Processor as every released checkpoint has them and prompt/ builds in.
_LAYOUT = {
    "image_use_col_tokens": True,
    "use_single_crop_start_token": True,
    "video_use_col_tokens": False,
    "use_frame_special_tokens": True,
}


# Fields of released files that transformers' Molmo2 has by another name, or that say nothing about
# what it computes.
_ELSEWHERE = frozenset(
    [
        "model_type",
        "_name_or_path",
        "auto_map",
        "torch_dtype",
        "attn_implementation",
        "_attn_implementation_autoset",
        "vit_config",
        "image_default_input_size",
        "image_patch_size",
        "image_num_pos",
        "vit_layers",
        "rope_theta",
        "rope_scaling",
        "float32_attention",
        "residual_dropout",
        "embedding_dropout",
        "image_feature_dropout",
    ]
)
# Fields of released files that it takes for granted, and what it takes them for.
_GRANTED = {
    "pooling_attention_mask": True,
    "use_qk_norm": True,
    "use_frame_special_tokens": True,
}


def load_checkpoint(folder: Path) -> Molmo2ForConditionalGeneration:
    """The model in float32, ready for inference.

    Raises:
        EngineError: the folder is not a Molmo2 checkpoint that transformers loads.
    """
    read_config(folder)
    weight_files(folder)  # transformers would take a pickle
    from transformers import Molmo2ForConditionalGeneration

    try:
        model = Molmo2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    except Exception as error:  # transformers and safetensors raise what they like
        raise EngineError(
            f"transformers cannot load {folder} ({error}); expected config.json and "
            "model.safetensors of one checkpoint"
        ) from error
    return model.eval()


def open_skeleton(folder: Path, dtype: torch.dtype) -> Molmo2ForConditionalGeneration:
    """The model without its weights, see engines/skeleton.py.

    Args:
        folder: of the checkpoint.
        dtype: of the parameters.

    Raises:
        EngineError: config.json or generation_config.json is missing or unfit.
    """
    model = build_skeleton(read_config(folder), dtype)
    if (folder / "generation_config.json").is_file():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig(**_json(folder / "generation_config.json"))
    return model


def read_config(folder: Path) -> Molmo2Config:
    """Transformers' configuration of a checkpoint.

    Raises:
        EngineError: no config.json, one of another model, or a field that transformers' Molmo2
            would pass over: a graph without it would answer differently.
    """
    declare_missing_ops()
    from transformers import Molmo2Config

    path = folder / "config.json"
    content = _json(path)
    if content.get("model_type") != "molmo2":
        raise EngineError(
            f"{path} has model_type {content.get('model_type')!r}, expected 'molmo2'; give the "
            "folder of a Molmo2 checkpoint"
        )
    _check_fields(path, content)
    try:
        return Molmo2Config.from_pretrained(folder)
    except Exception as error:  # strict configurations raise classes of their own
        raise EngineError(
            f"{path} describes no Molmo2 that transformers knows ({error}); give the config.json "
            "of the checkpoint"
        ) from error


def _check_fields(path: Path, content: dict[str, Any]) -> None:
    """Refuse what nobody would read."""
    from transformers.models.molmo2 import configuration_molmo2 as configurations

    parts = {
        "": (configurations.Molmo2Config, content),
        "text_config": (configurations.Molmo2TextConfig, content.get("text_config")),
        "vision_config": (configurations.Molmo2VisionConfig, content.get("vision_config")),
        "vit_config": (configurations.Molmo2VisionConfig, content.get("vit_config")),
        "adapter_config": (configurations.Molmo2AdapterConfig, content.get("adapter_config")),
    }
    for part, (known_class, values) in parts.items():
        known = {entry.name for entry in fields(known_class)} | known_class.attribute_map.keys()
        for name, value in (values or {}).items():
            if name in known or name in _ELSEWHERE or value == _GRANTED.get(name):
                continue
            if name not in _GRANTED and not value:  # switched off, whatever it is
                continue
            where = f"{part}.{name}" if part else name
            raise EngineError(
                f"{path} has {where} {value!r}, which no released Molmo2 has; a graph made "
                "without it would answer differently: train or convert the checkpoint without it"
            )


def vision_facts(folder: Path, config: Molmo2Config) -> VisionFacts:
    """How the checkpoint's processors cut pictures.

    Raises:
        EngineError: a setting that no released checkpoint has.
    """
    processor = _json(folder / "processor_config.json", missing={})
    for setting, expected in _LAYOUT.items():
        if processor.get(setting, expected) != expected:
            raise EngineError(
                f"{folder / 'processor_config.json'} has {setting} {processor[setting]}, only "
                f"{expected} is supported; give a checkpoint in the released layout"
            )
    image = processor.get("image_processor") or _json(
        folder / "preprocessor_config.json", missing={}
    )
    video = processor.get("video_processor") or _json(
        folder / "video_preprocessor_config.json", missing={}
    )
    image, video = {**_IMAGE_DEFAULTS, **image}, {**_VIDEO_DEFAULTS, **video}
    height, width = config.vision_config.image_size
    if height != width:
        raise EngineError(f"image_size is {height} x {width}, expected a square as in every Molmo2")
    column_tokens = processor.get("use_single_crop_col_tokens")
    return VisionFacts(
        image_size=height,
        patch_size=config.vision_config.patch_size,
        feature_width=config.text_config.hidden_size,
        video_pooling=_pair(video["pooling_size"]),
        image_pooling=_pair(image["pooling_size"]),
        max_crops=image["max_crops"],
        overlap_margins=_pair(image["overlap_margins"]),
        # Molmo2Processor reads an absent setting as True.
        use_single_crop_col_tokens=True if column_tokens is None else column_tokens,
    )


def text_facts(config: Molmo2Config) -> TextFacts:
    """Shapes of the checkpoint's language model."""
    text = config.text_config
    return TextFacts(
        num_layers=text.num_hidden_layers,
        num_kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        max_positions=text.max_position_embeddings,
    )


def token_facts(folder: Path, model: Molmo2ForConditionalGeneration) -> TokenFacts:
    """The special tokens of the checkpoint's tokenizer; answers end where `generate()` ends them.

    Raises:
        EngineError: no tokenizer.json, or one that does not fit the model.
    """
    added = {
        token["content"]: token["id"] for token in _json(folder / "tokenizer.json")["added_tokens"]
    }
    special = {text: number for text, number in added.items() if "reserved" not in text}
    if special.get("<im_patch>") != model.config.image_patch_id:
        raise EngineError(
            f"{folder / 'tokenizer.json'}: <im_patch> is {special.get('<im_patch>')}, config.json "
            f"says {model.config.image_patch_id}; give tokenizer and weights of one checkpoint"
        )
    settings = _json(folder / "tokenizer_config.json")
    # As Molmo2Processor: the tokenizer's bos or, lacking one, its eos.
    bos = _text(settings.get("bos_token") or settings.get("eos_token"))
    configured = model.generation_config.eos_token_id
    if configured is None:
        eos: tuple[str, ...] = (_text(settings.get("eos_token")),)
    else:
        numbers = configured if isinstance(configured, list) else [configured]
        eos = tuple(text for text, number in special.items() if number in numbers)
    if not eos or not {bos, *eos} <= special.keys():
        raise EngineError(
            f"{folder}: bos {bos!r} and eos {eos} are not special tokens of tokenizer.json; "
            "give tokenizer and generation_config.json of one checkpoint"
        )
    return TokenFacts(bos=bos, eos=eos, ids=special)


def _pair(values: list[int]) -> tuple[int, int]:
    first, second = values
    return first, second


def _text(token: Any) -> str:
    """A token as tokenizer_config.json writes it: a string or an object with `content`."""
    return str(token["content"] if isinstance(token, dict) else token)


def _json(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if missing is None:
            raise EngineError(f"{path} is missing; give a complete Hugging Face folder") from None
        return missing
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} cannot be read ({error})") from error
    return content
