"""The grammar of answers, byte by byte: what may follow what has been written.

    point   <points coords="GROUP;GROUP">LABEL</points>     There are none.
    count   Counting the <points ...>LABEL</points> shows a total of N.     or as point
    track   <tracks coords="GROUP;GROUP">LABEL</tracks>     There are none.
            No tracks available.     (nothing at all)

    GROUP = STAMP ID X Y ID X Y ...

STAMP is one of those that the answer may name, each later than the one before. X and Y are three
digits or 1000. The ids of points run 1, 2, 3 through the whole answer; the ids of a track ascend in
a group and each is one that was given before or the next new one. N is the number of points. LABEL
is any text without `<`, `>` and `"`: Molmo2 was trained to repeat the words of the question, but
which words these are is its own choice. A bare number and `There are 2 <points ...>.`, which
answers/text.py reads, too, are left out: the released models were not trained to write them, and
with them in, nothing would be certain after `There are`.

Every state leads to an end: points, and bytes of a label, are limited, far above what Molmo2 was
trained to write (60 points).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

from molmo2_ros.answers.text import NONE
from molmo2_ros.prompt.query import Query, QueryKind, label

MAX_POINTS = 256  # of an answer that points or counts
MAX_TRACK_POINTS = 1024
MIN_LABEL_BYTES = 256  # that every label may have; those asked for may have twice their own
_DIGITS = b"0123456789"
_FULL = b"1000"  # the only coordinate of four digits
_NOT_IN_LABELS = b'<>"'
LABEL_BYTES = bytes(sorted(set(range(256)) - set(_NOT_IN_LABELS)))
_CLIP_STAMP = re.compile(r"\d{1,6}\.\d", re.ASCII)
_IMAGE_NUMBER = re.compile(r"[1-9]\d{0,5}", re.ASCII)


class Place(IntEnum):
    """Where in an answer the next byte stands."""

    FREE = 0  # in no grammar: anything may follow
    OPENING = 1  # up to the first stamp, or in a phrase
    STAMP = 2
    ID = 3
    X = 4
    Y = 5
    BRACKET = 6  # between coordinates and label
    LABEL = 7
    CLOSING = 8  # behind the label's `<`
    OVER = 9  # behind the ending token


class State(NamedTuple):
    """All that decides what may follow, small and hashable; the digits of a point are not kept."""

    place: Place
    word: bytes = b""  # written of an opening, stamp, id, x or y; yet to be written of a closing
    stamp: int = -1  # index of the last group's
    num_points: int = 0
    num_ids: int = 0
    last_id: int = 0  # in this group
    label_bytes: int = 0
    counts: bool = False  # states a total


FREE = State(Place.FREE)
OVER = State(Place.OVER)
_END = State(Place.CLOSING)


class Language:
    """The answers that one kind of question may get about one clip.

    Args:
        kind: of the question, those in words excepted, which have no grammar.
        stamps: those that an answer may name, in rising order: seconds with one decimal, or 1-based
            image numbers. Frames whose stamps print alike are one.
        are_images: whether stamps are image numbers.
        max_label_bytes: limit of a label's length.

    Raises:
        ValueError: a stamp is none, or they do not rise.
    """

    def __init__(
        self, kind: QueryKind, stamps: Sequence[str], *, are_images: bool, max_label_bytes: int
    ) -> None:
        written = _IMAGE_NUMBER if are_images else _CLIP_STAMP
        for stamp in stamps:
            if not written.fullmatch(stamp):
                expected = "an image number such as '1'" if are_images else "seconds such as '0.5'"
                raise ValueError(f"stamp {stamp!r}, expected {expected}")
        distinct = list(dict.fromkeys(stamps))
        if any(float(later) <= float(earlier) for earlier, later in pairwise(distinct)):
            raise ValueError(f"stamps {distinct} do not rise")
        self.start = State(Place.OPENING)
        self.max_label_bytes = max_label_bytes
        self._is_track = kind is QueryKind.TRACK
        self._max_points = MAX_TRACK_POINTS if self._is_track else MAX_POINTS
        self._tag = b"tracks" if self._is_track else b"points"
        self._last_stamp = len(distinct) - 1
        self._stamps = {stamp.encode(): index for index, stamp in enumerate(distinct)}
        # Of each beginning the last stamp that starts so: it may be written as long as that may.
        self._starts = {
            stamp[:length]: index
            for stamp, index in self._stamps.items()
            for length in range(1, len(stamp) + 1)
        }
        self._phrases = self._whole_openings(kind)
        self._openings = {
            phrase[:length] for phrase in self._phrases for length in range(len(phrase))
        }
        self._step = {
            Place.OPENING: self._after_opening,
            Place.STAMP: self._after_stamp,
            Place.ID: self._after_id,
            Place.X: self._after_x,
            Place.Y: self._after_y,
            Place.BRACKET: self._after_bracket,
            Place.LABEL: self._after_label,
            Place.CLOSING: self._after_closing,
        }
        self._alphabets = {
            Place.OPENING: bytes(sorted(set(b"".join(self._phrases)))),
            Place.STAMP: _DIGITS + b". ",
            Place.ID: _DIGITS + b" ",
            Place.X: _DIGITS + b" ",
            Place.Y: _DIGITS + b' ;"',
            Place.BRACKET: b">",
        }

    def _whole_openings(self, kind: QueryKind) -> dict[bytes, State]:
        phrases = {NONE.encode(): _END}
        if self._is_track:
            phrases[b"No tracks available."] = _END
        if self._stamps:
            opening = b"<" + self._tag + b' coords="'
            phrases[opening] = State(Place.STAMP)
            if kind is QueryKind.COUNT:
                phrases[b"Counting the " + opening] = State(Place.STAMP, counts=True)
        return phrases

    def may_end(self, state: State) -> bool:
        """Whether an answer may end here."""
        return state == _END or (self._is_track and state == self.start)

    def step(self, state: State, byte: int) -> State | None:
        """The state after one more byte; None where it may not follow."""
        after = self._step.get(state.place)
        return after(state, byte) if after else None

    def run(self, state: State, text: bytes) -> State | None:
        """The state after more bytes; None where they may not follow."""
        for byte in text:
            after = self.step(state, byte)
            if after is None:
                return None
            state = after
        return state

    def following(self, state: State) -> bytes:
        """The bytes that may come next."""
        if state.place is Place.CLOSING:
            return state.word[:1]
        if state.place is Place.LABEL:
            inside = LABEL_BYTES if state.label_bytes < self.max_label_bytes else b""
            return inside + (b"<" if state.label_bytes else b"")
        alphabet = self._alphabets.get(state.place, b"")
        return bytes(byte for byte in alphabet if self.step(state, byte) is not None)

    def forced(self, state: State) -> tuple[bytes, State]:
        """The bytes of the only way on, up to the next choice or the end, and the state there."""
        text = bytearray()
        while not self.may_end(state):
            following = self.following(state)
            if len(following) != 1:
                break
            text += following
            after = self.step(state, following[0])
            assert after is not None
            state = after
        return bytes(text), state

    def _after_opening(self, state: State, byte: int) -> State | None:
        word = state.word + bytes((byte,))
        if word in self._openings:
            return State(Place.OPENING, word)
        return self._phrases.get(word)

    def _after_stamp(self, state: State, byte: int) -> State | None:
        if byte == ord(" "):
            index = self._stamps.get(state.word, -1)
            if index <= state.stamp:
                return None
            return state._replace(place=Place.ID, word=b"", stamp=index, last_id=0)
        word = state.word + bytes((byte,))
        return state._replace(word=word) if self._starts.get(word, -1) > state.stamp else None

    def _after_id(self, state: State, byte: int) -> State | None:
        # A point's id is always new: its number.
        lowest = state.last_id + 1 if self._is_track else state.num_points + 1
        highest = state.num_ids + 1
        if byte == ord(" "):
            object_id = int(state.word or b"0")
            if not lowest <= object_id <= highest:
                return None
            return state._replace(
                place=Place.X,
                word=b"",
                num_points=state.num_points + 1,
                num_ids=max(state.num_ids, object_id),
                last_id=object_id,
            )
        word = state.word + bytes((byte,))
        return state._replace(word=word) if _may_become(word, lowest, highest) else None

    def _after_x(self, state: State, byte: int) -> State | None:
        if byte == ord(" ") and len(state.word) >= 3:
            return state._replace(place=Place.Y, word=b"")
        return _with_digit(state, byte)

    def _after_y(self, state: State, byte: int) -> State | None:
        if len(state.word) >= 3:
            goes_on = state.num_points < self._max_points
            if byte == ord(" ") and goes_on:
                return state._replace(place=Place.ID, word=b"")
            if byte == ord(";") and goes_on and state.stamp < self._last_stamp:
                return state._replace(place=Place.STAMP, word=b"", last_id=0)
            if byte == ord('"'):
                total = state.num_points if state.counts else 0
                return State(Place.BRACKET, num_points=total, counts=state.counts)
        return _with_digit(state, byte)

    def _after_bracket(self, state: State, byte: int) -> State | None:
        return state._replace(place=Place.LABEL) if byte == ord(">") else None

    def _after_label(self, state: State, byte: int) -> State | None:
        if byte == ord("<"):
            if not state.label_bytes:
                return None
            total = b" shows a total of %d." % state.num_points if state.counts else b""
            return State(Place.CLOSING, b"/" + self._tag + b">" + total)
        if byte in _NOT_IN_LABELS or state.label_bytes == self.max_label_bytes:
            return None
        return state._replace(label_bytes=state.label_bytes + 1)

    def _after_closing(self, state: State, byte: int) -> State | None:
        return State(Place.CLOSING, state.word[1:]) if state.word[:1] == bytes((byte,)) else None


def label_room(query: Query) -> int:
    """Bytes that the label of an answer may have: room for the words asked for, twice."""
    return max(MIN_LABEL_BYTES, 2 * len(label(query).encode()))


def _may_become(word: bytes, lowest: int, highest: int) -> bool:
    """Whether digits start a number of a range, leading zeros left out.

    Worked example: `1` may become 12 of the range 5 to 12, `2` may not.
    """
    if not word.isdigit() or word.startswith(b"0"):
        return False
    first = last = int(word)
    while first <= highest:
        if last >= lowest:
            return True
        first, last = 10 * first, 10 * last + 9
    return False


def _with_digit(state: State, byte: int) -> State | None:
    """One more digit of a coordinate; only how it may go on is kept of its value."""
    word = state.word + bytes((byte,))
    if byte not in _DIGITS:
        return None
    if _FULL.startswith(word):
        return state._replace(word=word)
    return state._replace(word=b"2" * len(word)) if len(word) <= 3 else None
