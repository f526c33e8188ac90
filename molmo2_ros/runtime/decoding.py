"""From a prompt and features to answer tokens: one prefix for all questions, then greedy decoding.

Letters as in runtime/engine.py; Q questions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import QueryError
from molmo2_ros.prompt.layout import HIDDEN, Prompt, prefix_bias
from molmo2_ros.runtime.engine import KV, Engine

OnToken = Callable[[int, int, float], None]  # question's index, token id, probability 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """BOS and clip as the model has read them, shared by every question about that clip.

    It holds only for that clip: when the window slides, all visual tokens see other neighbours.
    """

    kv: KV
    num_tokens: int
    prefill_s: float  # seconds that reading took


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generation:
    """What the model wrote for one question."""

    ids: tuple[int, ...]  # without the ending token
    probabilities: npt.NDArray[np.float32]  # of each of `ids`, 0..1
    truncated: bool  # the token limit came before the ending token
    cancelled: bool  # the caller stopped it


def prefill(engine: Engine, prompt: Prompt, features_MD: npt.NDArray[np.float32]) -> Prefix:
    """Read the part of the prompt that all questions share.

    Args:
        engine: the model.
        prompt: BOS and the visual part.
        features_MD: float32 [M, D], in the order of `prompt.patch_indices`.

    Raises:
        QueryError: the clip alone is longer than the model's positions.
        ValueError: the number of features is not the number of visual tokens.
    """
    num_tokens = len(prompt.ids)
    if len(features_MD) != len(prompt.patch_indices):
        raise ValueError(
            f"{len(features_MD)} features for {len(prompt.patch_indices)} visual tokens"
        )
    _check_room(engine, num_tokens)
    started = time.perf_counter()
    visual_BSD = np.zeros((1, num_tokens, features_MD.shape[1]), np.float32)
    visual_BSD[0, prompt.patch_indices] = features_MD
    _, kv = engine.forward(
        prompt.ids[None],
        np.arange(num_tokens)[None],
        prefix_bias(prompt.is_visual)[None, None],
        engine.empty_kv(),
        visual_BSD=visual_BSD,
    )
    return Prefix(kv=kv, num_tokens=num_tokens, prefill_s=time.perf_counter() - started)


def generate(
    engine: Engine,
    prefix: Prefix,
    suffixes: Sequence[npt.NDArray[np.int64]],
    *,
    max_new_tokens: int,
    on_token: OnToken | None = None,
    cancel: Callable[[int], bool] | None = None,
) -> list[Generation]:
    """Answer several questions about one clip in one batch, each as if it were asked alone.

    Shorter questions are padded on the left; the padding is masked out for good and takes no
    position, so each row's arithmetic is that of a question on its own. A row leaves the batch with
    its ending token.

    Args:
        engine: the model.
        prefix: what `prefill` made of the clip.
        suffixes: token ids of each question, from `<|im_start|>user` to the assistant's header.
        max_new_tokens: limit for each answer.
        on_token: called for each token as it is written, the ending one excepted.
        cancel: asked before each step for each question that is still being answered; True ends
            that answer where it is.

    Raises:
        QueryError: no question, or one that leaves no room for an answer.
    """
    lengths_Q = np.array([len(suffix) for suffix in suffixes])
    if not len(suffixes) or not lengths_Q.all():
        raise QueryError(f"question lengths are {lengths_Q.tolist()} tokens, expected at least one")
    if max_new_tokens < 1:
        raise QueryError(f"max_new_tokens is {max_new_tokens}, expected at least 1")
    limits_Q = [
        min(max_new_tokens, _check_room(engine, prefix.num_tokens + int(length)))
        for length in lengths_Q
    ]
    answers = [_Answer(limit) for limit in limits_Q]
    eos_ids = engine.manifest.tokens.eos_ids
    padding_B = lengths_Q.max() - lengths_Q
    rows = list(range(len(suffixes)))  # question of each row of the batch
    kv = engine.select_kv(prefix.kv, [0] * len(rows))
    ids_BS = np.stack(
        [np.pad(suffix, (pad, 0)) for suffix, pad in zip(suffixes, padding_B, strict=True)]
    )
    offset = 0  # of the first new token, from the prefix's end
    while True:
        if cancel is not None:
            for row in rows:
                answers[row].cancelled = cancel(row)
            wanted = [index for index, row in enumerate(rows) if not answers[row].cancelled]
            if not wanted:
                break
            rows = [rows[index] for index in wanted]
            kv = engine.select_kv(kv, wanted)
            padding_B, ids_BS = padding_B[wanted], ids_BS[wanted]
        logits_BLV, kv = engine.forward(
            ids_BS,
            prefix.num_tokens + _positions(ids_BS.shape[1], offset, padding_B),
            _bias(prefix.num_tokens, ids_BS.shape[1], offset, padding_B),
            kv,
        )
        offset += ids_BS.shape[1]
        chosen_B, probabilities_B = _greedy(logits_BLV[:, 0])
        kept = []
        for index, row in enumerate(rows):
            token, probability = int(chosen_B[index]), float(probabilities_B[index])
            if token in eos_ids:
                continue
            answers[row].append(token, probability)
            if on_token is not None:
                on_token(row, token, probability)
            if not answers[row].truncated:
                kept.append(index)
        if not kept:
            break
        rows = [rows[index] for index in kept]
        kv = engine.select_kv(kv, kept)
        padding_B, ids_BS = padding_B[kept], chosen_B[kept, None]
    return [answer.finish() for answer in answers]


class _Answer:
    """One answer while it is being written."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.ids: list[int] = []
        self.probabilities: list[float] = []
        self.cancelled = False

    @property
    def truncated(self) -> bool:
        return len(self.ids) >= self.limit

    def append(self, token: int, probability: float) -> None:
        self.ids.append(token)
        self.probabilities.append(probability)

    def finish(self) -> Generation:
        return Generation(
            ids=tuple(self.ids),
            probabilities=np.array(self.probabilities, np.float32),
            truncated=self.truncated,
            cancelled=self.cancelled,
        )


def _bias(
    num_prefix: int, num_new: int, offset: int, padding_B: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Causal attention of new text over prefix and text so far, float32 [B, 1, S, T].

    `offset` tokens stand between the prefix and the first new one, `padding_B` of them padding
    right after the prefix, which nobody sees.
    """
    column_T = np.arange(num_prefix + offset + num_new)
    seen_ST = column_T <= num_prefix + offset + np.arange(num_new)[:, None]
    in_answer_T = column_T - num_prefix
    padding_BT = (in_answer_T >= 0) & (in_answer_T < padding_B[:, None])
    bias_BST = np.full((len(padding_B), num_new, len(column_T)), HIDDEN, np.float32)
    bias_BST[seen_ST & ~padding_BT[:, None]] = 0
    return bias_BST[:, None]


def _positions(
    num_new: int, offset: int, padding_B: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """[B, S] positions from the prefix's end on; padding repeats position 0, where nobody looks."""
    positions_BS: npt.NDArray[np.int64] = offset + np.arange(num_new) - padding_B[:, None]
    return np.maximum(positions_BS, 0)


def _greedy(
    logits_BV: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The likeliest token of each row and its probability."""
    chosen_B = logits_BV.argmax(-1)
    above_B1 = logits_BV.max(-1, keepdims=True)
    return chosen_B, 1 / np.exp(logits_BV - above_B1).sum(-1)


def _check_room(engine: Engine, num_tokens: int) -> int:
    """Positions left for an answer."""
    room = engine.manifest.text.max_positions - num_tokens
    if room < 1:
        raise QueryError(
            f"the prompt has {num_tokens} tokens, {engine.manifest.name} has room for "
            f"{engine.manifest.text.max_positions} with the answer; ask about fewer frames"
        )
    return room
