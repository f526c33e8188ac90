"""The answer grammar token by token: what a tokenizer makes of the language of answers.

A token is legal where its bytes are, however many words it spans; so the model may also spell an
answer otherwise than the tokenizer would. Letters: V tokens that can be written, N of a draft.

Forced runs are spelt as the tokenizer would spell the whole answer. A byte-level BPE first splits
text into pieces and then merges within each, so a token is certain once its piece is: the run is
encoded together with what was written before it and with each kind of text that may follow it, and
of the result those tokens are kept that stand in whole pieces of the run, whatever follows. Where
the model has spelt what stands before in its own way, so that no token of the tokenizer's starts at
the run, the run is encoded on its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate, takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.answers.language import FREE, LABEL_BYTES, OVER, Language, Place, State, label_room
from molmo2_ros.prompt.query import Query, QueryKind
from molmo2_ros.prompt.tokenizer import PromptTokenizer

_MAX_LANGUAGES = 16  # kept at a time: one for each kind of question and window of stamps
_MAX_STATES = 4096  # of a language, of which legal tokens and forced runs are kept
_MAX_CONTEXT = 24  # tokens before a forced run with which it is encoded
_FEW = 16  # tokens with one beginning are tried one by one
_ASCII = bytes(range(128))
# One of each kind of character: how text is split into pieces depends on nothing else.
_LABEL_BEGINNINGS = (b"a", b"0", b" ", b"\n", b".", "\u00e9".encode())


class AnswerGrammar:
    """What depends on the tokenizer alone; build it once.

    Args:
        tokenizer: of the model.
        vocab_size: V, tokens that can be written; ids from here on can only be read.
        eos_ids: tokens that end an answer.
    """

    def __init__(
        self, tokenizer: PromptTokenizer, vocab_size: int, eos_ids: frozenset[int]
    ) -> None:
        self._vocabulary = _Vocabulary(tokenizer, vocab_size, eos_ids)
        self._languages: OrderedDict[
            tuple[QueryKind, tuple[str, ...], bool, int], _TokenLanguage
        ] = OrderedDict()

    def automaton(
        self, query: Query, stamps: Sequence[str], are_images: bool = False
    ) -> AnswerAutomaton:
        """An automaton for one answer.

        Args:
            query: the question; one in words has no grammar: everything is legal, nothing forced.
            stamps: those that the answer may name, in rising order: seconds with one decimal as
                printed in the prompt, for images their 1-based numbers. A track from a given point
                names only those after it.
            are_images: whether stamps are image numbers.

        Raises:
            ValueError: a stamp is none, or they do not rise.
        """
        if query.kind.is_in_words:
            return AnswerAutomaton(self._vocabulary)
        longest = label_room(query)
        key = (query.kind, tuple(stamps), are_images, longest)
        known = self._languages.pop(key, None)
        if known is None:
            language = Language(query.kind, stamps, are_images=are_images, max_label_bytes=longest)
            known = _TokenLanguage(self._vocabulary, language)
        self._languages[key] = known
        if len(self._languages) > _MAX_LANGUAGES:
            self._languages.popitem(last=False)
        return AnswerAutomaton(self._vocabulary, known)


class AnswerAutomaton:
    """Follows one answer token by token; made by `AnswerGrammar.automaton`."""

    def __init__(self, vocabulary: _Vocabulary, tokens: _TokenLanguage | None = None) -> None:
        self._vocabulary = vocabulary
        self._language = tokens
        self._states = [tokens.start if tokens else FREE]
        self._written: list[int] = []

    @property
    def state(self) -> State:
        """Where the answer stands."""
        return self._states[-1]

    def accept(self, token_id: int) -> bool:
        """Take the next token.

        Returns:
            False where it is not legal. Then the answer follows no grammar any more: everything is
            legal and nothing forced, until the token is rolled back.
        """
        after = self._after(self.state, token_id)
        self._states.append(FREE if after is None else after)
        self._written.append(token_id)
        return after is not None

    def legal(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come next, bool [V]: the ending ones where the answer may end."""
        legal_V = np.zeros(self._vocabulary.size, np.bool_)
        self._mark_legal(self.state, legal_V)
        return legal_V

    def legal_tree(self, tokens: Sequence[int], parents: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Which tokens may come after each token of a draft; the answer stays where it is.

        Args:
            tokens: of the draft.
            parents: index of the token before each, or -1 for the answer so far; parents[i] < i.

        Returns:
            bool [N, V]; a row behind an illegal token is all True, as after `accept`.
        """
        legal_NV = np.zeros((len(tokens), self._vocabulary.size), np.bool_)
        states: list[State] = []
        for row_V, token, parent in zip(legal_NV, tokens, parents, strict=True):
            after = self._after(states[parent] if parent >= 0 else self.state, token)
            states.append(FREE if after is None else after)
            self._mark_legal(states[-1], row_V)
        return legal_NV

    def forced(self) -> tuple[int, ...]:
        """The tokens of the only legal way on, as the tokenizer would write the whole answer.

        They end before the next choice, and before a token that could merge with what is chosen.
        The ending token is never among them: the pass that reads them gives it.
        """
        if self._language is None:
            return ()
        return self._language.forced(self.state, self._written)

    def rollback(self, num_tokens: int) -> None:
        """Take the last tokens back.

        Raises:
            ValueError: there are fewer.
        """
        if not 0 <= num_tokens <= len(self._written):
            raise ValueError(f"{num_tokens} tokens to take back, {len(self._written)} were taken")
        if num_tokens:
            del self._states[-num_tokens:]
            del self._written[-num_tokens:]

    def _after(self, state: State, token_id: int) -> State | None:
        if self._language is None or state is FREE:
            return FREE
        return self._language.after(state, token_id)

    def _mark_legal(self, state: State, row_V: npt.NDArray[np.bool_]) -> None:
        if self._language is None or state is FREE:
            row_V[:] = True
        else:
            self._language.mark_legal(state, row_V)


class _Vocabulary:
    """The bytes of each token, and what the grammar asks about them again and again."""

    def __init__(
        self, tokenizer: PromptTokenizer, vocab_size: int, eos_ids: frozenset[int]
    ) -> None:
        if not all(0 <= token < vocab_size for token in eos_ids):
            raise ValueError(
                f"ending tokens {sorted(eos_ids)} cannot all be written, expected ids below "
                f"{vocab_size}"
            )
        written = tokenizer.token_bytes()[:vocab_size]
        self.tokenizer = tokenizer
        self.size = vocab_size
        self.eos_ids = eos_ids
        self.eos_indices = np.array(sorted(eos_ids), np.int64)
        self.bytes_of = written + [b""] * (vocab_size - len(written))
        with_bytes = [(text, token) for token, text in enumerate(self.bytes_of) if text]
        self.sorted_bytes, self.sorted_ids = zip(*sorted(with_bytes), strict=True)
        self.longest = max(map(len, self.sorted_bytes))
        # How many bytes of a label each token writes, and whether the label may go on after it.
        self.label_bytes_V = np.zeros(vocab_size, np.int16)
        self.within_label_V = np.zeros(vocab_size, np.bool_)
        self.closings: dict[bytes, list[int]] = {}  # tokens by what stands from the `<` on
        for text, token in zip(self.sorted_bytes, self.sorted_ids, strict=True):
            rest = text.lstrip(LABEL_BYTES)
            self.label_bytes_V[token] = len(text) - len(rest)
            self.within_label_V[token] = not rest
            if rest.startswith(b"<"):
                self.closings.setdefault(rest, []).append(token)
        # Then what is legal inside a coordinate depends on nothing but its digits.
        self.digits_stand_alone = not any(
            text[:1].isdigit() and not text.isdigit() for text in self.sorted_bytes
        )


class _TokenLanguage:
    """One language of answers, lifted from bytes to tokens."""

    def __init__(self, vocabulary: _Vocabulary, language: Language) -> None:
        self._vocabulary = vocabulary
        self._language = language
        self._legal: dict[State, npt.NDArray[np.int64]] = {}
        self._runs: dict[State, tuple[bytes, tuple[bytes, ...]]] = {}

    @property
    def start(self) -> State:
        """Before an answer's first token."""
        return self._language.start

    def after(self, state: State, token_id: int) -> State | None:
        """The state after a token; None where it is not legal."""
        if token_id in self._vocabulary.eos_ids:
            return OVER if self._language.may_end(state) else None
        known = 0 <= token_id < self._vocabulary.size
        text = self._vocabulary.bytes_of[token_id] if known else b""
        return self._language.run(state, text) if text else None

    def mark_legal(self, state: State, legal_V: npt.NDArray[np.bool_]) -> None:
        """Set the legal tokens in a row of False."""
        if state.place is Place.LABEL:
            room = self._language.max_label_bytes - state.label_bytes
            legal_V[:] = self._vocabulary.within_label_V
            if room < self._vocabulary.longest:
                legal_V &= self._vocabulary.label_bytes_V <= room
        key = self._as_legal(state)
        if key not in self._legal:
            search = self._closings if state.place is Place.LABEL else self._search
            _make_room(self._legal)
            self._legal[key] = np.fromiter(search(key), np.int64)
        legal_V[self._legal[key]] = True
        if self._language.may_end(state):
            legal_V[self._vocabulary.eos_indices] = True

    def _as_legal(self, state: State) -> State:
        """A state in which the same tokens are legal, one for as many states as possible."""
        if state.place is Place.LABEL:
            far_from_limit = self._language.max_label_bytes - self._vocabulary.longest
            if 0 < state.label_bytes <= far_from_limit:
                return state._replace(label_bytes=1)
            return state
        in_coordinate = state.place in (Place.X, Place.Y) and len(state.word) < 3
        if in_coordinate and self._vocabulary.digits_stand_alone:
            return State(state.place, state.word)
        return state

    def _search(self, state: State) -> Iterator[int]:
        """The tokens whose bytes may follow.

        Sorted by their bytes, tokens with one beginning stand side by side: a trie that takes no
        memory. Each range is divided by the bytes that may come next.
        """
        sorted_bytes, sorted_ids = self._vocabulary.sorted_bytes, self._vocabulary.sorted_ids
        ranges = [(0, len(sorted_ids), b"", state)]
        while ranges:
            low, high, prefix, at = ranges.pop()
            if high - low <= _FEW or at.place is Place.LABEL:
                for index in range(low, high):
                    if self._language.run(at, sorted_bytes[index][len(prefix) :]) is not None:
                        yield sorted_ids[index]
                continue
            if sorted_bytes[low] == prefix:
                yield sorted_ids[low]
                low += 1
            for byte in self._language.following(at):
                first = bisect_left(sorted_bytes, prefix + bytes((byte,)), low, high)
                past = bisect_left(sorted_bytes, prefix + bytes((byte + 1,)), first, high)
                after = self._language.step(at, byte)
                if first < past and after is not None:
                    ranges.append((first, past, prefix + bytes((byte,)), after))

    def _closings(self, state: State) -> Iterator[int]:
        """The tokens that may end a label; those that stay in it are too many to search for."""
        room = self._language.max_label_bytes - state.label_bytes
        least = 0 if state.label_bytes else 1  # a label has at least one byte
        for rest, tokens in self._vocabulary.closings.items():
            if self._language.run(state._replace(label_bytes=1), rest) is not None:
                for token in tokens:
                    if least <= self._vocabulary.label_bytes_V[token] <= room:
                        yield token

    def forced(self, state: State, written: Sequence[int]) -> tuple[int, ...]:
        """The tokens of the only way on.

        Args:
            state: where the answer stands.
            written: its tokens so far.
        """
        if state not in self._runs:
            _make_room(self._runs)
            self._runs[state] = self._run_and_continuations(state)
        run, continuations = self._runs[state]
        if not run:
            return ()
        context = b"".join(self._vocabulary.bytes_of[token] for token in written[-_MAX_CONTEXT:])
        context = context[len(context.rstrip(_ASCII)) :]  # it may begin inside a character
        tokens, ends = self._certain(context + run, continuations)
        if ends[-1] > len(context) and len(context) not in ends:
            tokens, ends = self._certain(run, continuations)
            context = b""
        if len(context) not in ends:
            return ()
        return tokens[ends.index(len(context)) :]

    def _run_and_continuations(self, state: State) -> tuple[bytes, tuple[bytes, ...]]:
        """The bytes of the only way on, and one text for each kind of character behind them."""
        run, after = self._language.forced(state)
        if not run:
            return b"", ()
        if after.place is Place.LABEL:
            return run, _LABEL_BEGINNINGS
        if self._language.may_end(after):
            return run, (b"",)
        continuations = []
        for byte in _one_digit(self._language.following(after)):
            chosen = self._language.step(after, byte)
            assert chosen is not None
            continuations.append(bytes((byte,)) + self._language.forced(chosen)[0])
        return run, tuple(continuations)

    def _certain(
        self, text: bytes, continuations: Sequence[bytes]
    ) -> tuple[tuple[int, ...], list[int]]:
        """The tokens of a text that are the same whatever follows, and where they start and end."""
        spellings = [self._whole_pieces(text, continuation) for continuation in continuations]
        columns = takewhile(lambda column: len(set(column)) == 1, zip(*spellings, strict=False))
        tokens = tuple(column[0] for column in columns)
        lengths = (len(self._vocabulary.bytes_of[token]) for token in tokens)
        return tokens, list(accumulate(lengths, initial=0))

    def _whole_pieces(self, text: bytes, continuation: bytes) -> list[int]:
        """The tokens of a text in those pieces that do not reach into what follows it."""
        tokens: list[int] = []
        end = 0
        for piece in self._vocabulary.tokenizer.encode_pieces((text + continuation).decode()):
            end += sum(len(self._vocabulary.bytes_of[token]) for token in piece)
            if end > len(text):
                break
            tokens += piece
        return tokens


def _one_digit(following: bytes) -> bytes:
    """The bytes with only the first of their digits."""
    digits = [byte for byte in following if bytes((byte,)).isdigit()]
    return bytes(byte for byte in following if byte not in digits[1:])


def _make_room(kept: dict[State, Any]) -> None:
    if len(kept) >= _MAX_STATES:
        kept.clear()
