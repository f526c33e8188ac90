"""What the Molmo2 paper reports of its evaluation sets, and which of them can be asked here.

The numbers lie in `training/reference/`: `sets.yaml` names each set's reader and measures, and one
CSV file holds each table of the paper. Nothing in them was measured by this package.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from molmo2_ros.errors import ConfigError
from molmo2_ros.runtime.strict_json import read_dataclass

REFERENCE = Path(__file__).parents[1] / "reference"
SETS_FILE = "sets.yaml"
FAMILY = ("Molmo2-4B", "Molmo2-8B", "Molmo2-O-7B")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure of a set.

    Args:
        ours: its name among the evaluator's.
        means: how it is defined here, and where the authors' differs.
        theirs: its column in the table; None where the paper has no such number.
    """

    ours: str
    means: str
    theirs: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSet:
    """An evaluation set of the paper.

    Args:
        title: with its split and size.
        reader: of its files, one of `readers.READERS`.
        table: the CSV file of the paper's table, without suffix.
        measures: what is compared.
        options: of the reader.
        masks_of_all_frames: further ones where J&F is measured.
    """

    title: str
    reader: str
    table: str
    measures: tuple[Measure, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    masks_of_all_frames: Mapping[str, Any] = field(default_factory=dict)


def published_sets() -> dict[str, PublishedSet]:
    """All sets by the name that the command knows them by."""
    path = REFERENCE / SETS_FILE
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    cure = f"see PublishedSet in {Path(__file__).name}"
    return {
        name: read_dataclass(PublishedSet, values, f"{SETS_FILE}: {name}", cure, ConfigError)
        for name, values in content.items()
    }


def published_table(name: str) -> dict[str, dict[str, float]]:
    """One table of the paper: by model, then by column, per cent; what it leaves out is not there.

    Args:
        name: of the CSV file, without suffix.
    """
    with (REFERENCE / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["model"]: {key: float(text) for key, text in row.items() if key != "model" and text}
        for row in rows
    }
