"""Counts: read out of an answer, and how near they must be.

Source: Molmo2's evaluators; the reader of videos knows a bare number and two phrases.
"""

from __future__ import annotations

import re

from molmo2_ros.answers.text import NONE

_AUTHORS = re.compile(r"\s*(\d+)\s*\.?\s*$|a total of (\d+)|the total number .*? is: ?(\d+)", re.I)
_STATED = re.compile(r"there are (\d+) <points", re.I)


def read_count(text: str) -> int | None:
    """The number that an answer states, also in the forms that the authors' reader misses.

    `There are none.` is 0 and `There are 3 <points ...` is 3.
    """
    if text.strip() == NONE:
        return 0
    stated = _STATED.match(text.strip())
    return int(stated[1]) if stated else authors_count(text)


def authors_count(text: str) -> int | None:
    """The number that the authors' reader of videos finds: it has none for `There are none.`."""
    found = _AUTHORS.match(text) or _AUTHORS.search(text)
    return int(next(group for group in found.groups() if group)) if found else None


def is_exact(stated: int | None, true: int) -> bool:
    """Whether the count is right; no count is wrong."""
    return stated == true


def is_close(stated: int | None, true: int, *, is_video: bool) -> bool:
    """Whether the count is off by 1 at most; in videos 1 more for every 20 objects."""
    allowed = 1 + true // 20 if is_video else 1
    return stated is not None and abs(stated - true) <= allowed
