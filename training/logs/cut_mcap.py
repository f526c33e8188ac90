"""An MCAP file without its end, read as if it had one.

A recorder that was killed, or a copy that broke off, leaves a file whose records are whole up to
some byte, and no footer. Readers refuse that. Here the whole records and a footer that we make are
shown as one file; nothing is written.

Source: the MCAP specification (records: opcode, uint64 length, content; footer 0x02), and what a
killed recorder leaves.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from molmo2_ros.errors import DataError

MAGIC = b"\x89MCAP0\r\n"
_RECORD = struct.Struct("<BQ")  # opcode, length of what follows
_FOOTER = _RECORD.pack(0x02, 20) + struct.pack("<QQI", 0, 0, 0) + MAGIC  # and no summary
_DATA_RECORDS = range(0x03, 0x0F + 1)  # what may stand before the footer; 0x02 is the footer
_LAST_OF_DATA = (0x02, 0x0F)


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
        self.num_whole = _whole_bytes(path)
        self.num_lost = path.stat().st_size - self.num_whole

    def exists(self) -> bool:
        """It does."""
        return True

    def is_dir(self) -> bool:
        """It is a file."""
        return False

    def open(self, *_: Any, **__: Any) -> BinaryIO:
        """The whole records and the footer."""
        return io.BufferedReader(_Joined(self._path, self.num_whole))

    def __str__(self) -> str:
        return str(self._path)


class _Joined(io.RawIOBase):
    """The first bytes of a file, and the footer behind them."""

    def __init__(self, path: Path, num_whole: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._num_whole = num_whole
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        end = self._num_whole + len(_FOOTER)
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: end}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        left = self._num_whole - self._place
        if left > 0:
            self._file.seek(self._place)
            data = self._file.read(min(left, len(buffer)))
        else:
            data = _FOOTER[-left : -left + len(buffer)]
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _whole_bytes(path: Path) -> int:
    """Bytes up to the end of the last whole record."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{path} does not begin as an MCAP file; it is none, or it is damaged")
        place = len(MAGIC)
        while True:
            file.seek(place)
            head = file.read(_RECORD.size)
            if len(head) < _RECORD.size:
                break
            code, length = _RECORD.unpack(head)
            is_header = place == len(MAGIC) and code == 0x01
            end = place + _RECORD.size + length
            if end > size or code in _LAST_OF_DATA or not (is_header or code in _DATA_RECORDS):
                break
            place = end
    if place == len(MAGIC):
        raise DataError(f"{path} was cut in its header: nothing of it can be read; record it again")
    return place
