"""Reading what the model wrote: points, tracks, counts and the phrases for nothing.

The grammar (allenai/molmo2 `point_formatter.py`, paper appendix A):

    <points coords="GROUP;GROUP">label</points>     GROUP = STAMP ID X Y ID X Y ...
    <tracks coords="0.0 1 635 522;0.5 1 606 490 2 511 124">red mugs</tracks>
    Counting the <points ...>mugs</points> shows a total of 2.
    There are none.      No tracks available.      7      (nothing at all)

STAMP is seconds with one decimal in a clip and the 1-based image number for images; X and Y are
thousandths of the frame, three digits or 1000. Older checkpoints separate groups by tab, `:` or
`,`. Reading never raises: what cannot be read is named in `problems`, and a text that is cut
anywhere still gives the points that it holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NONE = "There are none."  # as the models were trained to write it

_TAG = re.compile(r"<(points|tracks)\b([^<]*?)\bcoords=\"([^\"<]*)(\"?)")
_OPENING = re.compile(r"<(?:points|tracks)\b([^<]*)")
_GROUP = re.compile(r"[^\t:,;]+")
_STAMP = re.compile(r" *(\d{1,6}(?:\.\d{1,3})?)(?= |$)", re.ASCII)
_POINT = re.compile(r"(?<![\d.])(\d{1,4}) +(\d{3,4}) +(\d{3,4})(?![\d.])", re.ASCII)
_TOTAL = re.compile(
    r"\ba total of (\d{1,6})(?!\d)|\btotal number\b[^:<]{0,200}\bis: ?(\d{1,6})(?!\d)", re.ASCII
)
_THERE_ARE = re.compile(r"\bthere (?:are|is) (\d{1,6}) <points", re.ASCII | re.IGNORECASE)
_BARE_NUMBER = re.compile(r"\s*(\d{1,6})\s*(\.?)\s*", re.ASCII)
_NONE = re.compile(r"\bthere are none\b|\bno tracks available\b", re.IGNORECASE)
_UNFINISHED_TAG = re.compile(r"<[/a-z]{0,8}$")
_COORDINATE_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedPoint:
    """One `ID X Y` of a tag with the place where it stands."""

    stamp: float  # the number that opens its group: seconds, or a 1-based image number
    object_id: int
    x: float  # 0..1 of the width
    y: float  # 0..1 of the height
    x_span: tuple[int, int]  # character range of X in the text
    y_span: tuple[int, int]  # character range of Y in the text


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedAnswer:
    """What a text says, before it is held against the clip that it speaks of."""

    points: tuple[ParsedPoint, ...] = ()
    label: str = ""  # text inside the first tag
    is_track: bool = False
    stated_count: int | None = None
    none: bool = False  # said in words, not by silence
    truncated: bool = False  # the text ends before its grammar does, or was not complete
    problems: tuple[str, ...] = ()


def parse_answer(text: str, *, complete: bool = True) -> ParsedAnswer:
    """Read any model output.

    Args:
        text: the answer without control tokens.
        complete: False while the model writes or when a limit cut it off: a last number that more
            digits could still change (`10`, `100`, `a total of 1`) is then left out.

    Returns:
        the points in the order written; `<points coords="0.0 1 250 500 2 7` with complete=False
        gives one point at (0.25, 0.5) and truncated.
    """
    points: list[ParsedPoint] = []
    problems: list[str] = []
    tags = list(_TAG.finditer(text))
    for tag in tags:
        points.extend(_read_groups(text, tag, complete, problems))
    cut = _ends_inside_tag(text, tags, problems)
    if cut and complete:
        problems.append("the answer stops inside its tag")
    return ParsedAnswer(
        points=tuple(points),
        label=_label(text, tags[0]) if tags else "",
        is_track=any(tag.group(1) == "tracks" for tag in tags),
        stated_count=_stated_count(text, complete),
        none=not points and _NONE.search(text) is not None,
        truncated=cut or not complete,
        problems=tuple(problems),
    )


def _read_groups(
    text: str, tag: re.Match[str], complete: bool, problems: list[str]
) -> list[ParsedPoint]:
    is_open = not tag.group(4)
    start, end = tag.span(3)
    points = []
    for group in _GROUP.finditer(text, start, end):
        stamp = _STAMP.match(text, group.start(), group.end())
        is_last = is_open and group.end() == end
        if stamp is None:
            if not is_last and group.group().strip():
                problems.append(f"no stamp at {_quote(group.group())}")
            continue
        at = stamp.end()
        for match in _POINT.finditer(text, at, group.end()):
            _note_leftover(text[at : match.start()], problems)
            at = match.end()
            if not complete and at == len(text) and not _is_final(match.group(3)):
                continue
            x, y = int(match.group(2)), int(match.group(3))
            if max(x, y) > _COORDINATE_MAX:
                problems.append(f"coordinate above {_COORDINATE_MAX} in {_quote(match.group())}")
                continue
            points.append(
                ParsedPoint(
                    stamp=float(stamp.group(1)),
                    object_id=int(match.group(1)),
                    x=x / _COORDINATE_MAX,
                    y=y / _COORDINATE_MAX,
                    x_span=match.span(2),
                    y_span=match.span(3),
                )
            )
        if not is_last:
            _note_leftover(text[at : group.end()], problems)
    return points


def _note_leftover(text: str, problems: list[str]) -> None:
    if text.strip():
        problems.append(f"no point at {_quote(text)}")


def _is_final(digits: str) -> bool:
    """Whether no further digit can follow: 1000 is the only legal number of four digits."""
    return len(digits) == 4 or digits != "100"


def _ends_inside_tag(text: str, tags: list[re.Match[str]], problems: list[str]) -> bool:
    read = {tag.start() for tag in tags}
    for opening in _OPENING.finditer(text):
        if opening.start() not in read:
            if ">" not in opening.group(1):
                return True
            problems.append("a tag without coordinates")
    tail = text
    if tags:
        # `<tracks coords="..."/>` closes itself; any other tag is closed behind its label.
        tail = text[tags[-1].end() :]
        if f"</{tags[-1].group(1)}>" not in tail and not tail.startswith("/>"):
            return True
    return _UNFINISHED_TAG.search(tail) is not None


def _label(text: str, tag: re.Match[str]) -> str:
    tail = text[tag.end() :]
    if not tail.startswith(">"):
        return ""
    return tail[1:].split("<", 1)[0].strip()


def _stated_count(text: str, complete: bool) -> int | None:
    bare = _BARE_NUMBER.fullmatch(text)
    if bare:
        return int(bare.group(1)) if complete or bare.group(2) else None
    there = _THERE_ARE.search(text)
    if there:
        return int(there.group(1))
    totals = list(_TOTAL.finditer(text))
    if not totals or (not complete and totals[-1].end() == len(text)):
        return None
    return int(totals[-1].group(1) or totals[-1].group(2))


def _quote(text: str) -> str:
    short = text.strip()
    return repr(short if len(short) <= 40 else short[:37] + "...")
