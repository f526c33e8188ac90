"""transformers' own Molmo2 in float32, whose weights are in memory only while they are used.

A model that does not fit in memory still says what an engine has to compute: each of its modules
reads its weights from the checkpoint when its turn comes, and lets go of them afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import embedding

from molmo2_ros.engines.checkpoint import open_skeleton
from molmo2_ros.engines.weights import CheckpointWeights

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import Molmo2ForConditionalGeneration


def stream_checkpoint(folder: Path, weights: CheckpointWeights) -> Molmo2ForConditionalGeneration:
    """The reference for an engine of a checkpoint of any size.

    `generate()` reads all weights once for each token.

    Args:
        folder: of the checkpoint.
        weights: of the same checkpoint.

    Returns:
        A model that computes what `load_checkpoint` does.
    """
    model = open_skeleton(folder, torch.float32)
    for path, module in model.named_modules():
        own = {name: f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
        if isinstance(module, nn.Embedding):
            _read_rows(module, own["weight"], weights)
        elif own:
            _read_in_turn(module, own, weights)
    return model


def _read_rows(module: nn.Embedding, name: str, weights: CheckpointWeights) -> None:
    """Of a table of hundreds of MB a prompt needs some rows."""

    def rows_of(ids: torch.Tensor) -> torch.Tensor:
        return embedding(ids, weights.read(name)).float()

    module.forward = rows_of  # type: ignore[assignment]


def _read_in_turn(module: nn.Module, own: dict[str, str], weights: CheckpointWeights) -> None:
    placeholders = dict(module.named_parameters(recurse=False))

    def read(*_: Any) -> None:
        for short, name in own.items():
            values = weights.read(name).float()
            setattr(module, short, nn.Parameter(values, requires_grad=False))

    def forget(*_: Any) -> None:
        for short, placeholder in placeholders.items():
            setattr(module, short, placeholder)

    module.register_forward_pre_hook(read)
    module.register_forward_hook(forget, always_call=True)
