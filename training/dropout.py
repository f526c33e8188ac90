"""Dropout of the language model's residual branches, which transformers' Molmo2 has not.

Source: the authors' `Dropout`: in pre-training at the answer's tokens only, afterwards at all.
Hooks on the stock layers: nothing of them is changed, and none is left in what is saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from transformers import Molmo2ForConditionalGeneration


class ResidualDropout:
    """What each layer adds to the residual stream, thinned out while the model trains.

    Args:
        model: whose layers are hooked.
        share: of the values that are dropped; 0 hooks nothing.
        answers_only: only at the tokens that `on` names.
    """

    def __init__(
        self, model: Molmo2ForConditionalGeneration, share: float, *, answers_only: bool
    ) -> None:
        self._share, self._answers_only = share, answers_only
        self._where_1S1: torch.Tensor | None = None
        if not share:
            return
        for layer in model.model.language_model.layers:
            after = layer.norm_after  # the norm is the last thing before the sum there
            for branch in (
                layer.input_layernorm if after else layer.self_attn,
                layer.post_attention_layernorm if after else layer.mlp,
            ):
                branch.register_forward_hook(self._drop)

    @contextmanager
    def on(self, is_answer_1S: torch.Tensor) -> Iterator[None]:
        """While a sequence is computed, backward pass included: its answers, bool [1, S]."""
        self._where_1S1 = is_answer_1S[..., None]
        try:
            yield
        finally:
            self._where_1S1 = None

    def _drop(self, module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, tuple):
            return (self._thinned(output[0]), *output[1:])
        return self._thinned(output)

    def _thinned(self, hidden_1SD: torch.Tensor) -> torch.Tensor:
        dropped = F.dropout(hidden_1SD, self._share)
        if not self._answers_only:
            return dropped
        if self._where_1S1 is None:
            raise AssertionError("answers_only: the sequence is computed within on()")
        return torch.where(self._where_1S1, dropped, hidden_1SD)
