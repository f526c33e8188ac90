"""Rows of the Parquet, JSON and JSON Lines files of a folder, as a hub hands them out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.readers.fields import Fields

SUFFIXES = (".parquet", ".jsonl", ".json")
ROWS_AT_ONCE = 64  # rows with pictures inside are large


def table_files(folder: Path, *, config: str | None = None, split: str | None = None) -> list[Path]:
    """The files of a table, sorted: those of a hub's configuration and split where these are named.

    A hub's file belongs to configuration or split `x` where its name is `x` or begins with `x-`,
    or one of its folders below `folder` is called `x`. Without both, all Parquet files are taken,
    or, lacking these, all JSON Lines, or all JSON files.

    Raises:
        DataError: the folder, or such a file in it, does not exist.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder, expected that of a downloaded data set")
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES]
    for wanted in (config, split):
        if wanted is not None:
            files = [path for path in files if _belongs(path.relative_to(folder), wanted)]
    for suffix in SUFFIXES:
        chosen = [path for path in files if path.suffix == suffix]
        if chosen:
            return chosen
    named = "".join(f" of {name!r}" for name in (config, split) if name is not None)
    raise DataError(f"{folder} has no .parquet, .jsonl or .json file{named}, expected a table")


def has_table(folder: Path, *, config: str) -> bool:
    """Whether a hub's configuration is in the folder."""
    try:
        return bool(table_files(folder, config=config))
    except DataError:
        return False


def rows(
    folder: Path,
    columns: Sequence[str],
    *,
    optional: Sequence[str] = (),
    config: str | None = None,
    split: str | None = None,
) -> Iterator[Fields]:
    """Every row of a table, one file after the other.

    Args:
        folder: of the downloaded data set.
        columns: that each file must have; only these are read.
        optional: that are read where they are there.
        config: of the hub, for data sets that have several.
        split: of the hub; None for all.

    Raises:
        DataError: there is no file, a file cannot be read, or one lacks a column.
    """
    for path in table_files(folder, config=config, split=split):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".parquet":
            yield from _parquet_rows(path, name, columns, optional)
        else:
            yield from _json_rows(path, name, columns)


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        DataError: it is missing, cut off, or not JSON in UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error


def _belongs(path: Path, wanted: str) -> bool:
    parts = (*path.parts[:-1], path.stem)
    return wanted in parts or path.name.startswith(f"{wanted}-")


def _parquet_rows(
    path: Path, name: str, columns: Sequence[str], optional: Sequence[str]
) -> Iterator[Fields]:
    number = 0
    try:
        with pq.ParquetFile(path) as table:
            present = table.schema_arrow.names
            _check_columns(name, present, columns)
            chosen = [*columns, *(column for column in optional if column in present)]
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=chosen):
                for values in batch.to_pylist():
                    yield Fields(f"{name}, row {number}", values)
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet after row {number}: {error}; load it again"
        ) from error


def _json_rows(path: Path, name: str, columns: Sequence[str]) -> Iterator[Fields]:
    number = -1
    for number, values in enumerate(_json_values(path)):
        if not isinstance(values, dict):
            raise DataError(f"{name}, row {number} is {values!r:.80}, expected a record")
        if number == 0:
            _check_columns(name, list(values), columns)
        yield Fields(f"{name}, row {number}", values)


def _json_values(path: Path) -> Iterator[Any]:
    if path.suffix == ".json":
        values = read_json(path)
        if not isinstance(values, list):
            raise DataError(f"{path} holds a {type(values).__name__}, expected a list of records")
        yield from values
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, row {number} is not JSON: {error}") from error


def _check_columns(name: str, present: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [column for column in wanted if column not in present]
    if missing:
        raise DataError(
            f"{name} has no column {', '.join(missing)}, expected {', '.join(wanted)}; it has "
            f"{', '.join(present)}"
        )
