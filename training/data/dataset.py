"""A folder of examples: `examples.jsonl` or `examples.parquet`, with frames and masks beside it.

The format is told in docs/dataset_format.md. Rows of JSON are read when they are asked for: a data
set may be larger than memory. Those of a Parquet file are held in memory as text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from molmo2_ros.errors import DataError, Molmo2Error
from molmo2_ros.runtime.strict_json import read_dataclass
from molmo2_ros.training.data.example import Example

FORMAT = 1
ABOUT_FILE = "dataset.json"
ROWS_FILE = "examples.jsonl"
PARQUET_FILE = "examples.parquet"
_CURE = "see docs/dataset_format.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What `dataset.json` says of a data set."""

    format: int  # version of the format
    name: str
    num_examples: int
    sources: Mapping[str, int]  # annotations by who made them


class Dataset:
    """Examples on disk, by number.

    Args:
        folder: of the data set.
        about: its `dataset.json`.
        rows: where each row begins in `examples.jsonl`, or the rows of the Parquet file.
        sources: annotations of others are left out; None for all.
    """

    def __init__(
        self,
        folder: Path,
        about: About,
        rows: list[int] | list[str],
        sources: frozenset[str] | None,
    ) -> None:
        self.folder, self.about = folder, about
        self._rows, self._sources = rows, sources

    @classmethod
    def open(cls, folder: Path, sources: Collection[str] | None = None) -> Dataset:
        """Open a data set for reading.

        Args:
            folder: as `DatasetWriter` or a person made it.
            sources: whose labels are wanted. A data set with labels of people and of machines is
                read only when it is said whose: they are never mixed unasked.

        Raises:
            DataError: the folder is none, is empty, mixes sources unasked, or lacks one asked for.
        """
        about = read_about(folder)
        if about.num_examples < 1:
            raise DataError(f"{folder} has no example, expected at least one")
        have = ", ".join(sorted(about.sources))
        if sources is None and len(about.sources) > 1:
            raise DataError(
                f"{folder} has labels of {have}, which are not mixed unless that is asked for; "
                "name the sources that are wanted"
            )
        if sources is not None and not set(sources) & set(about.sources):
            raise DataError(
                f"{folder} has labels of {have}, expected some of {', '.join(sorted(sources))}"
            )
        wanted = None if sources is None else frozenset(sources)
        parquet = folder / PARQUET_FILE
        rows: list[int] | list[str]
        rows = _parquet_rows(parquet) if parquet.exists() else _starts(folder / ROWS_FILE)
        if len(rows) != about.num_examples:
            raise DataError(
                f"{folder} has {len(rows)} rows, {ABOUT_FILE} says {about.num_examples}: it was "
                "cut off or added to; open it with DatasetWriter once, which mends that"
            )
        return cls(folder, about, rows, wanted)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        """One example; annotations of sources that are not wanted are left out.

        Raises:
            IndexError: there are fewer.
            DataError: the row is malformed, or none of its annotations is wanted.
        """
        example = self._wanted_part(self._read(index))
        if example is None:
            wanted = ", ".join(sorted(self._sources or ()))
            raise DataError(f"{self._place(index)}: no annotation of {wanted}")
        return example

    def __iter__(self) -> Iterator[Example]:
        """All examples that have an annotation of a source that is wanted."""
        for index in range(len(self)):
            example = self._wanted_part(self._read(index))
            if example is not None:
                yield example

    def wanted(self) -> list[int]:
        """The numbers of the examples that have an annotation of a source that is wanted."""
        if self._sources is None:
            return list(range(len(self)))
        return [i for i in range(len(self)) if self._wanted_part(self._read(i)) is not None]

    def _wanted_part(self, example: Example) -> Example | None:
        """Without annotations of other sources; None where none is left."""
        if self._sources is None:
            return example
        kept = tuple(a for a in example.annotations if a.source in self._sources)
        return replace(example, annotations=kept) if kept else None

    def _read(self, index: int) -> Example:
        row = self._rows[index]
        return read_example(row if isinstance(row, str) else self._line(row), self._place(index))

    def _place(self, index: int) -> str:
        """File and row, for messages."""
        file = PARQUET_FILE if isinstance(self._rows[index], str) else ROWS_FILE
        return f"{self.folder / file}, row {index % len(self) + 1}"

    def _line(self, start: int) -> bytes:
        path = self.folder / ROWS_FILE
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.readline()
        except OSError as error:
            raise DataError(f"{path} cannot be read at byte {start}: {error}") from error


def read_about(folder: Path) -> About:
    """A data set's `dataset.json`.

    Raises:
        DataError: it is missing, malformed, or of a newer format.
    """
    path = folder / ABOUT_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no {ABOUT_FILE} in {folder}, expected a data set; {_CURE}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; {_CURE}") from error
    about = read_dataclass(About, content, str(path), _CURE, DataError)
    if about.format != FORMAT:
        raise DataError(f"{path} has format {about.format}, expected {FORMAT}; update molmo2_ros")
    return about


def read_example(line: str | bytes, place: str) -> Example:
    """An example of a row.

    Args:
        line: JSON; bytes in UTF-8.
        place: file and row, for messages.

    Raises:
        DataError: it is no JSON, has unknown keys, or contradicts itself.
    """
    try:
        content = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place} is no JSON: {error}; {_CURE}") from error
    try:
        return read_dataclass(Example, content, place, _CURE, DataError)
    except Molmo2Error as error:
        message = str(error)
        raise DataError(message if message.startswith(place) else f"{place}: {message}") from error


def write_example(example: Example) -> str:
    """An example as one line of JSON; what is as by default is left out."""
    return json.dumps(_plain(example), ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        named = ((entry, getattr(value, entry.name)) for entry in fields(value))
        return {e.name: _plain(v) for e, v in named if v != e.default}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _starts(path: Path) -> list[int]:
    """Where each whole row begins."""
    starts, position = [], 0
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    starts.append(position)
                position += len(line)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return starts


def _parquet_rows(path: Path) -> list[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=["example"])
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}; {_CURE}") from error
    return [str(row) for row in table.column("example").to_pylist()]
