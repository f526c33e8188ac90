"""Attention over a pack tree by tree: what no tree sees of another is not computed.

A pack's mask is made of blocks, one a tree; stock attention would compute all of the square. The
time for it falls from the square of the pack's length to the sum of the trees' squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import Molmo2ForConditionalGeneration

TREES = "molmo2_trees"  # as transformers calls an implementation of attention


def use_tree_attention(model: Molmo2ForConditionalGeneration) -> None:
    """Let the language model's layers attend tree by tree.

    The model then computes packs (`batch.forward`) and nothing else: transformers makes no mask of
    visual tokens for attention that it does not know. `use_stock_attention` undoes it.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(TREES, tree_attention)
    model.set_attn_implementation({"text_config": TREES})


def use_stock_attention(model: Molmo2ForConditionalGeneration) -> None:
    """Let the language model attend as transformers does, so that it can generate."""
    model.set_attn_implementation({"text_config": "sdpa"})


def tree_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    tree_sizes: Sequence[int] = (),
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer: its own sdpa attention, on one tree at a time.

    Args:
        module: the layer's attention.
        query: [1, heads, S, head_dim].
        key: [1, key/value heads, S, head_dim].
        value: likewise.
        attention_mask: bool [1, 1, S, S] of the whole pack.
        tree_sizes: tokens of each tree, S together.
        kwargs: handed on.

    Returns:
        [1, S, heads, head_dim], and no weights.

    Raises:
        ValueError: there are no trees, or of other sizes: the mask cannot be trusted then.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if sum(tree_sizes) != query.shape[2] or attention_mask is None:
        raise ValueError(
            f"attention over {query.shape[2]} tokens of trees of {list(tree_sizes)}, expected as "
            "many: a model after use_tree_attention() computes packs alone"
        )
    outputs, start = [], 0
    for size in tree_sizes:
        here = slice(start, start + size)
        output, _ = sdpa_attention_forward(
            module,
            query[:, :, here],
            key[:, :, here],
            value[:, :, here],
            attention_mask[:, :, here, here],
            **kwargs,
        )
        outputs.append(output)
        start += size
    return torch.cat(outputs, dim=1), None
