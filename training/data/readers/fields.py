"""Values of one row of somebody else's file, read by name and type."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from molmo2_ros.errors import DataError


@dataclass(frozen=True, slots=True)
class Fields:
    """One row, or one record inside it.

    Args:
        place: file and row, for messages.
        values: by name of column.
    """

    place: str
    values: Mapping[str, Any]

    def has(self, name: str) -> bool:
        """Whether the value is there and not null."""
        return self.values.get(name) is not None

    def text(self, name: str) -> str:
        """Words, without blanks around them; may be empty.

        Raises:
            DataError: they are missing or not text.
        """
        value = self._get(name)
        if not isinstance(value, str):
            raise self._wrong(name, value, "text")
        return value.strip()

    def data(self, name: str) -> bytes:
        """Bytes, such as those of an encoded picture.

        Raises:
            DataError: they are missing or none.
        """
        value = self._get(name)
        if not isinstance(value, bytes):
            raise self._wrong(name, value, "bytes")
        return value

    def key(self, name: str) -> str:
        """An identity, which some files have as a number and others as text.

        Raises:
            DataError: it is missing or neither.
        """
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise self._wrong(name, value, "an id")
        return str(value)

    def number(self, name: str) -> float:
        """A finite number.

        Raises:
            DataError: it is missing or none.
        """
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong(name, value, "a number")
        if not math.isfinite(value):
            raise self._wrong(name, value, "a finite number")
        return float(value)

    def whole(self, name: str) -> int:
        """A whole number, also where it is stored as 2.0.

        Raises:
            DataError: it is missing or none.
        """
        value = self.number(name)
        if value != int(value):
            raise self._wrong(name, value, "a whole number")
        return int(value)

    def positive(self, name: str) -> float:
        """A number above 0: sizes, rates, durations.

        Raises:
            DataError: it is missing or none.
        """
        value = self.number(name)
        if value <= 0:
            raise self._wrong(name, value, "a number above 0")
        return value

    def flag(self, name: str) -> bool:
        """True or false; 0 and 1 are taken too.

        Raises:
            DataError: it is missing or none of these.
        """
        value = self._get(name)
        if value not in (0, 1):
            raise self._wrong(name, value, "true or false")
        return bool(value)

    def items(self, name: str) -> Sequence[Any]:
        """A list of anything.

        Raises:
            DataError: it is missing or none.
        """
        value = self._get(name)
        if not isinstance(value, (list, tuple)):
            raise self._wrong(name, value, "a list")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of words.

        Raises:
            DataError: it is missing, or one of its members is not text.
        """
        values = self.items(name)
        return [Fields(self.place, {name: value}).text(name) for value in values]

    def keys(self, name: str) -> list[str]:
        """A list of identities.

        Raises:
            DataError: it is missing, or one of its members is none.
        """
        return [Fields(self.place, {name: value}).key(name) for value in self.items(name)]

    def record(self, name: str) -> Fields:
        """A record with names of its own.

        Raises:
            DataError: it is missing or none.
        """
        value = self._get(name)
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "a record")
        return Fields(f"{self.place}, {name}", value)

    def records(self, name: str) -> list[Fields]:
        """A list of records; a record of equally long lists, as the hub stores some, is one too.

        Raises:
            DataError: it is missing or none.
        """
        return list(as_records(f"{self.place}, {name}", self._get(name)))

    def _get(self, name: str) -> Any:
        value = self.values.get(name)
        if value is None:
            raise DataError(f"{self.place}: no {name!r}, expected a value")
        return value

    def _wrong(self, name: str, value: Any, expected: str) -> DataError:
        met = repr(value)
        return DataError(f"{self.place}: {name!r} is {met[:80]}, expected {expected}")


def as_records(place: str, value: Any) -> Iterator[Fields]:
    """The members of a list of records or of a record of lists.

    Raises:
        DataError: the value is neither.
    """
    if isinstance(value, Mapping):
        lists = list(value.values())
        if not all(isinstance(v, (list, tuple)) and len(v) == len(lists[0]) for v in lists):
            raise DataError(f"{place}: a record whose lists differ in length, expected equal ones")
        value = [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{place} is {value!r:.80}, expected a list of records")
    for number, member in enumerate(value):
        if not isinstance(member, Mapping):
            raise DataError(f"{place} {number} is {member!r:.80}, expected a record")
        yield Fields(f"{place} {number}", member)
