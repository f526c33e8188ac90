"""Reads dataclasses from decoded JSON strictly: nothing unknown, nothing missing, no other type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from molmo2_ros.errors import EngineError

Part = TypeVar("Part")


def read_dataclass(kind: type[Part], content: Any, where: str, cure: str) -> Part:
    """Build a dataclass, and those that are its fields, by their annotations.

    Args:
        kind: the dataclass; of fields of type int, float, bool, str, Any, X | None, tuple, Mapping
            and dataclass.
        content: what json.loads gave.
        where: the file, for messages.
        cure: what to do, for messages.

    Raises:
        EngineError: names the key, what it holds and what was expected.
    """
    if not isinstance(content, dict):
        raise EngineError(f"{where} holds {content!r}, expected an object; {cure}")
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(content.keys() - known.keys())
    if unknown:
        raise EngineError(
            f"{where}: unknown key {', '.join(unknown)}, known are {', '.join(known)}; {cure}"
        )
    required = {
        name
        for name, entry in known.items()
        if entry.default is MISSING and entry.default_factory is MISSING
    }
    missing = sorted(required - content.keys())
    if missing:
        raise EngineError(f"{where}: key {', '.join(missing)} is missing; {cure}")
    hints = get_type_hints(kind)
    return kind(
        **{
            name: _value(hints[name], value, f"{where}: {name}", cure)
            for name, value in content.items()
        }
    )


def _value(expected: Any, value: Any, where: str, cure: str) -> Any:
    """`value` as the annotated type `expected`."""
    if expected is Any:
        return value
    if is_dataclass(expected):
        return read_dataclass(expected, value, where, cure)  # type: ignore[arg-type]
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise EngineError(f"{where} is {value!r}, expected {len(arguments)} values; {cure}")
        return tuple(_value(arguments[0], item, where, cure) for item in value)
    if origin is Mapping and isinstance(value, dict):
        return {
            key: _value(arguments[1], item, f"{where}: {key}", cure) for key, item in value.items()
        }
    if NoneType in arguments:
        return None if value is None else _value(arguments[0], value, where, cure)
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is expected:
        return value
    name = getattr(expected, "__name__", str(expected))
    raise EngineError(f"{where} is {value!r}, expected {name}; {cure}")
