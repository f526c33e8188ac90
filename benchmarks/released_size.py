"""A Molmo2 of the released vision size and Qwen3-4B's width, with random weights and two layers.

Weights that nobody trained write nonsense, but they cost what trained ones cost.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from molmo2_ros.engines.export import Description, export_checkpoint
from molmo2_ros.engines.torchvision_ops import declare_missing_ops
from molmo2_ros.runtime.manifest import SamplingFacts
from molmo2_ros.training.nano.model import ModelConfig, molmo2_config, save_checkpoint
from molmo2_ros.training.nano.tokenizer import train_nano_tokenizer

declare_missing_ops()

from transformers import Molmo2ForConditionalGeneration  # noqa: E402

POOLING = 3  # patches a side, as in released video frames
VISION_WIDTH, VISION_LAYERS, VISION_HEADS, VISION_MLP = 1152, 25, 16, 4304
TEXT_WIDTH, TEXT_HEADS, KV_HEADS, HEAD_DIM, TEXT_MLP = 2560, 32, 8, 128, 9728


def make_engine(folder: Path, *, num_layers: int = 2, seed: int = 0) -> Path:
    """Write checkpoint and engine.

    Args:
        folder: gets `checkpoint` (a Hugging Face folder) and `engine`, 5 GB together.
        num_layers: of the language model; the released 4B has 36.
        seed: of the weights.

    Returns:
        the engine's folder.

    Source: molmo2 model configurations (SigLIP2 so400m/14 at 378 pixels; Qwen3-4B).
    """
    small = ModelConfig(image_size=378, pooling=POOLING)
    tokenizer = train_nano_tokenizer(small.vocab_size)
    config = molmo2_config(replace(small, max_positions=36_864), tokenizer)
    vision, adapter, text = config.vision_config, config.adapter_config, config.text_config
    vision.hidden_size, vision.intermediate_size = VISION_WIDTH, VISION_MLP
    vision.num_hidden_layers = VISION_LAYERS
    for part in (vision, adapter):
        part.num_attention_heads = part.num_key_value_heads = VISION_HEADS
        part.head_dim = VISION_WIDTH // VISION_HEADS
    adapter.hidden_size, adapter.intermediate_size = VISION_WIDTH, TEXT_MLP
    adapter.vision_feature_layer = [24, 18]
    adapter.text_hidden_size = text.hidden_size = TEXT_WIDTH
    text.num_hidden_layers, text.intermediate_size = num_layers, TEXT_MLP
    text.num_attention_heads, text.num_key_value_heads = TEXT_HEADS, KV_HEADS
    text.head_dim = HEAD_DIM
    torch.manual_seed(seed)
    model = Molmo2ForConditionalGeneration(config)
    save_checkpoint(model, tokenizer, folder / "checkpoint", POOLING)
    export_checkpoint(
        folder / "checkpoint",
        folder / "engine",
        description=Description(
            name="random weights, released vision size",
            sampling=SamplingFacts(point_fps=2.0, track_fps=2.0, max_frames=8, max_clip_s=3.4),
        ),
    )
    return folder / "engine"
