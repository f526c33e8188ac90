"""Builds an engine folder out of sight, so that a killed export leaves nothing that loads."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.manifest import FILE_NAME, Manifest

_LOCK, _BUILD = "lock", "engine"


@contextmanager
def scratch_beside(out: Path) -> Iterator[Path]:
    """An empty folder on the file system of `out` that goes away at the end.

    What a killed export of the same `out` left behind goes away first: the lock of a process ends
    with it, however it ends.

    Args:
        out: the folder that will be made or replaced.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    scratch = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
    with (scratch / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            (scratch / _BUILD).mkdir()
            yield scratch / _BUILD
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def install(built: Path, out: Path) -> None:
    """Move a finished engine to its place; other files there stay.

    At every moment `out` is the old engine, the new one, or a folder without a manifest, which does
    not load.

    Args:
        built: folder with a manifest.
        out: on the same file system.
    """
    if not out.exists():
        built.rename(out)
        return
    old = _files_of(out)
    (out / FILE_NAME).unlink(missing_ok=True)
    names = sorted(path.name for path in built.iterdir() if path.name != FILE_NAME)
    for name in names:
        (built / name).replace(out / name)
    for name in old - set(names):
        (out / name).unlink(missing_ok=True)
    (built / FILE_NAME).replace(out / FILE_NAME)


def check_space(folder: Path, num_bytes: int) -> None:
    """Refuse what the disk cannot hold, before hours are spent on it.

    Args:
        folder: that will be written below, or one of its parents.
        num_bytes: that will be written.

    Raises:
        EngineError: there is less.
    """
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise EngineError(
            f"{existing} has {free / 1e9:.1f} GB free, the engine takes {num_bytes / 1e9:.1f} GB; "
            "make room, give another folder, or export with --dtype float16"
        )


def _files_of(engine: Path) -> set[str]:
    """Names that the manifest of an engine lists; none where it has no readable one."""
    try:
        return set(Manifest.load(engine, verify=False).files)
    except EngineError:
        return set()


def _remove_leftovers(out: Path) -> None:
    for scratch in out.parent.glob(f"{_prefix(out)}*"):
        if not (scratch / _LOCK).is_file():
            continue  # it is being made at this moment
        with (scratch / _LOCK).open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # another export is at work there
            shutil.rmtree(scratch, ignore_errors=True)


def _prefix(out: Path) -> str:
    return f".{out.name}.export-"
