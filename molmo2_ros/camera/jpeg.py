"""The size of a JPEG, from its header: known before it is decoded, or without."""

from __future__ import annotations

_START = b"\xff\xd8"
# Start of frame, baseline to arithmetic; C4, C8 and CC are tables and extensions.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels, None where it is no JPEG or is cut before they are told.

    Source: ITU-T T.81, B.1.1 and B.2.2.
    """
    if data[:2] != _START:
        return None
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _FRAMES:
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            size = int.from_bytes(width, "big"), int.from_bytes(height, "big")
            return size if len(width) == 2 and min(size) > 0 else None
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
