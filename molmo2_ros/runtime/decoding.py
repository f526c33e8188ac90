"""From a prompt and features to answer tokens: one prefix for all questions, many tokens a pass.

Greedy decoding writes one token a pass. Here each pass also reads a draft: tokens that may come
next. Where the model would have written the same, they are taken over; the pass gives the model's
own next token besides. What comes out is what plain greedy decoding writes, in fewer passes; a
wrong draft costs time, never a token.

Letters as in runtime/engine.py; N tokens of a draft.
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
from molmo2_ros.runtime.device_features import place_features
from molmo2_ros.runtime.engine import KV, Engine, Features

# Question's index, tokens that are now written, probability 0..1 of each, whether they are all.
OnTokens = Callable[[int, Sequence[int], Sequence[float], bool], None]
_MOST_BRANCHES = 8  # questions in one sequence: each reads past the others' tokens, masked
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

    @property
    def is_line(self) -> bool:
        """Whether there is one way only."""
        return self.parents == tuple(range(-1, len(self.tokens) - 1))

    def cut(self, num_tokens: int | None) -> Draft:
        """The first tokens of it; None for all."""
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


OnEnd = Callable[[int, Generation], None]  # question's index, its answer


def prefill(engine: Engine, prompt: Prompt, features_MD: Features) -> Prefix:
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
    _, kv = engine.forward(
        prompt.ids[None],
        np.arange(num_tokens)[None],
        prefix_bias(prompt.is_visual)[None, None],
        engine.empty_kv(),
        visual_BSD=place_features(features_MD, prompt.patch_indices, num_tokens),
    )
    return Prefix(kv=kv, num_tokens=num_tokens, prefill_s=time.perf_counter() - started)


def generate(
    engine: Engine,
    prefix: Prefix,
    suffixes: Sequence[npt.NDArray[np.int64]],
    *,
    max_new_tokens: int | Sequence[int],
    guides: Sequence[Guide] | None = None,
    on_tokens: OnTokens | None = None,
    on_end: OnEnd | None = None,
    cancel: Callable[[int], bool] | None = None,
) -> list[Generation]:
    """Answer several questions about one clip at once, each as if it were asked alone.

    They are branches of one sequence: each sees the prefix and itself, and its positions go on from
    the prefix's end, so that its arithmetic is that of a question on its own. Nothing is padded,
    and the prefix is read and kept once.

    Args:
        engine: the model.
        prefix: what `prefill` made of the clip.
        suffixes: token ids of each question, from `<|im_start|>user` to the assistant's header.
        max_new_tokens: limit of every answer, or of each its own.
        guides: what is known of each answer; None for plain greedy decoding.
        on_tokens: called for each question after each pass, the ending token excepted.
        on_end: called for each question when its answer is over, while others are still written.
        cancel: asked before each step for each question that is still being answered; True ends
            that answer where it is.

    Raises:
        QueryError: no question, or one that leaves no room for an answer.
    """
    if not len(suffixes) or not all(map(len, suffixes)):
        raise QueryError(
            f"question lengths are {[len(s) for s in suffixes]} tokens, expected at least one"
        )
    if isinstance(max_new_tokens, int):
        max_new_tokens = [max_new_tokens] * len(suffixes)
    if min(max_new_tokens) < 1:
        raise QueryError(f"max_new_tokens is {min(max_new_tokens)}, expected at least 1")
    guides = [Guide()] * len(suffixes) if guides is None else guides
    answers = [
        _Answer(
            guide=guide,
            limit=min(limit, _check_room(engine, prefix.num_tokens + len(suffix))),
            question=suffix.tolist(),
            lead=suffix.tolist(),
        )
        for suffix, guide, limit in zip(suffixes, guides, max_new_tokens, strict=True)
    ]
    for first in range(0, len(answers), _MOST_BRANCHES):
        rows = range(first, min(first + _MOST_BRANCHES, len(answers)))
        _write(engine, prefix, answers, rows, on_tokens, on_end, cancel)
    return [answer.finish() for answer in answers]


def _write(
    engine: Engine,
    prefix: Prefix,
    answers: Sequence[_Answer],
    rows: Sequence[int],
    on_tokens: OnTokens | None,
    on_end: OnEnd | None,
    cancel: Callable[[int], bool] | None,
) -> None:
    """Write some of the answers to their end, as branches of one sequence.

    Where the cache has no room for all of them at once, the last ones wait for the others' end and
    are then read again as far as they were written.
    """
    eos_ids = engine.manifest.tokens.eos_ids
    kv = prefix.kv
    owner_P = np.zeros(0, np.int64)  # row of each token behind the prefix, -1 where none took it
    waiting: list[int] = []
    rows = list(rows)
    while True:
        for row in rows:
            answer = answers[row]
            if cancel is not None and not answer.is_done:
                answer.cancelled = cancel(row)
            if answer.is_done and on_end is not None:
                on_end(row, answer.finish())
        rows = [row for row in rows if not answers[row].is_done]
        if not rows:
            if not waiting:
                return
            rows, waiting = waiting, []
            continue
        rows, left_over, most_drafted = _share_room(engine, prefix, answers, rows, owner_P)
        waiting = left_over + waiting
        kept_P = np.isin(owner_P, rows)
        kept = np.append(np.arange(prefix.num_tokens), prefix.num_tokens + np.flatnonzero(kept_P))
        kv, owner_P = engine.keep_kv(kv, kept), owner_P[kept_P]
        branches = _Branches(rows, answers, most_drafted)
        logits_1LV, kv = engine.forward(
            branches.ids_S[None],
            (prefix.num_tokens + branches.positions(owner_P))[None],
            branches.bias(prefix.num_tokens, owner_P)[None, None],
            kv,
            logit_indices_L=branches.logit_indices,
        )
        for row in rows:
            tokens, probabilities = answers[row].read(*branches.of(row, logits_1LV[0]), eos_ids)
            branches.take(row, answers[row].path)
            if on_tokens is not None and tokens:
                on_tokens(row, tokens, probabilities, answers[row].is_done)
        owner_P = np.concatenate([owner_P, branches.owner_S])


def _share_room(
    engine: Engine,
    prefix: Prefix,
    answers: Sequence[_Answer],
    rows: list[int],
    owner_P: npt.NDArray[np.int64],
) -> tuple[list[int], list[int], int | None]:
    """What the cache has room for in the next pass.

    Returns:
        rows that go on, at least one; rows that must wait; tokens that each may draft, None for
        any number.
    """
    if engine.most_tokens is None:
        return rows, [], None
    room = engine.most_tokens - prefix.num_tokens
    num_taken = np.bincount(owner_P[owner_P >= 0], minlength=rows[-1] + 1)
    wanted = np.cumsum([num_taken[row] + len(answers[row].lead) for row in rows])
    count = max(1, int(np.searchsorted(wanted, room, side="right")))
    for row in rows[count:]:
        answers[row].begin_anew()
    return rows[:count], rows[count:], max(0, room - int(wanted[count - 1])) // count


class _Branches:
    """One pass: for each row what leads to its next token, and its draft behind that."""

    def __init__(
        self, rows: Sequence[int], answers: Sequence[_Answer], most_drafted: int | None
    ) -> None:
        leads = {row: answers[row].lead for row in rows}
        self._drafts = {row: answers[row].draft().cut(most_drafted) for row in rows}
        sizes = [len(leads[row]) + len(self._drafts[row].tokens) for row in rows]
        self.ids_S = np.zeros(sum(sizes), np.int64)
        self.owner_S = np.full(sum(sizes), -1)  # row that has taken the token
        self._row_S = np.repeat(rows, sizes)
        self._place_S = np.zeros(sum(sizes), np.int64)  # from the row's first new token on
        self._sees_SS = np.zeros((sum(sizes), sum(sizes)), np.bool_)
        self._drafted_at: dict[int, int] = {}
        end = 0
        for row in rows:
            start, end = end, end + len(leads[row])
            self.ids_S[start:end] = leads[row]
            self.owner_S[start:end] = row
            self._place_S[start:end] = np.arange(end - start)
            self._sees_SS[start:end, start:end] = np.tri(end - start, dtype=np.bool_)
            self._drafted_at[row] = first = end
            draft = self._drafts[row]
            end += len(draft.tokens)
            self.ids_S[first:end] = draft.tokens
            if draft.is_line:
                self._place_S[start:end] = np.arange(end - start)
                self._sees_SS[start:end, start:end] = np.tri(end - start, dtype=np.bool_)
                continue
            for place, parent in enumerate(draft.parents, first):
                self._place_S[place] = self._place_S[first + parent] + 1
                self._sees_SS[place] = self._sees_SS[first + parent]
                self._sees_SS[place, place] = True
        spans = [
            np.arange(self._drafted_at[row] - 1, self._drafted_at[row] + len(draft.tokens))
            for row, draft in self._drafts.items()
        ]
        self.logit_indices = np.concatenate(spans)  # each row's last leading token and its draft
        ends = np.cumsum([len(span) for span in spans])
        self._logits = {
            row: slice(end - len(span), end)
            for row, span, end in zip(rows, spans, ends, strict=True)
        }

    def positions(self, owner_P: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """[S] from the prefix's end on, behind what the row has taken of the past."""
        num_taken = np.bincount(owner_P[owner_P >= 0], minlength=self._row_S.max() + 1)
        positions_S: npt.NDArray[np.int64] = num_taken[self._row_S] + self._place_S
        return positions_S

    def bias(self, num_prefix: int, owner_P: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Additive mask, float32 [S, T]: prefix, the row's own past, and what leads to a token."""
        num_past = num_prefix + len(owner_P)
        bias_ST = np.zeros((len(self.ids_S), num_past + len(self.ids_S)), np.float32)
        bias_ST[:, num_prefix:num_past][self._row_S[:, None] != owner_P] = HIDDEN
        bias_ST[:, num_past:][~self._sees_SS] = HIDDEN
        return bias_ST

    def of(
        self, row: int, logits_LV: npt.NDArray[np.float32]
    ) -> tuple[Draft, npt.NDArray[np.float32]]:
        """A row's draft, and the logits after what leads to it and after each of its tokens."""
        return self._drafts[row], logits_LV[self._logits[row]]

    def take(self, row: int, path: Sequence[int]) -> None:
        """Keep the tokens of a draft that the row has taken over."""
        self.owner_S[self._drafted_at[row] + np.array(path, np.intp)] = row


@dataclass(slots=True, kw_only=True)
class _Answer:
    """One answer while it is being written."""

    guide: Guide
    limit: int
    question: list[int]
    lead: list[int]  # tokens that the next pass must read: the question, later the newest token
    ids: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    cancelled: bool = False
    ended: bool = False
    num_passes: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_followed: int = 0  # tokens that the automaton has seen
    path: list[int] = field(default_factory=list)  # of the last draft: what was taken over

    @property
    def truncated(self) -> bool:
        return not self.ended and len(self.ids) >= self.limit

    @property
    def is_done(self) -> bool:
        return self.cancelled or self.ended or self.truncated

    def begin_anew(self) -> None:
        """The cache no longer holds what was read of it."""
        self.lead = self.question + self.ids

    def draft(self) -> Draft:
        """What the next pass reads ahead, no more than could be written."""
        guide = self.guide
        room = min(guide.max_draft, self.limit - len(self.ids) - 1)
        draft = Draft()
        if guide.drafts is not None:
            draft = guide.drafts.draft(self.ids)
        if not draft.tokens and (automaton := self._automaton()) is not None:
            draft = Draft.line(automaton.forced())
        return draft.cut(room)

    def read(
        self, draft: Draft, logits_LV: npt.NDArray[np.float32], eos_ids: frozenset[int]
    ) -> tuple[list[int], list[float]]:
        """Write along the draft as far as the model agrees, and one token further.

        Returns:
            the tokens written and their probabilities.
        """
        if self.guide.constrained and (automaton := self._automaton()) is not None:
            legal_LV = [automaton.legal(), *automaton.legal_tree(draft.tokens, draft.parents)]
            logits_LV = np.where(legal_LV, logits_LV, -np.inf)
        chosen_L = logits_LV.argmax(-1)
        if self.guide.drafts is not None:
            self.guide.drafts.verified(self.ids, draft, chosen_L.tolist())
        children = {
            (parent, token): node
            for node, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True))
        }
        self.path = []
        node: int | None = _ROOT
        while node is not None:
            token = int(chosen_L[1 + node])
            if token in eos_ids:
                self.ended = True
                break
            node = children.get((node, token))
            if node is not None:
                self.path.append(node)
        read_at = [0, *(1 + node for node in self.path)][: len(self.path) + (not self.ended)]
        tokens = chosen_L[read_at].tolist()
        probabilities = _probabilities(logits_LV[read_at])
        self.num_passes += 1
        self.num_drafted += len(draft.tokens)
        self.num_accepted += len(self.path)
        self.ids += tokens
        self.probabilities += probabilities
        self.lead = self.ids[-1:]
        return tokens, probabilities

    def _automaton(self) -> Automaton | None:
        """The automaton where the answer stands; it follows only when it is asked."""
        automaton = self.guide.automaton
        if automaton is not None:
            for token in self.ids[self.num_followed :]:
                automaton.accept(token)
            self.num_followed = len(self.ids)
        return automaton

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
    most = engine.manifest.text.max_positions
    if engine.most_tokens is not None:
        most = min(most, engine.most_tokens)
    room = most - num_tokens
    if room < 1:
        raise QueryError(
            f"the prompt has {num_tokens} tokens, {engine.manifest.name} has room for {most} with "
            "the answer; ask about fewer frames"
        )
    return room
