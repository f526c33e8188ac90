"""What one parameter is: its words, unit, range and whether it acts while the node runs.

A node's parameters are one frozen dataclass (parameters.py). Everything else about them, how rclpy
declares them, how a new value is judged, docs/parameters.md and the check of config/*.param.yaml,
is read from its fields, so that the four cannot disagree.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, TypeVar

from molmo2_ros.errors import ConfigError

P = TypeVar("P")
Value = bool | int | float | str | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One field of a parameter dataclass, as the documentation and rclpy see it."""

    name: str
    default: Value
    description: str  # one sentence, with its effect
    unit: str  # "" where the value has none
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...] | tuple[int, ...]
    live: bool  # takes effect at once while the node is active

    @property
    def type_name(self) -> str:
        """The name that `ros2 param describe` uses."""
        if isinstance(self.default, bool):
            return "bool"
        if isinstance(self.default, int):
            return "integer"
        if isinstance(self.default, float):
            return "double"
        return "string" if isinstance(self.default, str) else "string array"

    @property
    def range_text(self) -> str:
        """Choices or limits in words, "" where anything of the type goes."""
        if self.choices:
            return " or ".join(f"`{choice}`" for choice in self.choices)
        if self.minimum is None or self.maximum is None:
            return ""
        return f"{_plain(self.minimum)} to {_plain(self.maximum)}"


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def setting(
    default: Value,
    description: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | tuple[int, ...] = (),
    live: bool = False,
) -> Any:
    """Declare a dataclass field that is a ROS parameter; see `Setting` for the arguments."""
    about = {
        "description": description,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "live": live,
    }
    return field(default=default, metadata=about)


def settings_of(cls: type[P]) -> dict[str, Setting]:
    """The settings of a parameter dataclass, in the order in which they are written."""
    found: dict[str, Setting] = {}
    for entry in dataclasses.fields(cls):  # type: ignore[arg-type]
        assert entry.default is not MISSING, f"{cls.__name__}.{entry.name} needs a default"
        found[entry.name] = Setting(name=entry.name, default=entry.default, **entry.metadata)
    return found


def snapshot_from(cls: type[P], values: Mapping[str, object], start: P | None = None) -> P:
    """Build one whole parameter snapshot, or none of it.

    Args:
        cls: the node's parameter dataclass.
        values: new values by name; what is left out keeps the value of `start` or the default.
        start: the snapshot to change.

    Raises:
        ConfigError: an unknown name, another type, or a value out of range.
    """
    settings = settings_of(cls)
    checked: dict[str, Value] = {}
    for name, value in values.items():
        if name not in settings:
            raise ConfigError(
                f"parameter {name!r} is unknown to {cls.__name__}, expected one of "
                f"{', '.join(sorted(settings))}; see docs/parameters.md"
            )
        checked[name] = _checked(settings[name], value)
    return dataclasses.replace(cls() if start is None else start, **checked)  # type: ignore[type-var]


def _checked(about: Setting, value: object) -> Value:
    kind = type(about.default)
    if kind is tuple:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise _refused(about, value, "a list of strings")
        if not all(isinstance(entry, str) for entry in value):
            raise _refused(about, value, "a list of strings")
        return tuple(value)
    if type(value) is not kind:
        hint = ", written with a point (5.0)" if kind is float and type(value) is int else ""
        raise _refused(about, value, f"a {about.type_name}{hint}")
    if about.choices and value not in about.choices:
        raise _refused(about, value, about.range_text)
    if not _within(about, value):
        raise _refused(about, value, f"{about.range_text} {about.unit}".rstrip())
    assert isinstance(value, (bool, int, float, str))
    return value


def _within(about: Setting, value: object) -> bool:
    if about.minimum is None or about.maximum is None or not isinstance(value, (int, float)):
        return True
    return math.isfinite(value) and about.minimum <= value <= about.maximum


def _refused(about: Setting, value: object, expected: str) -> ConfigError:
    shown = repr(value)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    return ConfigError(
        f"parameter {about.name} is {shown}, expected {expected}; its meaning: {about.description}"
    )
