"""One node's parameters: declared, judged as a whole and swapped as one frozen snapshot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from molmo2_ros.errors import ConfigError, Molmo2Error
from molmo2_ros.ros import compat
from molmo2_ros.ros.settings import Setting, settings_of, snapshot_from

P = TypeVar("P")


class ParameterServer(Generic[P]):
    """Keeps the newest valid snapshot of a node's parameters.

    Args:
        node: where the parameters are declared.
        cls: the node's parameter dataclass.
        check: refuses a whole new snapshot by raising a Molmo2Error.
        changed: told the snapshots before and after each accepted change.
        frozen: why a setting that is not live cannot change now, or "" where it can.
        prefix: what stands before each name, such as `front.`.

    Raises:
        ConfigError: a value given at start has another type or is out of range.
    """

    def __init__(
        self,
        node: Node,
        cls: type[P],
        *,
        check: Callable[[P], None],
        changed: Callable[[P, P], None],
        frozen: Callable[[], str],
        prefix: str = "",
    ) -> None:
        self._prefix = prefix
        self._cls = cls
        self._settings = settings_of(cls)
        self._check = check
        self._changed = changed
        self._frozen = frozen
        self._lock = threading.Lock()  # guards _snapshot
        for about in self._settings.values():
            _declare(node, about, prefix)
        values = {name: node.get_parameter(prefix + name).value for name in self._settings}
        self._snapshot = self._in_words(lambda: snapshot_from(cls, values))
        compat.watch_parameters(node, self._judge, self._apply)

    @property
    def snapshot(self) -> P:
        """The parameters as they are now; the object itself never changes."""
        with self._lock:  # guards _snapshot
            return self._snapshot

    def _next(self, parameters: list[Parameter[Any]]) -> P:
        names = {self._prefix + name: name for name in self._settings}
        values = {names[p.name]: p.value for p in parameters if p.name in names}
        return self._in_words(lambda: snapshot_from(self._cls, values, start=self.snapshot))

    def _in_words(self, make: Callable[[], P]) -> P:
        """Say where a refused value stands, too."""
        try:
            return make()
        except ConfigError as error:
            raise ConfigError(f"{self._prefix}: {error}" if self._prefix else str(error)) from error

    def _judge(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        try:
            after = self._next(parameters)
            self._check(after)
            self._refuse_frozen(after)
        except Molmo2Error as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _refuse_frozen(self, after: P) -> None:
        before = self.snapshot
        changed = [n for n in self._settings if getattr(before, n) != getattr(after, n)]
        for name in changed:
            why = "" if self._settings[name].live else self._frozen()
            if why:
                raise ConfigError(f"parameter {self._prefix}{name} cannot change now: {why}")

    def _apply(self, parameters: list[Parameter[Any]]) -> None:
        before, after = self.snapshot, self._next(parameters)
        if after == before:
            return
        with self._lock:  # guards _snapshot
            self._snapshot = after
        self._changed(before, after)


def _declare(node: Node, about: Setting, prefix: str) -> None:
    descriptor = ParameterDescriptor(
        description=f"{about.description} [{about.unit}]" if about.unit else about.description,
        additional_constraints=about.range_text if about.choices else "",
    )
    if about.minimum is not None and about.maximum is not None:
        if about.type_name == "integer":
            limits = IntegerRange(from_value=int(about.minimum), to_value=int(about.maximum))
            descriptor.integer_range = [limits]
        else:
            span = FloatingPointRange(from_value=about.minimum, to_value=about.maximum)
            descriptor.floating_point_range = [span]
    try:
        if isinstance(about.default, tuple):
            compat.declare_string_array(node, prefix + about.name, about.default, descriptor)
        else:
            node.declare_parameter(prefix + about.name, about.default, descriptor)
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        expected = about.range_text or f"a {about.type_name}"
        raise ConfigError(
            f"parameter {prefix}{about.name}: {error}; expected {expected}; see docs/parameters.md"
        ) from error
