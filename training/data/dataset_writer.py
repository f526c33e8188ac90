"""Writes a data set so that what was written stays whatever happens.

A row is in the file when `add` returns. A writer that is opened on a folder goes on there: a row
that was cut off is dropped, names that are there already are known.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import DataError
from molmo2_ros.runtime.durable import replace_text, sync
from molmo2_ros.training.data.dataset import (
    ABOUT_FILE,
    FORMAT,
    PARQUET_FILE,
    ROWS_FILE,
    read_example,
    write_example,
)
from molmo2_ros.training.data.example import Example
from molmo2_ros.training.data.file_name import safe_name

JPEG_QUALITY = 92
_LOG = logging.getLogger(__name__)


class DatasetWriter:
    """A data set that is being made; use it in a `with` statement.

    Args:
        folder: made where it is missing; a data set that is there is added to.
        name: of the data set; None for the folder's.

    Raises:
        DataError: the folder cannot be written to, or holds something else.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.folder = folder
        self._name = name or folder.resolve().name
        self._sources: Counter[str] = Counter()
        self._names: set[str] = set()
        if (folder / PARQUET_FILE).exists():
            raise DataError(f"{folder} is kept as Parquet, which is not added to; use a new folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._mend()
            self._rows = (folder / ROWS_FILE).open("ab")
        except OSError as error:
            raise DataError(f"cannot write to {folder}: {error}") from error

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __contains__(self, name: object) -> bool:
        """Whether an example of that name is there, so that it need not be made again."""
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)

    def add(self, example: Example) -> None:
        """Write one example.

        Raises:
            DataError: one of that name is there already, or the disk is full; all others stay.
        """
        if example.name in self._names:
            raise DataError(f"{self.folder} has an example {example.name!r} already")
        start = self._rows.tell()
        try:
            self._rows.write(f"{write_example(example)}\n".encode())
            self._rows.flush()
        except OSError as error:
            raise self._full(error, start) from error
        self._count(example)

    def add_frames(self, name: str, images: Sequence[npt.NDArray[np.uint8]]) -> tuple[str, ...]:
        """Write pictures as JPEG.

        Args:
            name: of the example; part of the files' names.
            images: uint8 [H, W, 3] RGB each.

        Returns:
            their paths, relative to the folder.

        Raises:
            DataError: the disk is full, or an image is none.
        """
        return tuple(
            self._write(f"frames/{safe_name(name)}/{number:04d}.jpg", image)
            for number, image in enumerate(images)
        )

    def add_mask(self, name: str, mask: npt.NDArray[np.bool_]) -> str:
        """Write a mask as PNG.

        Args:
            name: unique among the masks.
            mask: bool [H, W].

        Returns:
            its path, relative to the folder.
        """
        return self._write(f"masks/{safe_name(name)}.png", mask.astype(np.uint8) * 255)

    def close(self) -> None:
        """Write `dataset.json`; the data set can be opened from then on."""
        if self._rows.closed:
            return
        about = {
            "format": FORMAT,
            "name": self._name,
            "num_examples": len(self._names),
            "sources": dict(sorted(self._sources.items())),
        }
        try:
            self._rows.close()
            sync(self.folder / ROWS_FILE)
            replace_text(self.folder / ABOUT_FILE, json.dumps(about, indent=2) + "\n")
        except OSError as error:
            raise DataError(f"cannot write {self.folder / ABOUT_FILE}: {error}") from error

    def _mend(self) -> None:
        """Count what is there, and drop a last row that was cut off."""
        path = self.folder / ROWS_FILE
        if not path.exists():
            return
        whole = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    _LOG.warning("%s, row %d was cut off and is dropped", path, number)
                    break
                self._count(read_example(line, f"{path}, row {number}"))
                whole += len(line)
        os.truncate(path, whole)

    def _count(self, example: Example) -> None:
        self._names.add(example.name)
        self._sources.update(annotation.source for annotation in example.annotations)

    def _write(self, path: str, image: npt.NDArray[np.uint8]) -> str:
        target = self.folder / path
        stored = image[..., ::-1] if image.ndim == 3 else image  # OpenCV counts from blue
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if target.suffix == ".jpg" else []
        done, encoded = cv2.imencode(target.suffix, np.ascontiguousarray(stored), options)
        if not done:
            raise DataError(f"a picture of shape {image.shape} cannot be written as {path}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(encoded.tobytes())
        except OSError as error:
            raise self._full(error, self._rows.tell()) from error
        return path

    def _full(self, error: OSError, start: int) -> DataError:
        """Cut off what was half written; what to say."""
        os.truncate(self.folder / ROWS_FILE, start)
        return DataError(
            f"cannot write to {self.folder}: {error}; its {len(self)} examples are kept: make room "
            "and start again, which goes on behind them"
        )


def as_parquet(folder: Path) -> Path:
    """Keep a data set's rows as one compressed Parquet file instead of lines of JSON.

    Raises:
        DataError: the folder is no data set, or the file cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    path, rows = folder / PARQUET_FILE, folder / ROWS_FILE
    try:
        # Not splitlines: it also breaks rows at characters that JSON leaves as they are.
        lines = rows.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        examples = [read_example(line, f"{rows}, row {i}") for i, line in enumerate(lines, 1)]
        table = pyarrow.table({"name": [e.name for e in examples], "example": lines})
        partial = path.with_suffix(".partial")
        parquet.write_table(table, partial, compression="zstd")
        os.replace(partial, path)
        rows.unlink()
    except OSError as error:
        raise DataError(f"cannot keep {rows} as Parquet: {error}") from error
    return path
