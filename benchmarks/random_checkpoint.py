"""Writes a Molmo2 of released dimensions with random weights, a shard at a time.

    python benchmarks/random_checkpoint.py Molmo2-4B FOLDER [--layers N] [--dtype bfloat16]

Weights that nobody trained write nonsense, but they cost what trained ones cost. The folder has the
names, the fused matrices and the index of a released one, so that exporting it is exporting those.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tqdm import tqdm

sys.path[:0] = [str(Path(__file__).parents[1])]

from molmo2_ros.engines.skeleton import build_skeleton, parameter_shapes  # noqa: E402
from molmo2_ros.engines.weights import INDEX_FILE, stored_rows  # noqa: E402
from molmo2_ros.training.nano.model import as_pretrained, write_processor_configs  # noqa: E402
from molmo2_ros.training.nano.tokenizer import VISUAL_TOKENS, train_nano_tokenizer  # noqa: E402

POOLING = 3  # patches a side, as in released video frames
_NUM_EXTRA_TOKENS = 128
_TRAINED_TOKENS = 512  # of the small tokenizer that is padded to a released size
_BLOCK = 16 << 20  # values drawn at a time

VISION: Mapping[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 25,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 72,
    "image_size": [378, 378],
}
_YARN: Mapping[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 5e5,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "attention_factor": 1.2079441541679836,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A released language model; the vision tower is the same for all.

    Source: the released family's model configurations (molmo2, model_configs.py).
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    rope: Mapping[str, Any]
    qk_norm_type: str = "qwen3"  # of each head; "olmo": of all heads at once
    norm_after: bool = False  # of what attention and MLP give, not of what they read


VARIANTS: Mapping[str, Variant] = {
    "Molmo2-4B": Variant(
        hidden_size=2560,
        num_layers=36,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=9728,
        vocab_size=151_936,
        max_positions=36_864,
        rope={"rope_type": "default", "rope_theta": 5e6},
    ),
    "Molmo2-8B": Variant(
        hidden_size=4096,
        num_layers=36,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=12_288,
        vocab_size=151_936,
        max_positions=36_864,
        rope={"rope_type": "default", "rope_theta": 1e6},
    ),
    "Molmo2-O-7B": Variant(
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        intermediate_size=11_008,
        vocab_size=100_278,
        max_positions=65_536,
        rope=_YARN,
        qk_norm_type="olmo",
        norm_after=True,
    ),
}


def make_checkpoint(
    folder: Path,
    variant: str,
    *,
    num_layers: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = 5 << 30,
    seed: int = 0,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint; no more than one shard is in memory at a time.

    Args:
        folder: to make.
        variant: one of VARIANTS.
        num_layers: of the language model; None for as many as released.
        dtype: in which the weights are stored.
        shard_bytes: most bytes of one safetensors file, unless a single tensor is larger.
        seed: of the weights.
        text: other values of the language model's configuration, for reduced widths.
        vision: other values of the vision tower's.

    Returns:
        the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = variant_config(variant, num_layers, text or {}, vision or {})
    tokenizer = padded_tokenizer(config.text_config.vocab_size)
    _write_small_files(folder, config, tokenizer, dtype)
    generator = torch.Generator().manual_seed(seed)
    _write_shards(folder, _stored_shapes(config), dtype, shard_bytes, generator)
    return folder


def variant_config(
    variant: str, num_layers: int | None, text: Mapping[str, Any], vision: Mapping[str, Any]
) -> Any:
    """Transformers' configuration of a released variant.

    Args:
        variant: one of VARIANTS.
        num_layers: of the language model; None for as many as released.
        text: other values of the language model's part.
        vision: other values of the vision tower's.
    """
    from transformers import Molmo2Config

    sizes = VARIANTS[variant]
    num_layers = sizes.num_layers if num_layers is None else num_layers
    tower = {**VISION, **vision}
    last = tower["num_hidden_layers"] - 1
    language = {
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "head_dim": sizes.head_dim,
        "intermediate_size": sizes.intermediate_size,
        "vocab_size": sizes.vocab_size,
        "additional_vocab_size": _NUM_EXTRA_TOKENS,
        "max_position_embeddings": sizes.max_positions,
        "rope_parameters": dict(sizes.rope),
        "qk_norm_type": sizes.qk_norm_type,
        "norm_after": sizes.norm_after,
        **text,
    }
    if sizes.rope is _YARN:
        # Every fourth layer; of a model cut short the last one, so that both tables are used.
        scaled = list(range(3, num_layers, 4)) or [num_layers - 1]
        language.setdefault("rope_scaling_layers", scaled)
    first = language["vocab_size"]
    ids = {name: first + index for index, name in enumerate(VISUAL_TOKENS)}
    return Molmo2Config(
        vision_config=tower,
        adapter_config={
            **{name: tower[name] for name in ("hidden_size", "num_attention_heads", "head_dim")},
            "num_key_value_heads": tower["num_attention_heads"],
            "vision_feature_layer": [last, max(0, last - 6)],
            "text_hidden_size": language["hidden_size"],
            "intermediate_size": language["intermediate_size"],
        },
        text_config=language,
        image_start_token_id=ids["<im_start>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"],
        image_end_token_id=ids["<im_end>"],
        image_patch_id=ids["<im_patch>"],
        frame_start_token_id=ids["<frame_start>"],
        frame_end_token_id=ids["<frame_end>"],
    )


def padded_tokenizer(vocab_size: int) -> Tokenizer:
    """A small tokenizer whose vocabulary is filled up with words that no text reaches.

    Args:
        vocab_size: rows of the head; the visual tokens begin there, as in the released models.
    """
    content = json.loads(train_nano_tokenizer(min(_TRAINED_TOKENS, vocab_size)).to_str())
    shift = vocab_size - min(_TRAINED_TOKENS, vocab_size)
    for token in content["added_tokens"]:
        if token["content"] in VISUAL_TOKENS:
            token["id"] += shift
    words = content["model"]["vocab"]
    taken = {*words.values(), *(token["id"] for token in content["added_tokens"])}
    words.update({f"unreached{i}": i for i in range(vocab_size) if i not in taken})
    return Tokenizer.from_str(json.dumps(content))


def _write_small_files(folder: Path, config: Any, tokenizer: Tokenizer, dtype: torch.dtype) -> None:
    config.dtype = dtype
    config.architectures = ["Molmo2ForConditionalGeneration"]
    config.save_pretrained(folder)
    as_pretrained(tokenizer).save_pretrained(folder)
    write_processor_configs(folder, config, POOLING)
    end = tokenizer.token_to_id("<|im_end|>")
    generation = {"bos_token_id": end, "eos_token_id": end}
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")


def _stored_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a released file, in the order in which the model is built."""
    shapes = parameter_shapes(build_skeleton(config, torch.bfloat16))
    stored: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        for rows in stored_rows(name, shapes, config.text_config.vocab_size):
            stop = max(rows.stop, stored.get(rows.key, (0,))[0])
            stored[rows.key] = (stop, *shape[1:])
    return stored


def _write_shards(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    shard_bytes: int,
    generator: torch.Generator,
) -> None:
    shards: list[list[str]] = [[]]
    filled = 0
    for key, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += size
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, keys in zip(tqdm(names, desc="shards", disable=None), shards, strict=True):
        tensors = {key: _draw(key, shapes[key], dtype, generator) for key in keys}
        save_file(tensors, folder / name, metadata={"format": "pt"})
    total = sum(math.prod(shape) * dtype.itemsize for shape in shapes.values())
    index = {
        "metadata": {"total_size": total},
        "weight_map": {key: name for name, keys in zip(names, shards, strict=True) for key in keys},
    }
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _draw(
    key: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """Matrices that keep the size of what they read, norms near one, biases near zero."""
    mean, std = 0.0, 0.05
    if key.endswith("norm.weight") or "ln_f" in key:
        mean, std = 1.0, 0.1
    elif "wte" in key or "positional" in key:
        std = 0.5
    elif len(shape) == 2:
        std = shape[1] ** -0.5
    tensor = torch.empty(math.prod(shape), dtype=dtype)
    for block in tensor.split(_BLOCK):
        block.copy_(torch.randn(len(block), generator=generator).mul_(std).add_(mean))
    return tensor.reshape(shape)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variant", choices=sorted(VARIANTS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="of the language model; default: all")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--shard-gb", type=float, default=5.0, help="1e9 bytes (default: 5)")
    options = parser.parse_args()
    make_checkpoint(
        options.folder,
        options.variant,
        num_layers=options.layers,
        dtype=getattr(torch, options.dtype),
        shard_bytes=int(options.shard_gb * 1e9),
    )


if __name__ == "__main__":
    main()
