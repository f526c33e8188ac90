"""Rosbag2 in MCAP and SQLite, whole or damaged, compressed or not, without ROS.

Each storage file is read by itself, so that one that was cut costs no other, and a recorder that
was killed before it wrote metadata.yaml costs nothing but what it had not written.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import yaml

from molmo2_ros.bags.cut_mcap import CutMcap, is_cut
from molmo2_ros.bags.skips import Skips
from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import ConfigError, DataError

_STORAGES = (".mcap", ".db3")
_ZSTD = (".zstd", ".zst")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no CDR begins so: its first byte is 0
_COPY_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BagMessage:
    """One message as it was recorded.

    Args:
        topic: absolute name.
        kind: of the message, such as "sensor_msgs/msg/Image".
        log_ns: when it was recorded, nanoseconds.
        data: CDR.
    """

    topic: str
    kind: str
    log_ns: int
    data: bytes

    @property
    def place(self) -> str:
        """Which message this is, for people who look for it."""
        return f"{self.topic} at {self.log_ns // NS_PER_S}.{self.log_ns % NS_PER_S:09d} s"


class Bag:
    """A bag that is open for reading: a context manager.

    Args:
        path: a bag's folder, or one of its files.
        skips: takes note of what cannot be read.

    Raises:
        ConfigError: the package rosbags is missing.
        DataError: there is no bag, or nothing of it can be read.
    """

    def __init__(self, path: Path, skips: Skips) -> None:
        self.path = path
        self.skips = skips
        self._stack = ExitStack()
        self._parts: list[Any] = []
        try:
            for file in _storage_files(path, skips):
                part = self._open(file)
                if part is not None:
                    self._parts.append(part)
        except BaseException:
            self._stack.close()
            raise
        if not self._parts:
            self._stack.close()
            why = "; ".join(text for texts in skips.texts.values() for text in texts)
            raise DataError(f"nothing of the bag {path} can be read: {why}")

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of its files; may be called twice."""
        self._stack.close()

    @property
    def topics(self) -> dict[str, str]:
        """Kind of message by topic."""
        return {c.topic: c.msgtype for part in self._parts for c in part.connections}

    @property
    def connections(self) -> dict[str, Any]:
        """What rosbags knows of each topic: type, its definition and hash, QoS profiles."""
        return {c.topic: c for part in self._parts for c in part.connections}

    @property
    def span_ns(self) -> tuple[int, int]:
        """When the first and the last message were recorded."""
        filled = [part for part in self._parts if part.message_count]
        if not filled:
            raise DataError(f"the bag {self.path} has no message; was anything being published?")
        return min(p.start_time for p in filled), max(p.end_time for p in filled) - 1

    def require(self, topics: Collection[str], kinds: Collection[str]) -> None:
        """Refuse topics that the bag has not, or that carry something else.

        Raises:
            DataError: says what there is.
        """
        there = self.topics
        for topic in topics:
            fitting = sorted(name for name, kind in there.items() if kind in kinds)
            if topic not in there:
                raise DataError(
                    f"the bag {self.path} has no topic {topic}; of the kind that is wanted "
                    f"({', '.join(sorted(kinds))}) it has {', '.join(fitting) or 'none'}"
                )
            if there[topic] not in kinds:
                raise DataError(
                    f"topic {topic} of the bag {self.path} carries {there[topic]}, expected "
                    f"{' or '.join(sorted(kinds))}: {', '.join(fitting) or 'no topic'} would do"
                )

    def messages(
        self, topics: Collection[str], start_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Read messages in the order of recording; a file that breaks off is told, and left.

        Args:
            topics: names; those that a file lacks are no error.
            start_ns: leave out what was recorded before.
        """
        for part in self._parts:
            wanted = [c for c in part.connections if c.topic in topics]
            if not wanted:
                continue
            last = "its beginning"
            try:
                for connection, log_ns, data in part.messages(wanted, start_ns):
                    message = BagMessage(
                        topic=connection.topic,
                        kind=connection.msgtype,
                        log_ns=log_ns,
                        data=_inflated(data),
                    )
                    last = message.place
                    yield message
            except _broken() as error:
                self.skips.add(
                    "rest of a file",
                    f"{part.path} cannot be read on after {last} ({_words(error)}); what came "
                    "before is kept",
                )

    def _open(self, file: Path) -> Any:
        """A reader of one storage file; None where it is not readable at all."""
        try:
            from rosbags.rosbag2 import Reader
        except ImportError as error:
            raise needs_rosbags("reading bags", error) from error
        try:
            plain = self._plain(file)
            path: Any = plain
            if plain.suffix == ".mcap" and is_cut(plain):
                path = CutMcap(plain)
                self.skips.add(
                    "end of a file",
                    f"{file} has no end: its last {path.num_lost} bytes are no whole record; its "
                    "recorder was killed, or the copy broke off",
                )
            reader = Reader(path)
            reader.open()
        except _broken() as error:
            self.skips.add("file", f"{file} cannot be opened ({_words(error)})")
            return None
        self._stack.callback(reader.close)
        return reader

    def _plain(self, file: Path) -> Path:
        """The file itself, or what a compressed one holds, in a folder that goes with the bag."""
        if file.suffix not in _ZSTD:
            return file
        folder = self._stack.enter_context(TemporaryDirectory(prefix="molmo2_bag_"))
        plain = Path(folder, file.stem)
        try:
            _unpack(file, plain)
        except (EOFError, _zstd().ZstdError) as error:
            self.skips.add(
                "end of a file",
                f"{file} breaks off while it is unpacked ({_words(error)}); what came before is "
                "kept",
            )
        return plain


def needs_rosbags(doing: str, error: ImportError) -> ConfigError:
    """What to say where the package rosbags, or one that it needs, is missing.

    Args:
        doing: what cannot be done.
        error: of the import.
    """
    return ConfigError(
        f"{doing} needs the package {error.name}, which is not installed; "
        '`pip install "molmo2_ros[recorder]"` brings it'
    )


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a storage file, or a folder that holds one."""
    if path.is_dir():
        return any(map(_is_storage, path.iterdir()))
    return path.is_file() and _is_storage(path)


def _storage_files(path: Path, skips: Skips) -> list[Path]:
    """The files of a bag in their order."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"there is no bag {path}; expected a folder with metadata.yaml, or a file")
    found = [file for file in sorted(path.iterdir(), key=_number_in_name) if _is_storage(file)]
    named = _named_files(path, skips)
    for name in named:
        if not (path / name).exists():
            skips.add("file", f"{path / name} is named in metadata.yaml and missing")
    ordered = [path / name for name in named if (path / name).exists()]
    files = ordered + [file for file in found if file not in ordered]
    if not files:
        raise DataError(
            f"{path} has neither .mcap nor .db3 files; expected the folder of a rosbag2"
        )
    return files


def _named_files(path: Path, skips: Skips) -> list[str]:
    """What metadata.yaml names; nothing where it is missing or damaged."""
    try:
        content = yaml.safe_load((path / "metadata.yaml").read_text("utf-8"))
        names = content["rosbag2_bagfile_information"]["relative_file_paths"]
        return [PurePath(name).name for name in names]
    except FileNotFoundError:
        skips.add("metadata", f"{path} has no metadata.yaml; its files are read without")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        skips.add("metadata", f"{path / 'metadata.yaml'} cannot be read ({_words(error)})")
    return []


def _is_storage(file: Path) -> bool:
    name = PurePath(file.stem) if file.suffix in _ZSTD else file
    return name.suffix in _STORAGES


def _number_in_name(file: Path) -> tuple[int, str]:
    """bag_10.mcap comes after bag_9.mcap."""
    digits = file.name.split(".")[0].rsplit("_", 1)[-1]
    return (int(digits) if digits.isdigit() else -1, file.name)


def _inflated(data: bytes) -> bytes:
    """A message that was compressed by itself, or as it is."""
    return _zstd().decompress(data) if data[:4] == _ZSTD_MAGIC else data


def _unpack(file: Path, plain: Path) -> None:
    """Unpack a file; of one that breaks off as much as there is."""
    stream = _zstd().ZstdDecompressor()
    with file.open("rb") as packed, plain.open("wb") as out:
        while data := packed.read(_COPY_BYTES):
            while data:
                if stream.eof:
                    stream = _zstd().ZstdDecompressor()
                out.write(stream.decompress(data))
                data = stream.unused_data
    if not stream.eof:
        raise EOFError("it ends within its last frame")


def _zstd() -> Any:
    """Python's own module where there is one (3.14), else what rosbags brings."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from backports import zstd  # type: ignore[no-redef, unused-ignore]
    return zstd


def _broken() -> tuple[type[BaseException], ...]:
    """What rosbags raises on a damaged file, whatever damaged it."""
    import apsw
    from rosbags.rosbag2 import ReaderError

    values = (ValueError, TypeError, KeyError, struct.error, RuntimeError)
    return (
        DataError, ReaderError, OSError, EOFError, AssertionError, sqlite3.Error, apsw.Error,
        _zstd().ZstdError, *values,
    )  # fmt: skip


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
