"""Files that a kill, a power cut or another process leaves old or new, and never half."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Give a file another content in one step; it is on the disk on return.

    Any number of threads and processes may do so at once: the last one's text stays.

    Args:
        path: in a folder that is there.
        text: written as UTF-8.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fresh.write_text(text, encoding="utf-8")
        sync(fresh)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's entries, is on the disk.

    Raises:
        OSError: it is not there, or the disk fails.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_below(folder: Path) -> None:
    """Wait until a folder and all that is in it is on the disk.

    Raises:
        OSError: the disk fails.
    """
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
