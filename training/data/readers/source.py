"""What every reader is given: where the files are, and where to note and put what it finds."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.data.example import Example
from molmo2_ros.training.data.readers.media_index import Resolve, find_media
from molmo2_ros.training.data.readers.media_store import MediaStore
from molmo2_ros.training.data.readers.report import ReadReport, Why


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set on this machine.

    Args:
        folder: of its tables.
        resolve: finds the file of a video or an image.
        report: takes the rows that give no example.
        store: where pictures and masks go that have no file of their own; None: nowhere.
        seed: of what the recipe leaves to chance: which task a row is asked as, and the like.
    """

    folder: Path
    resolve: Resolve
    report: ReadReport = field(default_factory=ReadReport)
    store: MediaStore | None = None
    seed: int = 0

    def rng(self, name: str) -> np.random.Generator:
        """Chance that depends on the seed and a name alone, not on the order of files."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode("utf-8"))])

    def find(self, place: str, *names: str) -> Path | None:
        """The first of several names that has a file; where none has, the row is reported."""
        path = find_media(self.resolve, *names)
        if path is None:
            self.report.skip(place, Why.NO_MEDIA, f"no file for {names[0]}")
        return path

    def needed_store(self) -> MediaStore:
        """Where pictures and masks go.

        Raises:
            ConfigError: nowhere was named.
        """
        if self.store is None:
            raise ConfigError(
                "this data set has pictures or masks inside its tables; name a folder to write "
                "them to (store)"
            )
        return self.store

    def malformed(self, place: str, error: DataError) -> None:
        """Reports a row that is not what its data set says."""
        reason = str(error).removeprefix(place).lstrip(":, ")
        self.report.skip(place, Why.MALFORMED, reason)

    def checked(self, place: str, make: Callable[[], Example | None]) -> Iterator[Example]:
        """An example, or none where its row is malformed, which is reported."""
        try:
            example = make()
        except DataError as error:
            self.malformed(place, error)
            return
        if example is not None:
            yield example
