"""What was already made of a log, line by line in JSON: a run that was killed goes on behind it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from molmo2_ros.errors import ConfigError, DataError


class LineFile:
    """Appends JSON lines, each on disk before the next thing is done; a torn last line is dropped.

    Args:
        path: of the file.
        head: what the lines were made with, its first line: a run with another head is refused.

    Raises:
        ConfigError: the file was begun with another head.
        DataError: it cannot be written, or is damaged.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self.path = path
        head = json.loads(json.dumps(head))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines, num_bytes = _whole_lines(path)
            if lines and lines[0] != head:
                raise ConfigError(_told_apart(path, lines[0], head))
            self._file = path.open("r+b" if path.exists() else "xb")
            self._file.truncate(num_bytes)
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise cannot_write(path, error) from error
        self.earlier = lines[1:]
        if not lines:
            self.append(head)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line, and wait until it is on disk.

        Raises:
            DataError: there is no space left.
        """
        try:
            self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __enter__(self) -> LineFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of such a file, without its head; none where there is no file.

    Raises:
        DataError: the file is damaged.
    """
    return _whole_lines(path)[0][1:]


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """What the lines say that were not torn, and the bytes that they take."""
    if not path.exists():
        return [], 0
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    said = []
    for number, line in enumerate(lines, 1):
        try:
            said.append(json.loads(line))
        except ValueError as error:
            raise DataError(
                f"{path} is damaged in line {number} ({error}); remove the file and run the same "
                "command again, which makes anew what it told of"
            ) from error
    return said, sum(len(line) for line in lines)


def _told_apart(path: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    names = sorted(name for name in {*there, *wanted} if there.get(name) != wanted.get(name))
    told = "; ".join(f"{name} {there.get(name)} there, {wanted.get(name)} now" for name in names)
    return (
        f"{path} was begun with other settings ({told}); go on with the same, or give another "
        "folder"
    )


def cannot_write(path: Path, error: OSError) -> DataError:
    """An error that says where the space ended, and that what was made stays."""
    return DataError(
        f"{path} cannot be written ({error.strerror or error}); what was made before is kept: make "
        "room and run the same command again"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRecord:
    """One clip that was made.

    Args:
        name: unique among all logs.
        split: the set that it belongs to.
        frames: paths relative to the set's folder.
        stamps_ns: of the frames.
        hardness: 0..1; 0 where nothing was recorded that would tell.
        reasons: hardness by reason.
        corrections: of operators: index of the frame, words, and x and y in 0..1, or None for
            "there is none".
    """

    name: str
    split: str
    frames: tuple[str, ...]
    stamps_ns: tuple[int, ...]
    hardness: float
    reasons: Mapping[str, float]
    corrections: tuple[tuple[int, str, float | None, float | None], ...]

    @property
    def times_s(self) -> tuple[float, ...]:
        """Seconds from the clip's first frame."""
        return tuple((stamp_ns - self.stamps_ns[0]) / 1e9 for stamp_ns in self.stamps_ns)

    def as_json(self) -> dict[str, Any]:
        """As text that `from_json` reads."""
        return {
            "name": self.name,
            "split": self.split,
            "frames": list(self.frames),
            "stamps_ns": list(self.stamps_ns),
            "hardness": self.hardness,
            "reasons": dict(self.reasons),
            "corrections": [list(entry) for entry in self.corrections],
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> ClipRecord:
        """What `as_json` wrote."""
        return cls(
            name=found["name"],
            split=found["split"],
            frames=tuple(found["frames"]),
            stamps_ns=tuple(found["stamps_ns"]),
            hardness=found["hardness"],
            reasons=found["reasons"],
            corrections=tuple((i, words, x, y) for i, words, x, y in found["corrections"]),
        )
