"""The answer while it is being written: text, characters of each token, and the points so far.

An engine of this machine writes tokens (AnswerWriter). A server sends text, with the tokens'
probabilities where it gives them (AnswerListener). What is made of either is the same.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from molmo2_ros.answers.answer import Answer, Timing, read_answer
from molmo2_ros.answers.confidence import WrittenToken
from molmo2_ros.answers.language import Language, State, label_room
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import Query
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import Automaton
from molmo2_ros.runtime.manifest import CalibrationFacts

# An answer off its grammar that is longer than this, and so many tokens for each of its points,
# will hardly come to an end: a point with its stamp takes fewer, and so does an excuse in words.
LOST_TOKENS, TOKENS_A_POINT = 128, 20
TOKENS_A_PART = 4  # of an answer in words, from one partial answer to the next
_POINT = r"(?:^|[^\d.])\d{1,4} +\d{3,4} +\d{3,4}"
_POINT_END = re.compile(_POINT + r"\D?$")
_POINT_WITHIN = re.compile(_POINT)
_TAIL = 24  # characters, as many as a point has

OnPartial = Callable[[Answer], None]  # the answer so far: one more point, or some more words


class Written(Protocol):
    """An answer's text, however it came."""

    tokens: list[WrittenToken]  # those whose probability is known

    @property
    def text(self) -> str:
        """All of it so far."""
        ...

    @property
    def may_end_point(self) -> bool:
        """Whether what came last may have completed a point: then it is worth reading."""
        ...


class WrittenText:
    """Turns tokens into text one by one, holding back those that end inside a character."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held: list[float] = []  # probabilities of tokens since the last whole character
        self._parts: list[str] = []
        self._tail = ""
        self._start = self._length = 0  # of what the held tokens write, and the end so far
        self.tokens: list[WrittenToken] = []

    @property
    def text(self) -> str:
        """All characters so far, as `PromptTokenizer.decode` gives them.

        Bytes that never became one are U+FFFD, those of a character that has only begun too.
        """
        begun, _ = self._decoder.getstate()
        return "".join(self._parts) + begun.decode("utf-8", "replace")

    @property
    def may_end_point(self) -> bool:
        """Whether the text just written may have completed a point: then it is worth reading."""
        return _POINT_END.search(self._tail) is not None

    def append(self, token_id: int, probability: float) -> None:
        """Add a token.

        Args:
            token_id: control tokens add no character.
            probability: that the model gave it, 0..1.
        """
        added = self._decoder.decode(self._tokenizer.bytes_of(token_id))
        self._parts.append(added)
        self._tail = (self._tail + added)[-_TAIL:]
        self._length += len(added)
        self._held.append(probability)
        begun, _ = self._decoder.getstate()
        if begun:
            return
        self.tokens.extend(
            WrittenToken(start=self._start, end=self._length, probability=held)
            for held in self._held
        )
        self._held.clear()
        self._start = self._length


class HeardText:
    """Text that comes in pieces, with the tokens of which a piece was made where they are known."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._tail = ""  # what stood before the piece that came last
        self._length = 0
        self.tokens: list[WrittenToken] = []

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self._parts)

    @property
    def may_end_point(self) -> bool:
        """Whether the piece that came last may have completed a point, somewhere within it."""
        around = self._tail + (self._parts[-1] if self._parts else "")
        if _POINT_END.search(around):
            return True
        return any(m.end() > len(self._tail) for m in _POINT_WITHIN.finditer(around))

    def append(self, piece: str, tokens: Sequence[tuple[str, float]]) -> None:
        """Add a piece.

        Args:
            piece: any length.
            tokens: text and probability of each; texts that do not add up to the piece (halves of a
                character, control tokens) are taken to span all of it.
        """
        adds_up = "".join(text for text, _ in tokens) == piece
        start = self._length
        for text, probability in tokens:
            end = start + len(text) if adds_up else self._length + len(piece)
            self.tokens.append(WrittenToken(start=start, end=end, probability=probability))
            start = end if adds_up else start
        self._tail = (self._tail + (self._parts[-1] if self._parts else ""))[-_TAIL:]
        self._parts.append(piece)
        self._length += len(piece)


class AnswerReader:
    """Reads one answer as it grows.

    Args:
        written: what there is of it; whoever fills it calls `look` afterwards.
        query: what was asked.
        frames: those shown, as in `read_answer`.
        are_images: as in `read_answer`.
        calibration: as in `read_answer`.
        on_partial: gets the answer so far with each further point, or some more words.
    """

    def __init__(
        self,
        written: Written,
        query: Query,
        frames: Sequence[Frame],
        *,
        are_images: bool,
        calibration: CalibrationFacts | None,
        on_partial: OnPartial | None,
    ) -> None:
        self._written = written
        self._query = query
        self._frames = frames
        self._are_images = are_images
        self._calibration = calibration
        self._on_partial = on_partial
        self._has_strayed = False
        self._num_points = 0
        self._num_told = 0  # tokens of an answer in words that listeners know of
        #: The model has lost the thread: what it goes on to write is not worth its time.
        self.is_degenerate = False

    def look(self, num_tokens: int, *, may_end_point: bool, follows: Callable[[], bool]) -> None:
        """Look at what has been written.

        Args:
            num_tokens: of it.
            may_end_point: whether a point may have been completed since the last look.
            follows: whether all of it follows the grammar of answers; asked of long answers only.
        """
        if may_end_point:
            so_far = self._read(partial=True)
            self.is_degenerate = so_far.degenerate
            is_news = len(so_far.points) > self._num_points
            self._num_points = len(so_far.points)
            if is_news and self._on_partial is not None:
                self._on_partial(so_far)
        if self._query.kind.is_in_words and num_tokens >= self._num_told + TOKENS_A_PART:
            self._num_told = num_tokens
            if self._on_partial is not None:
                self._on_partial(self._read(partial=True))
        is_long = num_tokens > LOST_TOKENS + TOKENS_A_POINT * self._num_points
        self._has_strayed = is_long and not follows()
        self.is_degenerate = self.is_degenerate or self._has_strayed

    def finish(
        self, num_tokens: int, *, truncated: bool, cancelled: bool, timing: Timing
    ) -> Answer:
        """The answer with all that was written.

        Args:
            num_tokens: of it.
            truncated: the token limit cut it off.
            cancelled: it was ended before its end.
            timing: what it cost.
        """
        answer = self._read(truncated=truncated or cancelled, timing=timing)
        if self._has_strayed:
            problem = f"follows no grammar after {num_tokens} tokens"
            answer = replace(answer, degenerate=True, problems=(*answer.problems, problem))
        if not cancelled:
            return answer
        why = "stopped, as the model had lost the thread" if self.is_degenerate else "cancelled"
        return replace(answer, problems=(*answer.problems, f"{why} before its end"))

    def _read(
        self, *, partial: bool = False, truncated: bool = False, timing: Timing | None = None
    ) -> Answer:
        return read_answer(
            self._query,
            self._written.text,
            self._frames,
            are_images=self._are_images,
            tokens=self._written.tokens,
            calibration=self._calibration,
            partial=partial,
            truncated=truncated,
            timing=timing,
        )


class AnswerWriter:
    """Reads one answer token by token.

    Args:
        tokenizer: the model's.
        query: what was asked.
        frames: those shown, as in `read_answer`.
        are_images: as in `read_answer`.
        calibration: as in `read_answer`.
        automaton: follows the answer's grammar; None where it has none.
        on_partial: gets the answer so far with each further point, or some more words.
    """

    def __init__(
        self,
        tokenizer: PromptTokenizer,
        query: Query,
        frames: Sequence[Frame],
        *,
        are_images: bool = False,
        calibration: CalibrationFacts | None = None,
        automaton: Automaton | None = None,
        on_partial: OnPartial | None = None,
    ) -> None:
        self._written = WrittenText(tokenizer)
        self._reader = AnswerReader(
            self._written,
            query,
            frames,
            are_images=are_images,
            calibration=calibration,
            on_partial=on_partial,
        )
        self._automaton = automaton
        self._ids: list[int] = []
        self._num_followed = 0  # of these: tokens that the automaton has seen
        self._is_off_grammar = False

    @property
    def is_degenerate(self) -> bool:
        """The model has lost the thread: what it goes on to write is not worth its time."""
        return self._reader.is_degenerate

    def append(self, ids: Sequence[int], probabilities: Sequence[float], is_last: bool) -> None:
        """Add tokens, and look at the points that they complete unless `finish` follows at once."""
        may_end_point = False
        for token_id, probability in zip(ids, probabilities, strict=True):
            self._written.append(token_id, probability)
            may_end_point = may_end_point or self._written.may_end_point
        self._ids += ids
        if not is_last:
            self._reader.look(len(self._ids), may_end_point=may_end_point, follows=self._follows)

    def _follows(self) -> bool:
        if self._automaton is not None and not self._is_off_grammar:
            ahead, self._num_followed = self._ids[self._num_followed :], len(self._ids)
            self._is_off_grammar = not all(map(self._automaton.accept, ahead))
        return not self._is_off_grammar

    def finish(self, *, truncated: bool, cancelled: bool, timing: Timing) -> Answer:
        """The answer with all that was written (see AnswerReader.finish)."""
        return self._reader.finish(
            len(self._ids), truncated=truncated, cancelled=cancelled, timing=timing
        )


class AnswerListener:
    """Reads one answer piece by piece, without a tokenizer.

    Args:
        query: what was asked.
        frames: those shown, as in `read_answer`.
        stamps: that the answer may name, as in `AnswerGrammar.automaton`.
        are_images: as in `read_answer`.
        calibration: as in `read_answer`.
        on_partial: gets the answer so far with each further point, or some more words.
    """

    def __init__(
        self,
        query: Query,
        frames: Sequence[Frame],
        stamps: Sequence[str],
        *,
        are_images: bool = False,
        calibration: CalibrationFacts | None = None,
        on_partial: OnPartial | None = None,
    ) -> None:
        self._heard = HeardText()
        self._reader = AnswerReader(
            self._heard,
            query,
            frames,
            are_images=are_images,
            calibration=calibration,
            on_partial=on_partial,
        )
        self._language: Language | None = None
        if not query.kind.is_in_words:
            self._language = Language(
                query.kind, stamps, are_images=are_images, max_label_bytes=label_room(query)
            )
        self._state: State | None = self._language.start if self._language else None
        self._ahead: list[str] = []  # pieces that the language has not seen
        self.num_tokens = 0  # at least: a server may send several as one piece

    @property
    def is_degenerate(self) -> bool:
        """The model has lost the thread: what it goes on to write is not worth its time."""
        return self._reader.is_degenerate

    def append(self, piece: str, tokens: Sequence[tuple[str, float]] = ()) -> None:
        """Add what was sent, and look at the points that it completes.

        Args:
            piece: of the answer's text.
            tokens: text and probability of each of its tokens, where the server gives them.
        """
        self._heard.append(piece, tokens)
        self._ahead.append(piece)
        self.num_tokens += max(len(tokens), 1)
        self._reader.look(
            self.num_tokens, may_end_point=self._heard.may_end_point, follows=self._follows
        )

    def _follows(self) -> bool:
        if self._language is None:
            return True
        if self._state is not None:
            self._state = self._language.run(self._state, "".join(self._ahead).encode())
        self._ahead.clear()
        return self._state is not None

    def finish(self, *, truncated: bool, cancelled: bool, timing: Timing) -> Answer:
        """The answer with all that was sent (see AnswerReader.finish)."""
        return self._reader.finish(
            self.num_tokens, truncated=truncated, cancelled=cancelled, timing=timing
        )
