"""From a prompt and features to answer tokens: one prefix for all questions, many tokens a pass.

Greedy decoding writes one token a pass. Here each pass also reads a draft: tokens that may come
next. Where the model would have written the same, they are taken over; the pass gives the model's
own next token besides. What comes out is what plain greedy decoding writes, in fewer passes; a
wrong draft costs time, never a token.

Letters as in runtime/engine.py; Q questions, N tokens of a draft.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import QueryError
from molmo2_ros.prompt.layout import HIDDEN, Prompt, prefix_bias
from molmo2_ros.runtime.engine import KV, Engine

# Question's index, tokens that are now written, probability 0..1 of each.
OnTokens = Callable[[int, Sequence[int], Sequence[float]], None]
_ROOT = -1  # parent of a draft's first token: the text written so far


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Tokens that may come next: a line, or a tree of ways to go on that differ where they part."""

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()  # of each token, an earlier one or -1 for the text so far

    @staticmethod
    def line(tokens: Sequence[int]) -> Draft:
        """Each token after the one before."""
        return Draft(tokens=tuple(tokens), parents=tuple(range(-1, len(tokens) - 1)))

    def cut(self, num_tokens: int) -> Draft:
        """The first tokens of it."""
        return Draft(tokens=self.tokens[:num_tokens], parents=self.parents[:num_tokens])


class DraftSource(Protocol):
    """Foresees one answer."""

    def draft(self, written: Sequence[int]) -> Draft:
        """What may follow the tokens written so far; an empty draft where nothing is foreseen."""
        ...

    def verified(self, written: Sequence[int], draft: Draft, chosen: Sequence[int]) -> None:
        """Learn what the model made of a draft.

        Args:
            written: the tokens before it.
            draft: as given by `draft`, perhaps cut.
            chosen: the model's own choice after `written`, then after each token of the draft (and
                what leads to it), [1 + N].
        """
        ...


class Automaton(Protocol):
    """Follows one answer token by token and knows what its grammar allows next."""

    def accept(self, token_id: int) -> bool:
        """Take the next token.

        Returns:
            False where it is not legal: from then on everything is legal and nothing is forced.
        """
        ...

    def legal(self) -> npt.NDArray[np.bool_]:
        """Tokens that may come next, [V]; the ending ones where the answer may end."""
        ...

    def forced(self) -> tuple[int, ...]:
        """The tokens of the only legal way on, up to the next choice."""
        ...

    def legal_tree(self, tokens: Sequence[int], parents: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Tokens that may come after each token of a draft, [N, V]; the state stays as it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """What is known of one answer before it is written."""

    automaton: Automaton | None = None  # its forced runs are read where nothing else is drafted
    constrained: bool = False  # choose among legal tokens only, so that the answer always parses
    drafts: DraftSource | None = None
    max_draft: int = 128  # tokens read ahead in one pass


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
    num_passes: int  # of the decoder, the one that read the question included
    num_drafted: int  # tokens that were read ahead
    num_accepted: int  # of these: what the model would have written


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
    guides: Sequence[Guide] | None = None,
    on_tokens: OnTokens | None = None,
    cancel: Callable[[int], bool] | None = None,
) -> list[Generation]:
    """Answer several questions about one clip in one batch, each as if it were asked alone.

    Shorter questions are padded on the left, shorter drafts on the right; padding is masked out for
    good and takes no position, so each row's arithmetic is that of a question on its own. A row
    leaves the batch with its ending token.

    Args:
        engine: the model.
        prefix: what `prefill` made of the clip.
        suffixes: token ids of each question, from `<|im_start|>user` to the assistant's header.
        max_new_tokens: limit for each answer.
        guides: what is known of each answer; None for plain greedy decoding.
        on_tokens: called for each question after each pass, the ending token excepted.
        cancel: asked before each step for each question that is still being answered; True ends
            that answer where it is.

    Raises:
        QueryError: no question, or one that leaves no room for an answer.
    """
    if not len(suffixes) or not all(map(len, suffixes)):
        raise QueryError(
            f"question lengths are {[len(s) for s in suffixes]} tokens, expected at least one"
        )
    if max_new_tokens < 1:
        raise QueryError(f"max_new_tokens is {max_new_tokens}, expected at least 1")
    guides = [Guide()] * len(suffixes) if guides is None else guides
    answers = [
        _Answer(
            guide=guide,
            limit=min(max_new_tokens, _check_room(engine, prefix.num_tokens + len(suffix))),
            lead=[int(token) for token in suffix],
        )
        for suffix, guide in zip(suffixes, guides, strict=True)
    ]
    eos_ids = engine.manifest.tokens.eos_ids
    rows = list(range(len(answers)))  # question of each row of the batch
    kv = engine.select_kv(prefix.kv, [0] * len(rows))
    seen_BP = np.zeros((len(rows), 0), np.bool_)  # past tokens behind the prefix that count
    while True:
        if cancel is not None:
            for row in rows:
                answers[row].cancelled = answers[row].cancelled or cancel(row)
        kept = [index for index, row in enumerate(rows) if not answers[row].is_done]
        if not kept:
            break
        rows, seen_BP = [rows[index] for index in kept], seen_BP[kept]
        # What no row has taken over of the last drafts stands at the end, and goes.
        num_past = int(np.flatnonzero(seen_BP.any(0))[-1]) + 1 if seen_BP.any() else 0
        seen_BP = seen_BP[:, :num_past]
        kv = engine.select_kv(kv, kept, length=prefix.num_tokens + num_past)
        batch = _Batch([answers[row].lead for row in rows], [answers[row].draft() for row in rows])
        logits_BLV, kv = engine.forward(
            batch.ids_BS,
            prefix.num_tokens + batch.positions(seen_BP.sum(1)),
            batch.bias(prefix.num_tokens, seen_BP),
            kv,
            logit_indices_L=batch.logit_indices,
        )
        taken_BS = batch.is_lead_BS
        for index, row in enumerate(rows):
            path, tokens, probabilities = answers[row].read(
                batch.drafts[index], logits_BLV[index], eos_ids
            )
            taken_BS[index, batch.num_lead + np.array(path, np.intp)] = True
            if on_tokens is not None and tokens:
                on_tokens(row, tokens, probabilities)
        seen_BP = np.concatenate([seen_BP, taken_BS], 1)
    return [answer.finish() for answer in answers]


class _Batch:
    """One pass: what leads to each row's next token, and each row's draft behind it."""

    def __init__(self, leads: Sequence[Sequence[int]], drafts: Sequence[Draft]) -> None:
        self.drafts = drafts
        self.num_lead = max(map(len, leads))
        self.num_new = self.num_lead + max(len(draft.tokens) for draft in drafts)
        shape = (len(leads), self.num_new)
        self.ids_BS = np.zeros(shape, np.int64)
        self.is_lead_BS = np.zeros(shape, np.bool_)
        # Places from the row's first new token on; padding has place 0, where nobody looks.
        self._places_BS = np.zeros(shape, np.int64)
        self._sees_BSS = np.zeros((*shape, self.num_new), np.bool_)
        for row, (lead, draft) in enumerate(zip(leads, drafts, strict=True)):
            first = self.num_lead - len(lead)
            self.ids_BS[row, first : self.num_lead] = lead
            self.is_lead_BS[row, first : self.num_lead] = True
            self._places_BS[row, first : self.num_lead] = np.arange(len(lead))
            sees_SS = self._sees_BSS[row]
            sees_SS[first : self.num_lead, first : self.num_lead] = np.tri(len(lead), dtype=bool)
            for node, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
                place, before = self.num_lead + node, self.num_lead + parent
                self.ids_BS[row, place] = token
                self._places_BS[row, place] = self._places_BS[row, before] + 1
                sees_SS[place] = sees_SS[before]
                sees_SS[place, place] = True

    @property
    def logit_indices(self) -> npt.NDArray[np.int64]:
        """[L]: the last leading token and the drafts."""
        return np.arange(self.num_lead - 1, self.num_new)

    def positions(self, num_seen_B: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """[B, S] from the prefix's end on, after `num_seen_B` tokens that count."""
        positions_BS: npt.NDArray[np.int64] = num_seen_B[:, None] + self._places_BS
        return positions_BS

    def bias(self, num_prefix: int, seen_BP: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """Additive mask, float32 [B, 1, S, T]: prefix, past tokens that count, and what leads."""
        batch, num_past = seen_BP.shape
        num_before = num_prefix + num_past
        bias_BST = np.zeros((batch, self.num_new, num_before + self.num_new), np.float32)
        bias_BST[:, :, num_prefix:num_before][
            np.broadcast_to(~seen_BP[:, None], (batch, self.num_new, num_past))
        ] = HIDDEN
        bias_BST[:, :, num_before:][~self._sees_BSS] = HIDDEN
        return bias_BST[:, None]


@dataclass(slots=True, kw_only=True)
class _Answer:
    """One answer while it is being written."""

    guide: Guide
    limit: int
    lead: list[int]  # tokens that the next pass must read: the question, later the newest token
    ids: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    cancelled: bool = False
    ended: bool = False
    num_passes: int = 0
    num_drafted: int = 0
    num_accepted: int = 0

    @property
    def truncated(self) -> bool:
        return not self.ended and len(self.ids) >= self.limit

    @property
    def is_done(self) -> bool:
        return self.cancelled or self.ended or self.truncated

    def draft(self) -> Draft:
        """What the next pass reads ahead, no more than could be written."""
        guide = self.guide
        room = min(guide.max_draft, self.limit - len(self.ids) - 1)
        draft = Draft()
        if guide.drafts is not None:
            draft = guide.drafts.draft(self.ids)
        if not draft.tokens and guide.automaton is not None:
            draft = Draft.line(guide.automaton.forced())
        return draft.cut(room)

    def read(
        self, draft: Draft, logits_LV: npt.NDArray[np.float32], eos_ids: frozenset[int]
    ) -> tuple[list[int], list[int], list[float]]:
        """Write along the draft as far as the model agrees, and one token further.

        Returns:
            nodes of the draft that were taken over, and the tokens written with their
            probabilities.
        """
        guide, num_nodes = self.guide, len(draft.tokens)
        logits_LV = logits_LV[: 1 + num_nodes]  # the rest belongs to longer drafts of the batch
        if guide.automaton is not None and guide.constrained:
            legal_LV = [guide.automaton.legal()]
            legal_LV.extend(guide.automaton.legal_tree(draft.tokens, draft.parents))
            logits_LV = np.where(legal_LV, logits_LV, -np.inf)
        chosen_L = logits_LV.argmax(-1)
        if guide.drafts is not None:
            guide.drafts.verified(self.ids, draft, chosen_L.tolist())
        children = {
            (parent, token): node
            for node, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True))
        }
        path: list[int] = []
        node: int | None = _ROOT
        while node is not None:
            token = int(chosen_L[1 + node])
            if token in eos_ids:
                self.ended = True
                break
            node = children.get((node, token))
            if node is not None:
                path.append(node)
        read_at = [0, *(1 + node for node in path)][: len(path) + (not self.ended)]
        tokens = chosen_L[read_at].tolist()
        probabilities = _probabilities(logits_LV[read_at])
        self.num_passes += 1
        self.num_drafted += num_nodes
        self.num_accepted += len(path)
        self.ids += tokens
        self.probabilities += probabilities
        self.lead = self.ids[-1:]
        if guide.automaton is not None:
            for token in tokens:
                guide.automaton.accept(token)
        return path, tokens, probabilities

    def finish(self) -> Generation:
        return Generation(
            ids=tuple(self.ids),
            probabilities=np.array(self.probabilities, np.float32),
            truncated=self.truncated,
            cancelled=self.cancelled,
            num_passes=self.num_passes,
            num_drafted=self.num_drafted,
            num_accepted=self.num_accepted,
        )


def _probabilities(logits_LV: npt.NDArray[np.float32]) -> list[float]:
    """Probability of the likeliest token of each row."""
    above_L1 = logits_LV.max(-1, keepdims=True, initial=-np.inf)
    shares_L: list[float] = (1 / np.exp(logits_LV - above_L1).sum(-1)).tolist()
    return shares_L


def _check_room(engine: Engine, num_tokens: int) -> int:
    """Positions left for an answer."""
    room = engine.manifest.text.max_positions - num_tokens
    if room < 1:
        raise QueryError(
            f"the prompt has {num_tokens} tokens, {engine.manifest.name} has room for "
            f"{engine.manifest.text.max_positions} with the answer; ask about fewer frames"
        )
    return room
