"""molmo2-nano: transformers' own Molmo2 with a small configuration, initialised so that it learns.

Letters: B scenes, K frames, N patches, M visual tokens a frame, D width,
W patches in a pooling window.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from molmo2_ros.engines.torchvision_ops import declare_missing_ops
from molmo2_ros.prompt.patches import frame_pooling

declare_missing_ops()

from transformers import (  # noqa: E402
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    PreTrainedTokenizerFast,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes of a nano."""

    image_size: int = 168  # pixels, square
    patch_size: int = 14  # pixels
    pooling: int = 2  # patches a side that become one visual token
    vision_width: int = 128
    vision_layers: int = 4
    text_width: int = 128
    text_layers: int = 4
    head_dim: int = 32
    num_kv_heads: int = 2
    mlp_ratio: int = 3  # of the language model
    vocab_size: int = 448  # tokens that can be written
    max_positions: int = 4096
    rope_theta: float = 1e4

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size

    @property
    def token_grid(self) -> int:
        """Visual tokens a side."""
        return self.grid // self.pooling


def molmo2_config(config: ModelConfig, tokenizer: Tokenizer) -> Molmo2Config:
    """The transformers configuration of a nano whose special ids are the tokenizer's."""
    token_id = tokenizer.token_to_id
    vision_heads = config.vision_width // config.head_dim
    return Molmo2Config(
        vision_config={
            "hidden_size": config.vision_width,
            "intermediate_size": 4 * config.vision_width,
            "num_hidden_layers": config.vision_layers,
            "num_attention_heads": vision_heads,
            "num_key_value_heads": vision_heads,
            "head_dim": config.head_dim,
            "image_size": [config.image_size, config.image_size],
            "patch_size": config.patch_size,
        },
        adapter_config={
            "vision_feature_layer": [config.vision_layers - 1, config.vision_layers - 2],
            "hidden_size": config.vision_width,
            "num_attention_heads": vision_heads,
            "num_key_value_heads": vision_heads,
            "head_dim": config.head_dim,
            "intermediate_size": 2 * config.vision_width,
            "text_hidden_size": config.text_width,
        },
        text_config={
            "hidden_size": config.text_width,
            "num_attention_heads": config.text_width // config.head_dim,
            "num_key_value_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "vocab_size": config.vocab_size,
            "additional_vocab_size": 128,
            "num_hidden_layers": config.text_layers,
            "intermediate_size": config.mlp_ratio * config.text_width,
            "max_position_embeddings": config.max_positions,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        },
        image_start_token_id=token_id("<im_start>"),
        low_res_image_start_token_id=token_id("<low_res_im_start>"),
        image_end_token_id=token_id("<im_end>"),
        image_patch_id=token_id("<im_patch>"),
        frame_start_token_id=token_id("<frame_start>"),
        frame_end_token_id=token_id("<frame_end>"),
    )


def build_model(config: ModelConfig, tokenizer: Tokenizer) -> Molmo2ForConditionalGeneration:
    """A nano with fresh weights.

    At this width the stock initialisation (std 0.02) does not learn to localise: Xavier matrices
    with halved outputs, sine-cosine positions, embeddings of std 0.5 and sharper q/k norms do.
    """
    model = Molmo2ForConditionalGeneration(molmo2_config(config, tokenizer))
    for name, parameter in model.named_parameters():
        if name.endswith("positional_embedding"):
            parameter.data = 0.5 * _sine_cosine(config.grid, config.vision_width)
        elif "embed_tokens" in name:
            nn.init.normal_(parameter, std=0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif "q_norm" in name or "k_norm" in name:
            nn.init.constant_(parameter, 1.5)
        elif parameter.dim() == 2:
            nn.init.xavier_uniform_(parameter)
            if any(part in name for part in ("o_proj", "down_proj", "fc2")):
                parameter.data *= 0.5
    return model


def _sine_cosine(grid: int, width: int) -> torch.Tensor:
    """[grid * grid, width] positions: half of the channels for the row, half for the column."""
    frequency = 100.0 ** -(torch.arange(width // 4) / (width / 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")

    def waves(position: torch.Tensor) -> torch.Tensor:
        phase = position.reshape(-1, 1) * frequency
        return torch.cat([phase.sin(), phase.cos()], dim=1)

    return torch.cat([waves(row), waves(column)], dim=1)


def to_patches(images_KHWC: torch.Tensor, patch_size: int) -> torch.Tensor:
    """uint8 [K, H, W, 3] of the model's input size to normalised patches float32 [K, N, 588]."""
    scaled = images_KHWC.float() / 127.5 - 1.0
    num, height, width, channels = scaled.shape
    rows, columns = height // patch_size, width // patch_size
    tiles = scaled.reshape(num, rows, patch_size, columns, patch_size, channels)
    return tiles.permute(0, 1, 3, 2, 4, 5).reshape(num, rows * columns, -1)


def pooling_windows(config: ModelConfig) -> torch.Tensor:
    """int64 [M, W]: the patches of each visual token of a frame."""
    return torch.from_numpy(frame_pooling(config.grid, (config.pooling, config.pooling)))


def encode_frames(
    model: Molmo2ForConditionalGeneration, patches_KNC: torch.Tensor, windows_MW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vision tower and connector of whole frames, layer by layer.

    Equal to `get_video_features` where no window is padded (test/training/test_model.py holds it),
    without its data-dependent indexing, and it also returns what the dense heads need.

    Returns:
        features [K, M, D] and the last layer's patches [K, N, vision width].
    """
    tower, connector = model.model.vision_tower, model.model.multi_modal_projector
    hidden = tower.patch_embedding(patches_KNC) + tower.positional_embedding
    layers = []
    for layer in tower.layers:
        hidden = layer(hidden, None)
        layers.append(hidden)
    wanted = model.config.adapter_config.vision_feature_layer
    stacked = torch.cat([layers[i] for i in wanted], dim=-1)
    num_frames, (num_tokens, window) = len(stacked), windows_MW.shape
    pooled = stacked[:, windows_MW].reshape(num_frames * num_tokens, window, -1)
    merged, _ = connector.image_pooling_2d(pooled.mean(1, keepdim=True), pooled)
    features = connector.image_projector(merged.squeeze(1))
    return features.reshape(num_frames, num_tokens, -1), hidden


def as_pretrained(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Wrap for a Hugging Face checkpoint folder, in the released family's roles."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_end|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens={"image_token": "<|image|>", "video_token": "<|video|>"},
    )


def save_checkpoint(
    model: Molmo2ForConditionalGeneration, tokenizer: Tokenizer, folder: Path, pooling: int = 2
) -> None:
    """Write a Hugging Face folder that stock transformers and `molmo2_ros.engines.export` load.

    The processor configurations are written as JSON: building the processors needs torchvision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generation = model.generation_config
    generation.bos_token_id = generation.eos_token_id = tokenizer.token_to_id("<|im_end|>")
    generation.pad_token_id = tokenizer.token_to_id("<|endoftext|>")
    model.save_pretrained(folder)
    as_pretrained(tokenizer).save_pretrained(folder)
    write_processor_configs(folder, model.config, pooling)


def load_checkpoint(folder: Path) -> Molmo2ForConditionalGeneration:
    """A nano in float32, as `save_checkpoint` wrote it; safetensors only.

    Raises:
        OSError: there is no such folder, or a file is missing.
    """
    return Molmo2ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )


def write_processor_configs(folder: Path, config: Molmo2Config, pooling: int) -> None:
    """processor_config.json with both processors' settings, and the chat template."""
    side = config.vision_config.image_size[0]
    size = {"height": side, "width": side}
    shared = {
        "patch_size": config.vision_config.patch_size,
        "size": size,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    grid = side // config.vision_config.patch_size
    margin = max(1, math.floor(grid * 4 / 27))
    processors = {
        "processor_class": "Molmo2Processor",
        "use_single_crop_col_tokens": False,
        "image_processor": {
            "image_processor_type": "Molmo2ImageProcessor",
            "max_crops": 8,
            "overlap_margins": [margin, margin],
            "pooling_size": [2, 2],
            **shared,
        },
        "video_processor": {
            "video_processor_type": "Molmo2VideoProcessor",
            "pooling_size": [pooling, pooling],
            "do_sample_frames": False,
            **shared,
        },
    }
    text = json.dumps(processors, indent=2) + "\n"
    (folder / "processor_config.json").write_text(text, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


# The visual part goes first, right after BOS and before the user header, wherever it stood; several
# images are numbered.
CHAT_TEMPLATE = (
    "{%- set seen = namespace(images=0, shown=0) -%}"
    "{%- for message in messages -%}{%- if message['content'] is not string -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}"
    "{%- set seen.images = seen.images + 1 -%}{%- endif -%}{%- endfor -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- for message in messages -%}{%- if message['content'] is not string -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{%- set seen.shown = seen.shown + 1 -%}"
    "{%- if seen.images > 1 -%}{{ 'Image ' ~ seen.shown }}{%- endif -%}<|image|>{%- endif -%}"
    "{%- if part['type'] == 'video' -%}<|video|>{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endfor -%}"
    "{%- for message in messages -%}{{ '<|im_start|>' ~ message['role'] ~ '\\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
