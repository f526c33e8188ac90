"""What the next answer will probably say: the last one with its stamps moved on.

A robot asks the same question of a sliding window. Frames that stay keep their points, the newest
frame's are carried there by optical flow, and the words round them stay as they were. Where the
model differs, the rest is foreseen anew from what it wrote; and since a pass over a draft tells
what the model would have written at every later place too, all of its wrong digits are mended at
once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from molmo2_ros.answers.answer import Answer, point_stamp_ns
from molmo2_ros.answers.text import NONE
from molmo2_ros.prompt.query import Query, QueryKind, label
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import Draft

Places = Mapping[int, tuple[float, float]]  # by object id: x, y in 0..1
# Moves places of the last answer's newest frame to a later one, given its stamp in nanoseconds.
Carry = Callable[[Places, int], Places]

_OPENINGS = ('<tracks coords="', '<points coords="', 'Counting the <points coords="')
_COORDS = re.compile(r'coords="([^"<]*)')
_TOTAL = re.compile(r"(?<=a total of )\d+")
_LONGEST_ECHO, _SHORTEST_ECHO = 6, 2  # tokens by which a place in the last answer is recognised
_SHORTEST_REPEATED = 8  # tokens
_MIDDLE = 500  # thousandths: where an object is taken to be of which nothing is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """An answer before it is written."""

    opening: str  # up to its first stamp: `<tracks coords="`
    stamps: tuple[str, ...]  # of the frames that it may name, as printed
    points: Mapping[str, Mapping[int, tuple[int, int]]] = field(default_factory=dict)
    """By stamp and object id: x, y in thousandths of the frame."""
    closing: str = ""  # from the quote on: `">red mug</tracks>`
    step: int = 1  # of the numbers that the model writes: 10 where it writes tens only


def foresee_first(query: Query, stamps: Sequence[str]) -> Foreseen | None:
    """The form of a first answer: one object, nobody knows where.

    A track shows it in every frame; a point is written once.

    Args:
        query: what will be asked.
        stamps: of the frames that an answer may name, as printed.

    Returns:
        None for questions in words.
    """
    if query.kind.is_in_words:
        return None
    is_track = query.kind is QueryKind.TRACK
    tag = "tracks" if is_track else "points"
    is_count = query.kind is QueryKind.COUNT
    return Foreseen(
        opening=f'{"Counting the " if is_count else ""}<{tag} coords="',
        stamps=tuple(stamps),
        points={stamp: {1: (_MIDDLE, _MIDDLE)} for stamp in stamps[: None if is_track else 1]},
        closing=f'">{label(query)}</{tag}>' + (" shows a total of 1." if is_count else ""),
    )


def foresee(
    answer: Answer, stamps: Sequence[str], stamps_ns: Sequence[int], carry: Carry
) -> Foreseen | None:
    """The next answer to a question, from the last one.

    Args:
        answer: the last one, whole.
        stamps: of the frames that will be asked about, as printed.
        stamps_ns: of the same frames.
        carry: moves points from the last answer's newest frame to a newer one.

    Returns:
        None for questions in words; the form alone where the last answer was cut off.
    """
    first = foresee_first(answer.query, stamps)
    coords = _COORDS.search(answer.text)
    if first is None or answer.truncated:
        return first
    if coords is None:
        return replace(first, opening=answer.text) if answer.none else first
    points = _moved_on(answer, stamps, stamps_ns, carry)
    written = [number for p in answer.points for number in (p.x, p.y)]
    step = 10 if all(round(1000 * number) % 10 == 0 for number in written) else 1
    foreseen = _as_written(points, step)
    return Foreseen(
        opening=answer.text[: coords.start(1)],
        stamps=first.stamps,
        points=foreseen if any(foreseen.values()) else first.points,
        closing=answer.text[coords.end(1) :],
        step=step,
    )


def _moved_on(
    answer: Answer, stamps: Sequence[str], stamps_ns: Sequence[int], carry: Carry
) -> dict[str, Places]:
    """The answer's places by the stamps of the next clip."""
    before = _by_frame(answer)
    newest_ns = answer.stamps_ns[-1]
    last_seen = before.get(newest_ns, {})
    # A point is written once: it leaves its frame only where that is asked about no more.
    moves_on = bool(last_seen) and (answer.is_track or newest_ns not in stamps_ns)
    points: dict[str, Places] = {}
    for stamp, stamp_ns in zip(stamps, stamps_ns, strict=True):
        if stamp_ns <= newest_ns:
            points[stamp] = before.get(stamp_ns, {})
        else:
            points[stamp] = carry(last_seen, stamp_ns) if moves_on else {}
            moves_on = moves_on and answer.is_track
    return points


def _by_frame(answer: Answer) -> dict[int, dict[int, tuple[float, float]]]:
    """The answer's places by the stamp of the frame that they belong to, and object id."""
    places: dict[int, dict[int, tuple[float, float]]] = {}
    for point in answer.points:
        frame = places.setdefault(point_stamp_ns(answer, point), {})
        frame[point.object_id] = (point.x, point.y)
    return places


def _as_written(points: Mapping[str, Places], step: int) -> dict[str, dict[int, tuple[int, int]]]:
    """Thousandths, and ids by first sight from left to right, as they are written."""
    ids: dict[int, int] = {}
    written: dict[str, dict[int, tuple[int, int]]] = {}
    for stamp, places in points.items():
        for old_id in sorted(places.keys() - ids.keys(), key=lambda i: places[i]):
            ids[old_id] = len(ids) + 1
        written[stamp] = {
            ids[old_id]: (_thousandths(x, step), _thousandths(y, step))
            for old_id, (x, y) in sorted(places.items(), key=lambda item: ids[item[0]])
        }
    return written


def _thousandths(value: float, step: int) -> int:
    return min(max(step * round(1000 * value / step), 0), 1000 - step)


class AnswerDraft:
    """Drafts one answer while it is being written; a `DraftSource`.

    Args:
        tokenizer: the model's.
        foreseen: what the answer will probably say.
    """

    def __init__(self, tokenizer: PromptTokenizer, foreseen: Foreseen) -> None:
        self._tokenizer = tokenizer
        self._foreseen = foreseen
        self._points = {stamp: dict(points) for stamp, points in foreseen.points.items()}
        self._current_id = 0  # of the point that is being written, or comes next; 0 in a track

    def draft(self, written: Sequence[int]) -> Draft:
        """See DraftSource.draft."""
        written = list(written)
        text = self._tokenizer.decode(written)
        rest = self._rest(text)
        tokens = self._tokenizer.encode_text(text + rest)
        if tokens[: len(written)] == written:
            return Draft.line(tokens[len(written) :])
        return Draft.line(self._tokenizer.encode_text(rest))  # the model spells it in its own way

    def verified(self, written: Sequence[int], draft: Draft, chosen: Sequence[int]) -> None:
        """Mend each foreseen number at the first digit that the model would write otherwise.

        See DraftSource.verified. What the model chose behind such a digit rests on the wrong one.
        """
        if tuple(chosen[: len(draft.tokens)]) == draft.tokens:
            return
        text = self._tokenizer.decode(list(written))
        pieces = [self._tokenizer.decode_one(token) for token in draft.tokens]
        changes: list[tuple[int, int, str]] = []  # start and end in the text, other digits
        end = len(text)
        for token, piece, choice in zip(draft.tokens, pieces, chosen, strict=False):
            start, end = end, end + len(piece)
            if token != choice and _is_number(piece):
                digits = self._tokenizer.decode_one(choice)
                if _is_number(digits) and len(digits) == len(piece):
                    changes.append((start, end, digits))
        whole = text + "".join(pieces)
        for number in _numbers(whole):
            change = next((c for c in changes if number.start <= c[0] and c[1] <= number.end), None)
            if change is None or number.stamp not in self._points:
                continue
            place = list(self._points[number.stamp].get(number.object_id, (_MIDDLE, _MIDDLE)))
            prefix = whole[number.start : change[0]] + change[2]
            place[number.axis] = int(self._nearest(prefix, place[number.axis]))
            self._points[number.stamp][number.object_id] = (place[0], place[1])

    def _rest(self, text: str) -> str:
        """What follows `text`; empty where nothing is foreseen."""
        coords = _COORDS.search(text)
        if coords is None:
            openings = (self._foreseen.opening, NONE, *_OPENINGS)
            begun = next((o for o in openings if o.startswith(text)), "")
            if "<" not in begun:
                return begun[len(text) :]
            body = begun + self._frames_after("")[1:]
            return (body + self._closed(body))[len(text) :]
        if coords.end() == len(text):
            groups = [group.split(" ") for group in coords.group(1).split(";")]
            if "<points" in text:
                self._number_through(groups)
            self._take_over(groups)
            rest = self._rest_of_coords(groups)
            return "" if rest is None else rest + self._closed(text + rest)
        closing = self._closed(text)
        said = text[coords.end(1) :]
        return closing[len(said) :] if closing.startswith(said) else ""

    def _closed(self, text: str) -> str:
        """The closing words, with the number of points that `text` has."""
        num_points = sum(1 for number in _numbers(text) if number.axis == 1)
        return _TOTAL.sub(str(num_points), self._foreseen.closing)

    def _rest_of_coords(self, groups: Sequence[Sequence[str]]) -> str | None:
        """What follows inside the quotes; None where no stamp fits what is written."""
        fields = groups[-1]
        if len(fields) == 1:
            before = groups[-2][0] if len(groups) > 1 else ""
            stamp = self._stamp_after(before, fields[0])
            if stamp is None:
                return None
            return (
                stamp[len(fields[0]) :] + _written(self._places(stamp)) + self._frames_after(stamp)
            )
        stamp, unfinished = fields[0], fields[-1]
        places = self._places(stamp)
        role = (len(fields) - 2) % 3  # 0 id, 1 x, 2 y
        if role == 0:
            object_id = self._id_after(fields, places)
            x, y = places.get(object_id, self._anywhere(places))
            rest = f"{object_id}"[len(unfinished) :] + f" {x:03d} {y:03d}"
        else:
            object_id = int(fields[-1 - role]) if _is_number(fields[-1 - role]) else 0
            place = places.get(object_id, self._anywhere(places))
            rest = self._nearest(unfinished, place[role - 1])[len(unfinished) :]
            rest += f" {place[1]:03d}" if role == 1 else ""
        later = {i: place for i, place in places.items() if i > object_id}
        return rest + _written(later) + self._frames_after(stamp)

    def _number_through(self, groups: Sequence[Sequence[str]]) -> None:
        """Give foreseen points the ids that they will have behind those that are written.

        Ids of points run through all frames: one more or less on a frame moves all later ones, and
        what was foreseen on a frame that is passed will not come any more.
        """
        begun = {words[0]: -(-(len(words) - 1) // 3) for words in groups}
        stamps = self._foreseen.stamps
        num_passed = max((stamps.index(stamp) for stamp in begun if stamp in stamps), default=0)
        self._current_id = sum(begun.values()) + (len(groups[-1]) == 1)
        number = 0
        for index, stamp in enumerate(stamps):
            places = [place for _, place in sorted(self._points.get(stamp, {}).items())]
            if index < num_passed:
                places = places[: begun.get(stamp, 0)]
            self._points[stamp] = dict(enumerate(places, number + 1))
            number += max(len(places), begun.get(stamp, 0))

    def _take_over(self, groups: Sequence[Sequence[str]]) -> None:
        """Points that are written are no longer foreseen but known."""
        for words in [*groups[:-1], groups[-1][:-1]]:  # the last word may still grow
            for first in range(1, len(words) - 2, 3):
                point = words[first : first + 3]
                if all(map(_is_number, point)):
                    object_id, x, y = map(int, point)
                    self._points.setdefault(words[0], {})[object_id] = (x, y)

    def _stamp_after(self, before: str, begun: str) -> str | None:
        stamps = self._foreseen.stamps
        later = stamps[stamps.index(before) + 1 :] if before in stamps else stamps
        fitting = [stamp for stamp in later if stamp.startswith(begun)]
        foreseen = [stamp for stamp in fitting if self._points.get(stamp)]
        return next(iter(foreseen or fitting), None)

    def _id_after(self, fields: Sequence[str], places: Mapping[int, tuple[int, int]]) -> int:
        unfinished = fields[-1]
        last = int(fields[-4]) if len(fields) >= 5 and _is_number(fields[-4]) else 0
        fitting = [i for i in places if i > last and str(i).startswith(unfinished)]
        following = self._current_id or last + 1
        return min(fitting, default=int(unfinished) if _is_number(unfinished) else following)

    def _places(self, stamp: str) -> Mapping[int, tuple[int, int]]:
        """Foreseen for a frame; where nothing is, a new point or what an earlier frame shows."""
        if self._points.get(stamp):
            return self._points[stamp]
        if self._current_id:
            return {self._current_id: (_MIDDLE, _MIDDLE)}
        stamps = self._foreseen.stamps
        earlier = stamps[: stamps.index(stamp)] if stamp in stamps else stamps
        shown = (self._points[s] for s in reversed(earlier) if self._points.get(s))
        return next(shown, {1: (_MIDDLE, _MIDDLE)})

    def _anywhere(self, places: Mapping[int, tuple[int, int]]) -> tuple[int, int]:
        return next(reversed(list(places.values())), (_MIDDLE, _MIDDLE))

    def _frames_after(self, stamp: str) -> str:
        stamps = self._foreseen.stamps
        later = stamps[stamps.index(stamp) + 1 :] if stamp in stamps else stamps
        return "".join(f";{s}{_written(self._points[s])}" for s in later if self._points.get(s))

    def _nearest(self, begun: str, value: int) -> str:
        """The number nearest to `value` that starts with the digits of `begun`."""
        whole = f"{value:03d}"
        if whole.startswith(begun):
            return whole
        if not _is_number(begun) or len(begun) >= 3:
            return begun
        size = 10 ** (3 - len(begun))
        lowest = int(begun) * size
        highest = lowest + size - min(self._foreseen.step, size)
        return f"{min(max(value, lowest), highest):03d}"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _written(places: Mapping[int, tuple[int, int]]) -> str:
    return "".join(f" {i} {x:03d} {y:03d}" for i, (x, y) in sorted(places.items()))


class RepeatedDraft:
    """Drafts the last answer's own words, for questions in words; a `DraftSource`.

    Where the model says something else, the draft goes on behind the place in the last answer that
    reads like the newest tokens. Words agree less and less once they have parted: a draft is at
    most twice as long as what was right of the one before.

    Args:
        last: tokens of the last answer.
    """

    def __init__(self, last: Sequence[int]) -> None:
        self._last = tuple(last)
        self._longest = len(self._last)

    def draft(self, written: Sequence[int]) -> Draft:
        """See DraftSource.draft."""
        return Draft.line(self._rest(tuple(written))[: self._longest])

    def verified(self, written: Sequence[int], draft: Draft, chosen: Sequence[int]) -> None:
        """See DraftSource.verified."""
        if not draft.tokens:
            return
        wrong = (i for i, token in enumerate(draft.tokens) if token != chosen[i])
        self._longest = max(_SHORTEST_REPEATED, 2 * next(wrong, len(self._last)))

    def _rest(self, written: tuple[int, ...]) -> tuple[int, ...]:
        if self._last[: len(written)] == written:
            return self._last[len(written) :]
        for size in range(_LONGEST_ECHO, _SHORTEST_ECHO - 1, -1):
            ends = [
                end
                for end in range(size, len(self._last))
                if self._last[end - size : end] == written[-size:]
            ]
            if ends:
                return self._last[min(ends, key=lambda e: abs(e - len(written))) :]
        return ()


@dataclass(frozen=True, slots=True)
class _Number:
    """A coordinate in a text."""

    stamp: str
    object_id: int
    axis: int  # 0 x, 1 y
    start: int  # characters of the text
    end: int


def _numbers(text: str) -> list[_Number]:
    """All coordinates of a text, also unfinished ones."""
    coords = _COORDS.search(text)
    if coords is None:
        return []
    numbers = []
    start = coords.start(1)
    for group in coords.group(1).split(";"):
        stamp, *rest = group.split(" ")
        at = start + len(stamp) + 1
        object_id = 0
        for index, word in enumerate(rest):
            role = index % 3
            if role == 0:
                object_id = int(word) if _is_number(word) else 0
            elif word:
                numbers.append(_Number(stamp, object_id, role - 1, at, at + len(word)))
            at += len(word) + 1
        start += len(group) + 1
    return numbers
