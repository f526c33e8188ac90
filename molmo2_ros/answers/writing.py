"""The answer while it is being written: text, and which characters each token added."""

from __future__ import annotations

import re

from molmo2_ros.answers.confidence import WrittenToken
from molmo2_ros.prompt.tokenizer import PromptTokenizer

_UNFINISHED = "\ufffd"  # what bytes that are not yet a whole character decode to
_MAX_HELD = 4  # no character has more bytes
_POINT_END = re.compile(r"(?:^|[^\d.])\d{1,4} +\d{3,4} +\d{3,4}\D?$")


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
