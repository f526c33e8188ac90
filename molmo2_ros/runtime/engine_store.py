"""Engines of a robot by name, each with the ones before it: install, use, go back.

A store is a folder; every name has a folder in it with one subfolder a version and `history.json`,
the versions in the order in which they became current, the last one being current now. That file is
replaced in one step: a power cut leaves the old or the new engine, never half of one.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from molmo2_ros.errors import EngineError, Molmo2Error
from molmo2_ros.runtime.durable import replace_text, sync_below

HISTORY = "history.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_RESERVED = ("nano", "store")
_INCOMING = ".incoming"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One name of a store.

    Args:
        name: as nodes are given it.
        folder: of the current version: an engine folder.
        history: names of the versions, oldest first, the last one current.
    """

    name: str
    folder: Path
    history: tuple[str, ...]


class EngineStore:
    """The engines that were installed on this machine.

    Args:
        folder: None for `default_folder()`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = default_folder() if folder is None else folder

    def names(self) -> list[str]:
        """What is installed, in alphabetical order."""
        return sorted(path.parent.name for path in self.folder.glob(f"*/{HISTORY}"))

    def find(self, name: str) -> Installed:
        """The current version of a name.

        Raises:
            EngineError: it is not installed, or the store was damaged.
        """
        place = self.folder / _checked(name)
        path = place / HISTORY
        try:
            history = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            have = ", ".join(self.names()) or "nothing"
            raise EngineError(
                f"no engine {name!r} in {self.folder}, which has {have}; "
                f"`molmo2 engine install FOLDER {name}` puts one there"
            ) from None
        except (OSError, ValueError) as error:
            raise EngineError(f"{path} cannot be read ({error}); {_anew(name)}") from error
        if not history or not all(isinstance(v, str) and _NAME.fullmatch(v) for v in history):
            raise EngineError(f"{path} is no list of versions; {_anew(name)}")
        folder = place / history[-1]
        if not folder.is_dir():
            raise EngineError(f"{folder}, the current {name}, is gone; {_anew(name)}")
        return Installed(name=name, folder=folder, history=tuple(history))

    def install(self, source: Path, name: str, *, keep: int = 3) -> Installed:
        """Copy an engine, prove that it computes rightly here, and make it the current one.

        Args:
            source: an engine folder.
            name: what to call it; one that is there already gets a new version.
            keep: versions to keep, the new one among them; at least 2, or there is no way back.

        Raises:
            EngineError: the engine is unfit or fails its golden example, there is no room, or the
                name is not one; what was current stays so.
        """
        if keep < 2:
            raise EngineError(f"keep is {keep}, expected at least 2: one to go back to")
        place = self.folder / _checked(name)
        with _locked(place):
            incoming = place / _INCOMING
            shutil.rmtree(incoming, ignore_errors=True)
            try:
                checksum = _take_in(source, incoming)
                history = self._history(name)
                version = f"{_next_number(place):04d}-{checksum[:8]}"
                incoming.rename(place / version)
            except OSError as error:
                raise EngineError(f"cannot write to {place}: {error}; make room there") from error
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
            kept = [*history, version][-keep:]
            _write(place / HISTORY, kept)
            _remove_others(place, kept)
        return self.find(name)

    def _history(self, name: str) -> tuple[str, ...]:
        """What was current before; nothing where that cannot be told: an install mends it."""
        try:
            return self.find(name).history
        except EngineError:
            return ()

    def rollback(self, name: str) -> Installed:
        """Make the version before the current one current again, and remove the current one.

        Raises:
            EngineError: it is not installed, there is none before, or that one is gone.
        """
        place = self.folder / _checked(name)
        self.find(name)
        with _locked(place):
            *before, current = self.find(name).history
            if not before:
                raise EngineError(f"{name} has one version, {current}, and none to go back to")
            if not (place / before[-1]).is_dir():
                raise EngineError(f"{place / before[-1]} is gone; {current} stays the current one")
            _write(place / HISTORY, before)
            _remove_others(place, before)
        return self.find(name)


def default_folder() -> Path:
    """MOLMO2_ROS_ENGINES, or `molmo2_ros/engines` in the user's data folder (XDG_DATA_HOME)."""
    chosen = os.environ.get("MOLMO2_ROS_ENGINES")
    if chosen:
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "molmo2_ros" / "engines"


def is_installed(name: str) -> bool:
    """Whether a word that somebody gave for an engine names one of the default store."""
    return bool(_NAME.fullmatch(name)) and (default_folder() / name / HISTORY).exists()


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise EngineError(
            f"{name!r} cannot be an engine's name; expected letters, digits, '.', '_' and '-', at "
            f"most 64, and not {' or '.join(_RESERVED)}"
        )
    return name


def _anew(name: str) -> str:
    return f"install it anew: `molmo2 engine install FOLDER {name}`"


def _take_in(source: Path, folder: Path) -> str:
    """Copy an engine and prove the copy; its checksum."""
    from molmo2_ros.runtime.engine import load_engine
    from molmo2_ros.runtime.golden import verify_golden
    from molmo2_ros.runtime.manifest import Manifest

    Manifest.load(source)
    shutil.copytree(source, folder)
    try:
        engine = load_engine(folder, self_test="off")
        verify_golden(engine)
    except Molmo2Error as error:
        problem = str(error).replace(str(folder), str(source))
        raise EngineError(f"{source} was not installed: {problem}") from error
    sync_below(folder)
    return engine.manifest.checksum


def _next_number(place: Path) -> int:
    numbers = [int(path.name[:4]) for path in place.iterdir() if re.match(r"\d{4}-", path.name)]
    return max(numbers, default=0) + 1


def _write(path: Path, history: list[str]) -> None:
    """In one step: a robot loses power when it likes."""
    replace_text(path, json.dumps(history, indent=2) + "\n")


def _remove_others(place: Path, kept: list[str]) -> None:
    for path in place.iterdir():
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Nobody else changes the versions of a name meanwhile."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle = os.open(place / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise EngineError(
            f"cannot write to {place}: {error}; name another store in MOLMO2_ROS_ENGINES"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
