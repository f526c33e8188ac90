"""An MCAP file without its end, read as if it had one.

A recorder that was killed, or a copy that broke off, leaves a file whose records are whole up to
some byte, and neither index nor footer. Readers refuse that. Here the whole records, an index of
their chunks and a footer are shown as one file; nothing is written.

Source: the MCAP specification (records: opcode, uint64 length, content; footer 0x02), and what a
killed recorder leaves.
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from molmo2_ros.errors import DataError

MAGIC = b"\x89MCAP0\r\n"
_RECORD = struct.Struct("<BQ")  # opcode, length of what follows
_CHUNK, _MESSAGE_INDEX, _CHUNK_INDEX, _STATISTICS, _FOOTER = 0x06, 0x07, 0x08, 0x0B, 0x02
_DATA_RECORDS = (*range(0x03, 0x08), 0x09, 0x0C)  # what may stand before the end of data
_CHUNK_HEAD = struct.Struct("<QQQI")  # first and last time, bytes unpacked, checksum


def is_cut(path: Path) -> bool:
    """Whether a file begins as MCAP and has no end."""
    with path.open("rb") as file:
        begins = file.read(len(MAGIC)) == MAGIC
        file.seek(0, os.SEEK_END)
        if not begins or file.tell() < 2 * len(MAGIC):
            return begins
        file.seek(-len(MAGIC), os.SEEK_END)
        return file.read() != MAGIC


class CutMcap:
    """Stands for the path of a cut file where rosbags expects one.

    Args:
        path: of the cut file.

    Raises:
        DataError: not even the header is whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.stem = path.stem
        self.suffix = ".mcap"
        chunks, self.num_whole = _scan(path)
        self._end = _end_of_file(chunks, self.num_whole)
        self.num_lost = path.stat().st_size - self.num_whole

    def exists(self) -> bool:
        """It does."""
        return True

    def is_dir(self) -> bool:
        """It is a file."""
        return False

    def open(self, *_: Any, **__: Any) -> BinaryIO:
        """The whole records and what belongs behind them."""
        return io.BufferedReader(_Joined(self._path, self.num_whole, self._end))

    def __str__(self) -> str:
        return str(self._path)


class _Joined(io.RawIOBase):
    """The first bytes of a file, and others behind them."""

    def __init__(self, path: Path, num_whole: int, end: bytes) -> None:
        self._file = path.open("rb", buffering=0)
        self._num_whole = num_whole
        self._end = end
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        end = self._num_whole + len(self._end)
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: end}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        left = self._num_whole - self._place
        if left > 0:
            self._file.seek(self._place)
            data = self._file.read(min(left, len(buffer)))
        else:
            data = self._end[-left : -left + len(buffer)]
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(slots=True)
class _Chunk:
    """Where a chunk is, and where its messages are listed."""

    place: int
    length: int  # of its record
    head: bytes  # its first and last time
    sizes: tuple[bytes, int, int]  # compression, bytes packed, bytes unpacked
    index_places: dict[int, int]  # of the list of each channel's messages
    index_length: int = 0

    def record(self) -> bytes:
        """The entry of the file's index."""
        compression, packed, unpacked = self.sizes
        offsets = b"".join(struct.pack("<HQ", *entry) for entry in self.index_places.items())
        return _record(
            _CHUNK_INDEX,
            self.head
            + struct.pack("<QQ", self.place, self.length)
            + struct.pack("<I", len(offsets))
            + offsets
            + struct.pack("<QI", self.index_length, len(compression))
            + compression
            + struct.pack("<QQ", packed, unpacked),
        )


def _record(code: int, content: bytes) -> bytes:
    return _RECORD.pack(code, len(content)) + content


def _end_of_file(chunks: list[_Chunk], num_whole: int) -> bytes:
    """Index and footer; statistics of zeros let a reader count for itself."""
    listed = [chunk.record() for chunk in chunks if chunk.index_places]
    statistics = _record(_STATISTICS, bytes(46))
    summary = b"".join([*listed, statistics]) if listed else b""
    footer = _record(_FOOTER, struct.pack("<QQI", num_whole if listed else 0, 0, 0))
    return summary + footer + MAGIC


def _scan(path: Path) -> tuple[list[_Chunk], int]:
    """All chunks, and the bytes up to the end of the last whole record.

    A last chunk whose messages are not listed behind it counts as cut, where others have a list.
    """
    chunks: list[_Chunk] = []
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{path} does not begin as an MCAP file; it is none, or it is damaged")
        place = len(MAGIC)
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            code, length = _RECORD.unpack(head)
            is_header = place == len(MAGIC) and code == 0x01
            end = place + _RECORD.size + length
            if end > size or not (is_header or code in _DATA_RECORDS):
                break
            if code == _CHUNK:
                chunks.append(_chunk(file, place, length))
            elif code == _MESSAGE_INDEX and chunks:
                channel = struct.unpack("<H", file.read(2))[0]
                chunks[-1].index_places[channel] = place
                chunks[-1].index_length = end - chunks[-1].place - chunks[-1].length
            place = end
            file.seek(place)
    if place == len(MAGIC):
        raise DataError(f"{path} was cut in its header: nothing of it can be read; record it again")
    if len(chunks) > 1 and chunks[0].index_places and not chunks[-1].index_places:
        place = chunks.pop().place
    return chunks, place


def _chunk(file: BinaryIO, place: int, length: int) -> _Chunk:
    head = file.read(_CHUNK_HEAD.size)
    unpacked = _CHUNK_HEAD.unpack(head)[2]
    compression = file.read(struct.unpack("<I", file.read(4))[0])
    packed = struct.unpack("<Q", file.read(8))[0]
    return _Chunk(place, _RECORD.size + length, head[:16], (compression, packed, unpacked), {})
