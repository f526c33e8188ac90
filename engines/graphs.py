"""The two graphs of an engine, as PyTorch modules around transformers' own Molmo2 parts.

Letters: B batch, S new tokens, P past tokens, T = P + S, L wanted logits, V vocabulary, D width of
the language model, H heads, E width of a head, K views, N patches a view, C = 588 values a patch,
F vision feature width, M visual tokens, W patches pooled into one token.

Restrictions that keep one file acceptable to ONNX Runtime and TensorRT: keys and values are joined
to the past outside the attention operator; masking is an additive bias in the dtype of the queries;
no operator's output shape depends on data. A file is strongly typed: its weights have one dtype,
and what is added to activations or joined to a cache has it too. Pictures, visual features and
logits are float32 in any of them, and so are the means and variances of norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import embedding, scaled_dot_product_attention

if TYPE_CHECKING:
    from transformers import Molmo2ForConditionalGeneration

_ATTENTION = "molmo2_ros_export"


def _attention(
    module: nn.Module,
    query_BHSE: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over grouped heads as they are; transformers' own repeats them under a mask."""
    attended = scaled_dot_product_attention(
        query_BHSE,
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
        enable_gqa=key.shape[1] != query_BHSE.shape[1],
    )
    return attended.transpose(1, 2).contiguous(), None


@contextmanager
def export_attention(model: Molmo2ForConditionalGeneration) -> Iterator[None]:
    """Route all parts of `model` through the attention that the graphs need, for a while."""
    from transformers import AttentionInterface

    AttentionInterface.register(_ATTENTION, _attention)
    config = model.config
    parts = (config.text_config, config.vision_config, config.adapter_config)
    usual = [part._attn_implementation for part in parts]
    try:
        for part in parts:
            part._attn_implementation = _ATTENTION
        yield
    finally:
        for part, name in zip(parts, usual, strict=True):
            part._attn_implementation = name


class VisionGraph(nn.Module):
    """patches, pooling -> features: every view by itself, then windows of patches pooled."""

    def __init__(self, model: Molmo2ForConditionalGeneration) -> None:
        super().__init__()
        self.tower = model.model.vision_tower
        self.adapter = model.model.multi_modal_projector
        num_layers = len(self.tower.layers)
        self.feature_layers = [
            layer % num_layers for layer in model.config.adapter_config.vision_feature_layer
        ]

    def forward(self, patches_KNC: torch.Tensor, pooling_MW: torch.Tensor) -> torch.Tensor:
        """See Engine.encode; a row of `pooling_MW` that is all -1 yields a row of no meaning."""
        embedded_KNF = self.tower.patch_embedding(patches_KNC.to(self.tower.dtype))
        hidden_KNF = embedded_KNF + self.tower.positional_embedding[None]
        hidden_by_layer = []
        for layer in self.tower.layers[: max(self.feature_layers) + 1]:
            hidden_KNF = layer(hidden_KNF, None)
            hidden_by_layer.append(hidden_KNF)
        features_KNF = torch.cat([hidden_by_layer[layer] for layer in self.feature_layers], dim=-1)
        return self._pool(features_KNF.flatten(0, 1), pooling_MW)

    def _pool(self, flat_features: torch.Tensor, pooling_MW: torch.Tensor) -> torch.Tensor:
        """Molmo2Adapter.forward without its data-dependent selection of valid rows."""
        valid_MW = (pooling_MW >= 0).to(flat_features.dtype)
        patch_MW = torch.where(pooling_MW >= 0, pooling_MW, 0)
        windows_MWF = embedding(patch_MW, flat_features) * valid_MW[..., None]
        num_valid_M11 = valid_MW.sum(-1)[:, None, None].clamp(min=1)
        mean_M1F = windows_MWF.sum(1, keepdim=True) / num_valid_M11
        # Half of the lowest number: in float16 a score added to the lowest one is minus infinity.
        bias_M11W = ((1 - valid_MW) * (torch.finfo(valid_MW.dtype).min / 2))[:, None, None, :]
        pooled_M1F, _ = self.adapter.image_pooling_2d(
            mean_M1F, windows_MWF, attention_mask=bias_M11W
        )
        features: torch.Tensor = self.adapter.image_projector(pooled_M1F[:, 0])
        return features.float()


class _GrowingCache:
    """Joins new keys and values to the past, as transformers' attention asks of its cache."""

    def __init__(self, past: tuple[torch.Tensor, ...]) -> None:
        self.past = past
        self.present: list[torch.Tensor] = []

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_index: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        key = torch.cat([self.past[2 * layer_index], key], dim=2)
        value = torch.cat([self.past[2 * layer_index + 1], value], dim=2)
        self.present += [key, value]
        return key, value


class _FullCache:
    """Gives keys and values that already hold every token."""

    def __init__(self, present: list[torch.Tensor]) -> None:
        self.present = present

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_index: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        del key, value
        return self.present[2 * layer_index], self.present[2 * layer_index + 1]


class DecoderGraph(nn.Module):
    """Token ids after a cache -> logits and the grown cache; prefill, verify and decode alike.

    The last layer reads all tokens for its keys and values, and goes on with those alone whose
    logits are wanted: a prefix of hundreds of tokens wants one.
    """

    def __init__(self, model: Molmo2ForConditionalGeneration) -> None:
        super().__init__()
        self.text = model.model.language_model
        self.head = model.lm_head

    def forward(
        self,
        input_ids_BS: torch.Tensor,
        visual_add_BSD: torch.Tensor,
        position_ids_BS: torch.Tensor,
        attn_bias_B1ST: torch.Tensor,
        logit_indices_L: torch.Tensor,
        *past: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """`past` is key, value, key, value ... by layer; so is what follows the logits."""
        # Molmo2 adds visual features to the embedding of <im_patch>; zeros change nothing.
        hidden_BSD = self.text.embed_tokens(input_ids_BS) + visual_add_BSD
        rotary = {
            "scaled": self.text.rotary_emb(hidden_BSD, position_ids_BS),
            "unscaled": self.text.rotary_emb_unscaled(hidden_BSD, position_ids_BS),
        }
        cache = _GrowingCache(past)
        *layers, last_layer = self.text.layers
        *rope_types, last_rope_type = self.text.rope_types
        for layer, rope_type in zip(layers, rope_types, strict=True):
            hidden_BSD = layer(
                hidden_BSD,
                position_embeddings=rotary[rope_type],
                attention_mask=attn_bias_B1ST,
                past_key_values=cache,
            )
        # Only its keys and values are used of this call; the export drops the rest.
        last_layer(
            hidden_BSD,
            position_embeddings=rotary[last_rope_type],
            attention_mask=attn_bias_B1ST,
            past_key_values=cache,
        )
        wanted_BLD = last_layer(
            hidden_BSD.index_select(1, logit_indices_L),
            position_embeddings=tuple(
                part_BSE.index_select(1, logit_indices_L) for part_BSE in rotary[last_rope_type]
            ),
            attention_mask=attn_bias_B1ST.index_select(2, logit_indices_L),
            past_key_values=_FullCache(cache.present),
        )
        return (self.head(self.text.norm(wanted_BLD)).float(), *cache.present)
