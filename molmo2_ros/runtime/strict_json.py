"""Reads dataclasses from decoded JSON or YAML strictly: nothing unknown, missing or mistyped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from molmo2_ros.errors import EngineError, Molmo2Error

Part = TypeVar("Part")


def read_dataclass(
    kind: type[Part],
    content: Any,
    where: str,
    cure: str,
    error: type[Molmo2Error] = EngineError,
) -> Part:
    """Build a dataclass, and those that are its fields, by their annotations.

    Args:
        kind: the dataclass; of fields of type int, float, bool, str, Any, X | None, tuple, Mapping,
            Enum and dataclass.
        content: what json.loads or yaml.safe_load gave.
        where: the file, for messages.
        cure: what to do, for messages.
        error: what is raised.

    Raises:
        Molmo2Error: of the class `error`; names the key, what it holds and what was expected.
    """
    if not isinstance(content, dict):
        raise error(f"{where} holds {content!r}, expected an object; {cure}")
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(content.keys() - known.keys())
    if unknown:
        raise error(
            f"{where}: unknown key {', '.join(unknown)}, known are {', '.join(known)}; {cure}"
        )
    required = {
        name
        for name, entry in known.items()
        if entry.default is MISSING and entry.default_factory is MISSING
    }
    missing = sorted(required - content.keys())
    if missing:
        raise error(f"{where}: key {', '.join(missing)} is missing; {cure}")
    hints = get_type_hints(kind)
    return kind(
        **{
            name: _value(hints[name], value, f"{where}: {name}", cure, error)
            for name, value in content.items()
        }
    )


def _value(expected: Any, value: Any, where: str, cure: str, error: type[Molmo2Error]) -> Any:
    """`value` as the annotated type `expected`."""
    if expected is Any:
        return value
    if is_dataclass(expected):
        return read_dataclass(expected, value, where, cure, error)  # type: ignore[arg-type]
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(value) != len(arguments):
            raise error(f"{where} is {value!r}, expected {len(arguments)} values; {cure}")
        pairs = zip(arguments, value, strict=True)
        return tuple(_value(kind, item, where, cure, error) for kind, item in pairs)
    if origin is Mapping and isinstance(value, dict):
        return {
            _value(arguments[0], key, where, cure, error): _value(
                arguments[1], item, f"{where}: {key}", cure, error
            )
            for key, item in value.items()
        }
    if NoneType in arguments:
        return None if value is None else _value(arguments[0], value, where, cure, error)
    if isinstance(expected, type) and issubclass(expected, Enum):
        if value in [member.value for member in expected]:
            return expected(value)
        choices = ", ".join(str(member.value) for member in expected)
        raise error(f"{where} is {value!r}, expected one of {choices}; {cure}")
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is expected:
        return value
    name = getattr(expected, "__name__", str(expected))
    raise error(f"{where} is {value!r}, expected {name}; {cure}")
