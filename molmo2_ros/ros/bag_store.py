"""Messages on disk as rosbag2: split into bags, within a bounded space, readable after a kill.

Written by the package rosbags, so that no distribution's rosbag2 is needed.
"""

from __future__ import annotations

import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from molmo2_ros.bags.bag import needs_rosbags
from molmo2_ros.errors import ConfigError, DataError

MB = 1_000_000
DROP_OLDEST, STOP = "drop_oldest", "stop"
_BAG_NAME = re.compile(r"log_\d{8}_\d{6}_\d{3,}")
_RETRY_S = 2.0  # after which a disk that was full is tried again
_SPACE_CHECK_S = 0.5
_BEYOND_SUMMARY = 1.02  # a bag's index comes on top of its messages


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where bags are written, and how much of the disk they may take.

    Args:
        folder: in which each bag has its own folder; bags of an earlier run count.
        split_mb: a bag that is larger is closed and another begun.
        split_s: likewise, by age.
        max_disk_mb: all bags of the folder together.
        when_full: "drop_oldest" removes the oldest bag, "stop" writes no more.
        min_free_mb: so much of the disk is left free, whoever fills it.

    Raises:
        ConfigError: a bag may be larger than half of the space, so that none could be dropped.
    """

    folder: Path
    split_mb: float
    split_s: float
    max_disk_mb: float
    when_full: str
    min_free_mb: float

    def __post_init__(self) -> None:
        if 2 * self.split_mb > self.max_disk_mb:
            raise ConfigError(
                f"split_mb is {self.split_mb:g} of max_disk_mb {self.max_disk_mb:g}, expected at "
                "most half of it, so that an old bag can go while a new one grows"
            )


class BagStore:
    """Takes serialized messages, from one thread.

    Args:
        settings: where and how much.

    Raises:
        ConfigError: the package rosbags is missing.
    """

    def __init__(self, settings: StoreSettings) -> None:
        try:
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise needs_rosbags("recording", error) from error
        self._types = get_typestore(Stores.ROS2_HUMBLE)  # the message definitions in the bags
        self.settings = settings
        self._writer: Any = None
        self._connections: dict[str, Any] = {}
        self._begun_s = 0.0
        self._num_bytes = 0  # of messages in the bag that is written
        self._closed_bytes: dict[Path, int] = {}
        self._last_name = ("", 0)  # time and number
        self._blocked_until_s = 0.0
        self._why_blocked = ""
        self._space_checked_s = 0.0
        self.num_written = 0
        self.num_bags_dropped = 0
        self._scan()

    @property
    def path(self) -> Path | None:
        """The bag that is written now."""
        return None if self._writer is None else Path(self._writer.path)

    @property
    def used_bytes(self) -> int:
        """Of all bags of the folder."""
        return sum(self._closed_bytes.values()) + self._num_bytes

    def write(self, topic: str, kind: str, log_ns: int, data: bytes) -> None:
        """Append one message.

        Args:
            topic: absolute name.
            kind: such as "sensor_msgs/msg/CompressedImage".
            log_ns: when it came, nanoseconds.
            data: CDR.

        Raises:
            DataError: there is no room, or the disk fails; the message is lost, what was written
                before is not, and later messages are tried again.
        """
        now_s = time.monotonic()
        if now_s < self._blocked_until_s:
            raise DataError(self._why_blocked)
        try:
            self._make_room(len(data), now_s)
            if self._writer is None:
                self._open(now_s)
            if topic not in self._connections:
                self._connections[topic] = self._writer.add_connection(
                    topic, kind, typestore=self._types
                )
            self._writer.write(self._connections[topic], log_ns, data)
        except OSError as error:
            raise self._failed(error) from error
        self._num_bytes += len(data)
        self.num_written += 1

    def flush(self) -> None:
        """Hand what was written to the operating system: a kill costs nothing of it."""
        if self._writer is None:
            return
        storage = self._writer.storage
        try:
            if storage.chunk.msgs:
                storage.close_chunk()
            storage.bio.flush()
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """End the bag that is written; one whose end finds no room is readable all the same."""
        self._leave(finish=True)

    def _leave(self, *, finish: bool) -> None:
        """Write no more into the bag; what is left as it is has its whole chunks readable."""
        writer, self._writer, self._connections = self._writer, None, {}
        self._num_bytes = 0
        if writer is None:
            return
        if finish:
            try:
                writer.close()
            except OSError:
                finish = False
        if not finish:
            with suppress(OSError, AttributeError):
                writer.abort()
        self._closed_bytes[Path(writer.path)] = _size_of(Path(writer.path))

    def _open(self, now_s: float) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer

        self.settings.folder.mkdir(parents=True, exist_ok=True)
        begun = datetime.now(timezone.utc).strftime("log_%Y%m%d_%H%M%S")
        # Never a number again, so that names are in the order of time also within a second.
        number = self._last_name[1] + 1 if self._last_name[0] == begun else 0
        while (path := self.settings.folder / f"{begun}_{number:03d}").exists():
            number += 1
        self._last_name = (begun, number)
        writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        writer.open()
        self._writer, self._begun_s, self._num_bytes = writer, now_s, 0

    def _make_room(self, num_more: int, now_s: float) -> None:
        """Split, drop and refuse, so that the message fits."""
        settings = self.settings
        is_old = self._writer is not None and now_s - self._begun_s > settings.split_s
        if is_old or self._num_bytes + num_more > settings.split_mb * MB:
            self.close()
        wanted = (self.used_bytes + num_more) * _BEYOND_SUMMARY
        if wanted > settings.max_disk_mb * MB:
            self._scan()  # somebody may have taken bags away
        while (self.used_bytes + num_more) * _BEYOND_SUMMARY > settings.max_disk_mb * MB:
            if settings.when_full == STOP or not self._closed_bytes:
                self.close()
                raise self._block(
                    f"the bags in {settings.folder} take all of max_disk_mb "
                    f"{settings.max_disk_mb:g}; move some of them away, recording goes on by itself"
                )
            self._drop_oldest()
        if now_s - self._space_checked_s > _SPACE_CHECK_S:
            self._space_checked_s = now_s
            self._check_space()

    def _check_space(self) -> None:
        settings = self.settings
        folder = next(p for p in (settings.folder, *settings.folder.parents) if p.exists())
        free_mb = shutil.disk_usage(folder).free / MB
        while free_mb < settings.min_free_mb:
            if settings.when_full == STOP or not self._closed_bytes:
                self.close()
                raise self._block(
                    f"the disk of {settings.folder} has {free_mb:.0f} MB free, expected "
                    f"min_free_mb {settings.min_free_mb:g}; make room, recording goes on by itself"
                )
            self._drop_oldest()
            free_mb = shutil.disk_usage(folder).free / MB

    def _drop_oldest(self) -> None:
        oldest = min(self._closed_bytes)  # names begin with the time
        shutil.rmtree(oldest, ignore_errors=True)
        del self._closed_bytes[oldest]
        self.num_bags_dropped += 1

    def _scan(self) -> None:
        """Look which bags there are; only folders that this class named are ever removed."""
        folder, writing = self.settings.folder, self.path
        there = folder.iterdir() if folder.is_dir() else ()
        self._closed_bytes = {
            path: _size_of(path)
            for path in there
            if _BAG_NAME.fullmatch(path.name) and path.is_dir() and path != writing
        }

    def _failed(self, error: OSError) -> DataError:
        """Leave the bag, and the disk alone for a while."""
        self._leave(finish=False)
        return self._block(
            f"{self.settings.folder} cannot be written ({error.strerror or error}); what was "
            "recorded before is kept: make room, recording goes on by itself"
        )

    def _block(self, why: str) -> DataError:
        self._why_blocked, self._blocked_until_s = why, time.monotonic() + _RETRY_S
        return DataError(why)


def _size_of(folder: Path) -> int:
    with suppress(OSError):
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0
