"""Another data set's own files, written in this package's format."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from molmo2_ros.errors import ConfigError
from molmo2_ros.training.data.dataset_writer import DatasetWriter
from molmo2_ros.training.data.readers import ReadReport, open_reader


def convert(
    kind: str,
    folder: Path,
    out: Path,
    *,
    media: Path | None = None,
    options: Mapping[str, Any] | None = None,
    limit: int | None = None,
) -> ReadReport:
    """Read a downloaded data set and write it; started again, it goes on behind what is there.

    Args:
        kind: one of the readers'.
        folder: of its tables.
        out: of the new data set; pictures and masks from inside tables are written there.
        media: where its videos or images lie; None: in `folder`.
        options: of the reader, by name.
        limit: examples at most; None for all.

    Returns:
        how many examples, and which rows gave none.

    Raises:
        ConfigError: an unknown kind or option.
        DataError: files that cannot be read, or no space is left.
    """
    report = ReadReport()
    examples = open_reader(kind, folder, media=media, store=out, report=report, **(options or {}))
    with DatasetWriter(out, name=kind) as writer:
        for example in itertools.islice(examples, limit):
            if example.name not in writer:
                writer.add(example)
    return report


def read_options(options: Sequence[str]) -> dict[str, Any]:
    """Options as a command line has them: `key=value` each, the value in YAML.

    Raises:
        ConfigError: one without a value.
    """
    taken = inspect.signature(open_reader).parameters.keys() - {"seed"}
    read: dict[str, Any] = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            raise ConfigError(f"option {option!r}, expected key=value")
        if key in taken:
            raise ConfigError(f"option {option!r} is no reader's; the command has it as its own")
        try:
            read[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            why = " ".join(str(error).split())
            raise ConfigError(f"option {option!r} has no value in YAML: {why}") from error
    return read
