"""A pack as tensors, and through transformers' own Molmo2.

Letters: S tokens, K views, N patches a view, C values a patch, M visual tokens, W patches a window,
L trained tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from molmo2_ros.training.recipe.messages import IGNORED, PREFIX, TokenTree

if TYPE_CHECKING:
    from transformers import Molmo2ForConditionalGeneration


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """One sequence of several trees."""

    ids_1S: torch.Tensor  # int64
    positions_1S: torch.Tensor  # int64, restarted in every branch
    mask_11SS: torch.Tensor  # bool, True where the row's token sees the column's
    is_visual_1S: torch.Tensor  # int64, 1 for visual tokens
    labels_L: torch.Tensor  # int64, the trained tokens
    weights_L: torch.Tensor  # float32, theirs
    readers_L: torch.Tensor  # int64, the position that predicts each of them
    patches_KNC: torch.Tensor  # float32; K is 0 where nothing is shown
    windows_MW: torch.Tensor  # int64 into all K * N patches, -1 where padded
    tree_sizes: tuple[int, ...]  # tokens of each tree, S together

    def to(self, device: torch.device) -> PackedBatch:
        """The same on a device."""
        tensors = {
            field.name: getattr(self, field.name).to(device)
            for field in fields(self)
            if field.name != "tree_sizes"
        }
        return replace(self, **tensors)


def collate(trees: Sequence[TokenTree]) -> PackedBatch:
    """One sequence of trees that do not see each other."""
    sizes = [tree.num_tokens for tree in trees]
    example = torch.from_numpy(np.repeat(np.arange(len(trees)), sizes))
    branch = torch.from_numpy(np.concatenate([tree.branch for tree in trees]))
    is_visual = torch.from_numpy(np.concatenate([tree.is_visual for tree in trees]))
    labels = np.concatenate([tree.labels for tree in trees])
    weights = np.concatenate([tree.weights for tree in trees])
    trained = np.flatnonzero(labels != IGNORED)
    patches, windows = _vision(trees)
    return PackedBatch(
        ids_1S=torch.from_numpy(np.concatenate([tree.ids for tree in trees]))[None],
        positions_1S=torch.from_numpy(np.concatenate([tree.positions for tree in trees]))[None],
        mask_11SS=tree_mask(example, branch, is_visual)[None, None],
        is_visual_1S=is_visual.long()[None],
        labels_L=torch.from_numpy(labels[trained]),
        weights_L=torch.from_numpy(weights[trained]),
        readers_L=torch.from_numpy(trained - 1),
        patches_KNC=patches,
        windows_MW=windows,
        tree_sizes=tuple(sizes),
    )


def tree_mask(example: torch.Tensor, branch: torch.Tensor, is_visual: torch.Tensor) -> torch.Tensor:
    """Who sees whom, bool [S, S], or [B, S, S] of B sequences.

    A token sees its own example's prefix and its own branch, causally; and visual tokens of one
    example see each other both ways. Source: `Molmo2.forward` of the authors' trainer.

    Args:
        example: int64 [S] or [B, S], which example a token belongs to.
        branch: int64, likewise: PREFIX, or its branch's number.
        is_visual: bool, likewise.
    """
    size = branch.shape[-1]
    causal = torch.ones(size, size, dtype=torch.bool, device=branch.device).tril()
    row, column = (..., slice(None), None), (..., None, slice(None))
    same = example[row] == example[column]
    within = (branch[column] == PREFIX) | (branch[row] == branch[column])
    both_ways = is_visual[row] & is_visual[column]
    return same & ((causal & within) | both_ways)


def _vision(trees: Sequence[TokenTree]) -> tuple[torch.Tensor, torch.Tensor]:
    """All views one after the other, and all windows into them, padded to the widest."""
    width = max(tree.windows_MW.shape[1] for tree in trees)
    windows, num_patches = [], 0
    for tree in trees:
        shifted = np.where(tree.windows_MW >= 0, tree.windows_MW + num_patches, -1)
        missing = width - shifted.shape[1]
        windows.append(np.pad(shifted, ((0, 0), (0, missing)), constant_values=-1))
        num_patches += tree.num_crops * tree.patches_KNC.shape[1]
    patches = np.concatenate([tree.patches_KNC for tree in trees])
    return torch.from_numpy(patches), torch.from_numpy(np.concatenate(windows))


def forward(model: Molmo2ForConditionalGeneration, batch: PackedBatch) -> torch.Tensor:
    """Logits that predict the trained tokens, [L, V], by the stock model's own forward.

    All views are handed over as one image of M tokens: a window says itself which patches it pools,
    so that images and clips, which pool differently, stand in one sequence.

    Args:
        model: in any dtype; after `use_tree_attention` it computes a pack faster, and the same.
        batch: on the model's device.
    """
    num_tokens = len(batch.windows_MW)
    device = batch.ids_1S.device
    output = model(
        input_ids=batch.ids_1S,
        position_ids=batch.positions_1S,
        attention_mask=batch.mask_11SS,
        mm_token_type_ids=batch.is_visual_1S,
        pixel_values=batch.patches_KNC.to(model.dtype) if num_tokens else None,
        image_token_pooling=batch.windows_MW if num_tokens else None,
        image_grids=torch.tensor([[num_tokens, 1, 0, 0]], device=device) if num_tokens else None,
        logits_to_keep=batch.readers_L,
        tree_sizes=batch.tree_sizes,
        use_cache=False,
    )
    logits_LV: torch.Tensor = output.logits[0]
    return logits_LV
