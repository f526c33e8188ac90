"""Where the videos and images of a data set lie that ships only their names, ids or addresses."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.readers.table import read_json

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MEDIA_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES

Resolve = Callable[[str], "Path | None"]  # a video's id, an address or a path -> the file, if any


class MediaIndex:
    """Finds a file by the name that a row has for it.

    A name may be a path below the folder, with or without suffix; the last parts of such a path;
    an id that is a file's name, or that of a folder with this one video inside; or an address,
    whose file is named by the SHA-256 of the address, as the authors' downloader has it.

    Args:
        folder: that paths are relative to.
        files: that exist below it.
        names: further names, each for one file; they come first.
    """

    def __init__(
        self, folder: Path, files: Iterable[Path], names: dict[str, Path] | None = None
    ) -> None:
        self._names = dict(names or {})
        self._by_stem: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        self._by_folder: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        self._folder = folder
        for path in files:
            parts = path.relative_to(folder).parts
            stem = PurePosixPath(parts[-1]).stem
            self._by_stem[stem].append(parts)
            if len(parts) > 1 and path.suffix.lower() in VIDEO_SUFFIXES:
                self._by_folder[parts[-2]].append(parts)

    @classmethod
    def scan(cls, folder: Path) -> MediaIndex:
        """All videos and images below a folder.

        Raises:
            DataError: it does not exist.
        """
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder, expected that of the videos or images")
        files = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in MEDIA_SUFFIXES)
        return cls(folder, files)

    @classmethod
    def load(cls, path: Path) -> MediaIndex:
        """A JSON file of names, each with its file relative to the JSON file's folder.

        Raises:
            DataError: it cannot be read, or is not a record of paths.
        """
        names = read_json(path)
        if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
            raise DataError(f"{path} is no media index, expected a record of names and paths")
        return cls(path.parent, (), {name: path.parent / file for name, file in names.items()})

    def __call__(self, name: str) -> Path | None:
        """The file of a name, or None.

        Raises:
            DataError: several files go by this name.
        """
        named = self._names.get(name)
        if named is not None:
            return named if named.is_file() else None
        if "://" in name:
            name = hashlib.sha256(name.encode("utf-8")).hexdigest()
        wanted = PurePosixPath(name).parts
        if not wanted:
            return None
        return self._only(name, self._in_stems(wanted)) or self._only(
            name, self._by_folder_of(name)
        )

    def _in_stems(self, wanted: tuple[str, ...]) -> list[tuple[str, ...]]:
        last = PurePosixPath(wanted[-1])
        is_file_name = last.suffix.lower() in MEDIA_SUFFIXES
        found = self._by_stem.get(last.stem if is_file_name else wanted[-1], [])
        if is_file_name:
            found = [parts for parts in found if parts[-1] == wanted[-1]]
        num_above = len(wanted) - 1
        above = [p for p in found if p[len(p) - 1 - num_above : -1] == wanted[:-1]]
        exact = [p for p in above if len(p) == len(wanted)]
        return exact or above

    def _by_folder_of(self, name: str) -> list[tuple[str, ...]]:
        return self._by_folder.get(name, [])

    def _only(self, name: str, found: list[tuple[str, ...]]) -> Path | None:
        if len(found) > 1:
            shown = ", ".join("/".join(parts) for parts in found[:3])
            raise DataError(
                f"{len(found)} files go by the name {name!r} below {self._folder}: {shown}; keep "
                "one, or name a media index that says which"
            )
        return self._folder.joinpath(*found[0]) if found else None


def find_media(resolve: Resolve, *names: str) -> Path | None:
    """The file of the first of several names that has one."""
    for name in names:
        path = resolve(name) if name else None
        if path is not None:
            return path
    return None
