"""Traces the two graphs with their names and free dimensions; the weights' values play no part.

Letters as in engines/graphs.py.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim

from molmo2_ros.engines.graphs import DecoderGraph, VisionGraph, export_attention

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram
    from transformers import Molmo2ForConditionalGeneration

# Initializer's prefix -> parameter's prefix in transformers.
VISION_NAMES = {"tower.": "model.vision_tower.", "adapter.": "model.multi_modal_projector."}
DECODER_NAMES = {"text.": "model.language_model.", "head.": "lm_head."}


def trace_vision(model: Molmo2ForConditionalGeneration, opset: int) -> ONNXProgram:
    """vision.onnx before its weights are written; inputs and output are float32 in any dtype."""
    vision = model.config.vision_config
    num_values = vision.patch_size**2 * vision.num_channels
    return _trace(
        model,
        VisionGraph(model),
        (
            torch.zeros(2, vision.num_position_embeddings, num_values),
            torch.zeros(3, 4, dtype=torch.int64),
        ),
        opset_version=opset,
        input_names=["patches", "pooling"],
        output_names=["features"],
        dynamic_shapes=({0: Dim("K")}, {0: Dim("M"), 1: Dim("W")}),
    )


def trace_decoder(model: Molmo2ForConditionalGeneration, opset: int) -> ONNXProgram:
    """decoder.onnx before its weights are written.

    Features, bias, keys and values have the dtype of the model; logits are float32.
    """
    text, dtype = model.config.text_config, model.dtype
    batch, num_new, num_past, num_logits = 2, 3, 4, 2
    past = [
        torch.zeros(batch, text.num_key_value_heads, num_past, text.head_dim, dtype=dtype)
        for _ in range(2 * text.num_hidden_layers)
    ]
    inputs = {
        "input_ids": torch.zeros(batch, num_new, dtype=torch.int64),
        "visual_add": torch.zeros(batch, num_new, text.hidden_size, dtype=dtype),
        "position_ids": torch.zeros(batch, num_new, dtype=torch.int64),
        "attn_bias": torch.zeros(batch, 1, num_new, num_past + num_new, dtype=dtype),
        "logit_indices": torch.zeros(num_logits, dtype=torch.int64),
    }
    b, s, p = Dim("B"), Dim("S"), Dim("P")
    layers = range(text.num_hidden_layers)
    past_names = [f"past_{part}_{i}" for i in layers for part in ("key", "value")]
    return _trace(
        model,
        DecoderGraph(model),
        (*inputs.values(), *past),
        opset_version=opset,
        input_names=[*inputs, *past_names],
        output_names=["logits", *(name.replace("past", "present") for name in past_names)],
        dynamic_shapes=(
            {0: b, 1: s},
            {0: b, 1: s},
            {0: b, 1: s},
            {0: b, 2: s, 3: Dim.DYNAMIC},  # T = P + S
            {0: Dim("L")},
            tuple({0: b, 2: p} for _ in past),
        ),
    )


def weight_names(model: Molmo2ForConditionalGeneration, prefixes: dict[str, str]) -> dict[str, str]:
    """Names of a graph's weights: initializer -> parameter in transformers.

    Args:
        model: whose parameters they are.
        prefixes: VISION_NAMES or DECODER_NAMES.
    """
    return {
        graph + name.removeprefix(ours): name
        for graph, ours in prefixes.items()
        for name, _ in model.named_parameters()
        if name.startswith(ours)
    }


def _trace(
    model: Molmo2ForConditionalGeneration, graph: torch.nn.Module, example: Any, **options: Any
) -> ONNXProgram:
    with torch.no_grad(), export_attention(model), _quiet():
        program = torch.onnx.export(
            graph.eval(), example, dynamo=True, optimize=False, verbose=False, **options
        )
    assert program is not None  # with dynamo=True it never is
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress lines and version notes say nothing about our graphs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
