"""What is written to ~/query: a question that shall stand, or what becomes of one that does."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from molmo2_ros.errors import QueryError
from molmo2_ros.prompt.query import Query, parse_query
from molmo2_ros.standing import StandingQueries, StandingQuery

_COMMAND = re.compile(r"(remove|pause|resume|rename|rate)\s*:\s*(.*)", re.IGNORECASE | re.DOTALL)
_RENAME = re.compile(r"(\S+)\s+to\s+(\S+)", re.IGNORECASE)
_RATE = re.compile(r"(\S+)\s+(?:(\S+?)\s*hz|(free))", re.IGNORECASE)


def is_command(text: str) -> bool:
    """Whether it changes a standing query, and is none."""
    return _COMMAND.fullmatch(text.strip()) is not None


def apply_text(
    queries: StandingQueries, text: str, now_s: float, check: Callable[[Query], None]
) -> list[StandingQuery]:
    """Let a question stand, or change one that does.

    Args:
        queries: that stand.
        text: a question; or `remove: NAME`, `pause: NAME`, `resume: NAME` (each also `all`),
            `rename: NAME to NEW`, `rate: NAME 2 hz`, `rate: NAME free`.
        now_s: on the clock of the queries.
        check: refuses what the model cannot be asked.

    Returns:
        those that stand no more.

    Raises:
        QueryError: the text is malformed, names no query, or cannot be asked; nothing changes.
    """
    command = _COMMAND.fullmatch(text.strip())
    if command is None:
        query = parse_query(text)
        check(query)
        return queries.add(query, now_s)
    verb, rest = command.group(1).lower(), command.group(2).strip()
    if verb == "remove":
        return queries.remove(rest)
    if verb in ("pause", "resume"):
        queries.pause(rest, paused=verb == "pause")
    elif verb == "rename":
        name, new_name = _parts(_RENAME, text, rest, "rename: NAME to NEW")
        queries.rename(name, new_name)
    else:
        name, rate_hz, _ = _parts(_RATE, text, rest, "rate: NAME 2 hz, or rate: NAME free")
        queries.set_rate(name, None if rate_hz is None else _number(rate_hz, text))
    return []


def _parts(pattern: re.Pattern[str], text: str, rest: str, expected: str) -> tuple[str | Any, ...]:
    match = pattern.fullmatch(rest)
    if match is None:
        raise QueryError(f"{text.strip()[:80]!r} cannot be read, expected {expected}")
    return match.groups()


def _number(text: str, command: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise QueryError(
            f"{command.strip()[:80]!r} holds {text!r}, expected a number such as 0.5"
        ) from None
