"""The page's own files: read once, sent by name, never found by a path."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).with_name("page")
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    """One file as it is sent."""

    kind: str  # of its content
    content: bytes
    compressed: bytes  # by gzip
    tag: str  # changes with the content


def read_page() -> dict[str, PageFile]:
    """All files of the page by name."""
    files = {}
    for path in sorted(_FOLDER.iterdir()):
        if path.suffix not in _KINDS:
            continue
        content = path.read_bytes()
        files[path.name] = PageFile(
            kind=_KINDS[path.suffix],
            content=content,
            compressed=gzip.compress(content, mtime=0),
            tag=f'"{hashlib.sha256(content).hexdigest()[:16]}"',
        )
    return files
