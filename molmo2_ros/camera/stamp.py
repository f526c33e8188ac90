"""Times in nanoseconds, and as JSON has them, where so large a number would lose digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NS_PER_S = 1_000_000_000


def stamp_json(stamp_ns: int) -> dict[str, int]:
    """A stamp for JSON: seconds and nanoseconds apart, as builtin_interfaces/Time has them."""
    return {"sec": stamp_ns // NS_PER_S, "nanosec": stamp_ns % NS_PER_S}


def stamp_decimal(stamp_ns: int) -> str:
    """A stamp in seconds with all nine digits, such as 5.000000250."""
    return f"{stamp_ns // NS_PER_S}.{stamp_ns % NS_PER_S:09d}"


def stamp_from_json(stamp: Mapping[str, Any]) -> int:
    """The nanoseconds that `stamp_json` wrote.

    Raises:
        KeyError: a part is missing.
        TypeError: it is no mapping, or a part is no number.
        ValueError: a part is a text that is no number.
    """
    return int(stamp["sec"]) * NS_PER_S + int(stamp["nanosec"])
