"""A Molmo2 in which every parameter has its shape and dtype, and takes no memory.

Tracing a graph asks for no weight's value; those are written into the file afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from molmo2_ros.engines.torchvision_ops import declare_missing_ops

if TYPE_CHECKING:
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration


def build_skeleton(config: Molmo2Config, dtype: torch.dtype) -> Molmo2ForConditionalGeneration:
    """Transformers' model whose parameters are one zero each, seen from every element.

    Args:
        config: of the checkpoint.
        dtype: of the parameters, and so of the traced graphs; tables that transformers computes
            itself stay float32.
    """
    declare_missing_ops()
    from transformers import Molmo2ForConditionalGeneration
    from transformers.models.molmo2.modeling_molmo2 import Molmo2RotaryEmbedding

    with torch.device("meta"):
        model = Molmo2ForConditionalGeneration(config).eval()
    zero = torch.zeros((), dtype=dtype)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            spread = nn.Parameter(zero.expand(parameter.shape), requires_grad=False)
            setattr(module, name, spread)
    text = model.model.language_model
    text.rotary_emb = Molmo2RotaryEmbedding(config.text_config)
    text.rotary_emb_unscaled = Molmo2RotaryEmbedding(config.text_config, scaled=False)
    return model


def parameter_shapes(model: Molmo2ForConditionalGeneration) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
