"""Reads from a shared library's headers which GPUs its kernels are for and what it links to.

Nothing is loaded: a provider built for another CUDA, GPU or processor can be looked into as well.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from molmo2_ros.errors import DataError

_ELF_64_LITTLE = b"\x7fELF\x02\x01"
_DYNAMIC_NEEDED = 1
_FATBIN_MAGIC = struct.pack("<I", 0xBA55ED50)
_FATBIN_HEADER, _ENTRY_HEADER = 16, 64  # bytes; no progress is smaller, whatever a file says
_PTX, _CUBIN = 1, 2  # kinds of an entry of a fat binary
# From the next generation on a cubin does not run; nor does a desktop's on a Tegra chip, or back.
_TEGRA = frozenset({53, 62, 72, 87, 101, 110})


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLibrary:
    """A shared library with kernels for GPUs."""

    cubins: frozenset[int]  # compute capabilities times ten that machine code is there for
    ptx: frozenset[int]  # the same, of code that the driver translates
    needs: tuple[str, ...]  # libraries that it links to, such as libcudart.so.13


def read_library(path: Path) -> GpuLibrary:
    """Architectures and links of a library.

    Raises:
        DataError: not a 64-bit little-endian ELF file, or one that was cut off.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as m:
            sections = _sections(m)
            kernels = set(_kernels(m, *sections.get(".nv_fatbin", (0, 0))))
            needs = tuple(_needed(m, sections))
    except (OSError, ValueError, IndexError, OverflowError, struct.error) as error:
        raise DataError(
            f"{path} cannot be read as a shared library ({error}), expected 64-bit ELF; install "
            "the package that it belongs to again"
        ) from error
    return GpuLibrary(
        cubins=frozenset(sm for kind, sm in kernels if kind == _CUBIN),
        ptx=frozenset(sm for kind, sm in kernels if kind == _PTX),
        needs=needs,
    )


def runs_on(library: GpuLibrary, sm: int) -> bool:
    """Whether a GPU finds kernels in a library.

    A cubin runs on its own generation from its own minor version on (sm_86 code on an sm_89 GPU),
    on Tegra chips (Jetson) on the very same one only; PTX on all that came later.

    Args:
        library: its architectures.
        sm: compute capability of the GPU times ten.

    Source: CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility".
    """
    if sm in library.cubins or any(ptx <= sm for ptx in library.ptx):
        return True
    if sm in _TEGRA:
        return False
    return any(
        cubin // 10 == sm // 10 and cubin < sm for cubin in library.cubins if cubin not in _TEGRA
    )


def _sections(m: mmap.mmap) -> dict[str, tuple[int, int]]:
    """Offset and size of each section, by name."""
    if m[: len(_ELF_64_LITTLE)] != _ELF_64_LITTLE:
        raise ValueError(f"it begins with {m[:6]!r}")
    (table,) = struct.unpack_from("<Q", m, 0x28)
    entry_size, num_entries, names_index = struct.unpack_from("<HHH", m, 0x3A)
    headers = [
        struct.unpack_from("<I20xQQ", m, table + index * entry_size) for index in range(num_entries)
    ]
    names = headers[names_index][1]
    return {_text(m, names + name): (offset, size) for name, offset, size in headers}


def _needed(m: mmap.mmap, sections: dict[str, tuple[int, int]]) -> Iterator[str]:
    """Names of the libraries that the dynamic linker loads before this one."""
    offset, size = sections.get(".dynamic", (0, 0))
    names, _ = sections.get(".dynstr", (0, 0))
    for place in range(offset, offset + size, 16):
        tag, value = struct.unpack_from("<qQ", m, place)
        if tag == _DYNAMIC_NEEDED:
            yield _text(m, names + value)


def _kernels(m: mmap.mmap, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """Kind and compute capability of every entry of the fat binaries in a section.

    A fat binary is a header (magic, version, header size, size of what follows) and entries, each
    with a header of its own (kind at 0, header size at 4, size at 8, architecture at 28).
    """
    end = offset + size
    place = m.find(_FATBIN_MAGIC, offset, end)
    while place >= 0:
        header_size, body_size = struct.unpack_from("<HQ", m, place + 6)
        entry = place + header_size
        place = max(entry + body_size, place + _FATBIN_HEADER)
        while entry < min(place, end):
            kind, entry_header, entry_size = struct.unpack_from("<H2xIQ", m, entry)
            yield kind, struct.unpack_from("<I", m, entry + 28)[0]
            entry += max(entry_header + entry_size, _ENTRY_HEADER)
        place = m.find(_FATBIN_MAGIC, place, end)


def _text(m: mmap.mmap, offset: int) -> str:
    end = m.find(b"\0", offset)
    if end < 0:
        raise ValueError("a name in it never ends")
    return m[offset:end].decode("ascii", "replace")
