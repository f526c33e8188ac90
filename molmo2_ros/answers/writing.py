"""The answer while it is being written: text, characters of each token, and the points so far."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from molmo2_ros.answers.answer import Answer, Timing, read_answer
from molmo2_ros.answers.confidence import WrittenToken
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import Query
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import Automaton
from molmo2_ros.runtime.manifest import CalibrationFacts

_UNFINISHED = "\ufffd"  # what bytes that are not yet a whole character decode to
_MAX_HELD = 4  # no character has more bytes
# An answer off its grammar that is longer than this, and so many tokens for each of its points,
# will hardly come to an end: a point with its stamp takes fewer, and so does an excuse in words.
LOST_TOKENS, TOKENS_A_POINT = 128, 20
_POINT_END = re.compile(r"(?:^|[^\d.])\d{1,4} +\d{3,4} +\d{3,4}\D?$")

OnPartial = Callable[[Answer], None]  # the answer so far, whenever a further point is complete


class WrittenText:
    """Turns tokens into text one by one, holding back those that end inside a character."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: list[tuple[int, float]] = []
        self._parts: list[str] = []
        self._tail = ""
        self._length = 0
        self.tokens: list[WrittenToken] = []

    @property
    def text(self) -> str:
        """All whole characters so far; bytes that never became one are U+FFFD."""
        return "".join(self._parts) + self._tokenizer.decode([held[0] for held in self._held])

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
        self._held.append((token_id, probability))
        if len(self._held) == 1:
            added = self._tokenizer.decode_one(token_id)
        else:
            added = self._tokenizer.decode([held[0] for held in self._held])
        if added.endswith(_UNFINISHED) and len(self._held) < _MAX_HELD:
            return
        end = self._length + len(added)
        self.tokens.extend(
            WrittenToken(start=self._length, end=end, probability=probability)
            for _, probability in self._held
        )
        self._held.clear()
        self._parts.append(added)
        self._tail = (self._tail + added)[-24:]
        self._length = end


class AnswerWriter:
    """Reads one answer as it is written.

    Args:
        tokenizer: the model's.
        query: what was asked.
        frames: those shown, as in `read_answer`.
        are_images: as in `read_answer`.
        calibration: as in `read_answer`.
        automaton: follows the answer's grammar; None where it has none.
        on_partial: gets the answer so far whenever a further point is complete.
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
        self._query = query
        self._frames = frames
        self._are_images = are_images
        self._calibration = calibration
        self._on_partial = on_partial
        self._automaton = automaton
        self._ids: list[int] = []
        self._num_followed = 0  # of these: tokens that the automaton has seen
        self._is_off_grammar = False
        self._has_strayed = False
        self._num_points = 0
        #: The model has lost the thread: what it goes on to write is not worth its time.
        self.is_degenerate = False

    def append(self, ids: Sequence[int], probabilities: Sequence[float], is_last: bool) -> None:
        """Add tokens, and look at the points that they complete unless `finish` follows at once."""
        may_end_point = False
        for token_id, probability in zip(ids, probabilities, strict=True):
            self._written.append(token_id, probability)
            may_end_point = may_end_point or self._written.may_end_point
        self._ids += ids
        if is_last:
            return
        if may_end_point:
            so_far = self._read(partial=True)
            self.is_degenerate = so_far.degenerate
            is_news = len(so_far.points) > self._num_points
            self._num_points = len(so_far.points)
            if is_news and self._on_partial is not None:
                self._on_partial(so_far)
        self._has_strayed = self._strays()
        self.is_degenerate = self.is_degenerate or self._has_strayed

    def _strays(self) -> bool:
        """Whether the model writes on and on what can hardly be read."""
        if len(self._ids) <= LOST_TOKENS + TOKENS_A_POINT * self._num_points:
            return False
        if self._automaton is not None and not self._is_off_grammar:
            ahead, self._num_followed = self._ids[self._num_followed :], len(self._ids)
            self._is_off_grammar = not all(map(self._automaton.accept, ahead))
        return self._is_off_grammar

    def finish(self, *, truncated: bool, cancelled: bool, timing: Timing) -> Answer:
        """The answer with all that was written.

        Args:
            truncated: the token limit cut it off.
            cancelled: it was ended before its end.
            timing: what it cost.
        """
        answer = self._read(truncated=truncated or cancelled, timing=timing)
        if self._has_strayed:
            problem = f"follows no grammar after {len(self._ids)} tokens"
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
