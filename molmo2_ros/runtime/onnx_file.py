"""What an ONNX file says of itself that no session tells, read without the onnx package.

Only two things are looked for: the version of the operators, and the files beside it that hold
weights. Source: onnx.proto (ModelProto.opset_import is field 8, of a version in field 2;
TensorProto.external_data holds pairs of strings, one of them keyed "location").
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from molmo2_ros.errors import EngineError

_OPSET_IMPORT, _DOMAIN, _VERSION = 8, 1, 2
_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
# Field 1 of eight bytes "location", then field 2: its value. Ten bytes do not meet by chance.
_LOCATION = b"\x0a\x08location\x12"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFacts:
    """What one file says."""

    opset: int  # of the standard operators
    external: frozenset[str]  # where weights are looked for, relative to the file's folder


def read_onnx_facts(path: Path) -> OnnxFacts:
    """Look into a file; gigabytes of weights inside it are stepped over.

    Raises:
        EngineError: it is no ONNX file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            opsets = [
                opset
                for number, start, end in _fields(data, 0, len(data))
                if number == _OPSET_IMPORT and (opset := _standard_opset(data, start, end))
            ]
            external = frozenset(_locations(data))
    except (OSError, ValueError, IndexError) as error:
        raise EngineError(f"{path} is no ONNX file ({error}); make the engine anew") from error
    if len(opsets) != 1:
        raise EngineError(f"{path} is no ONNX file (it names no operators); make the engine anew")
    return OnnxFacts(opset=opsets[0], external=external)


def _standard_opset(data: mmap.mmap, start: int, end: int) -> int:
    """The version that an import names, 0 where it is of another domain."""
    version = 0
    for number, first, last in _fields(data, start, end):
        if number == _DOMAIN and data[first:last] not in (b"", b"ai.onnx"):
            return 0
        if number == _VERSION:
            version, _ = _varint(data, first)
    return version


def _locations(data: mmap.mmap) -> Iterator[str]:
    at = data.find(_LOCATION)
    while at >= 0:
        length, start = _varint(data, at + len(_LOCATION))
        yield data[start : start + length].decode("utf-8", errors="replace")
        at = data.find(_LOCATION, start)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, first and past-the-last byte of each field of a protobuf message."""
    while start < end:
        tag, start = _varint(data, start)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, last = _varint(data, start)
        elif kind == _LENGTH_DELIMITED:
            length, start = _varint(data, start)
            last = start + length
        elif kind in _FIXED_BYTES:
            last = start + _FIXED_BYTES[kind]
        else:
            raise ValueError(f"byte {start} opens a field of unknown kind {kind}")
        if last > end:
            raise ValueError(f"it ends within a field of {last - start} bytes")
        yield number, start, last
        start = last


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for index in range(10):
        byte = data[start + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, start + index + 1
    raise ValueError(f"byte {start} opens a number that does not end")
