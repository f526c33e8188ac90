"""A copy of a bag with more topics in it, whole or not there at all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from rclpy.serialization import serialize_message

from molmo2_ros.bags.bag import Bag, BagMessage, needs_rosbags
from molmo2_ros.errors import DataError
from molmo2_ros.ros.topics import Publisher


class BagCopy:
    """Messages of one bag and new ones as rosbag2 in MCAP: a context manager.

    What is written lies beside OUT until the end; an error leaves nothing.

    Args:
        bag: whose messages are copied.
        out: a folder, or a file named .mcap; neither may be there yet.

    Raises:
        ConfigError: the package rosbags is missing.
        DataError: OUT is there already, or cannot be written.
    """

    def __init__(self, bag: Bag, out: Path) -> None:
        try:
            from rosbags.rosbag2 import StoragePlugin, Writer
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise needs_rosbags("writing bags", error) from error
        if out.exists():
            raise DataError(f"{out} is there already, expected a new name: nothing is overwritten")
        self._types = get_typestore(Stores.ROS2_HUMBLE)
        self._described = bag.connections
        self._out = out
        self._connections: dict[str, Any] = {}
        self.num_added = 0
        self.log_ns = 0  # with which new messages are written
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{out.name}_", dir=out.parent))
            name = out.stem if out.suffix == ".mcap" else out.name
            self._writer = Writer(self._folder / name, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> BagCopy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _finish(self) -> None:
        try:
            self._writer.close()
            written = Path(self._writer.path)
            if self._out.suffix == ".mcap":
                (file,) = written.glob("*.mcap")
                written = file
            written.rename(self._out)
        except OSError as error:
            raise self._failed(error) from error

    def copy(self, message: BagMessage) -> None:
        """Write a message as it was recorded."""
        if message.topic not in self._connections:
            known = self._described[message.topic]
            is_described = bool(known.msgdef.data and known.digest)
            self._connections[message.topic] = self._writer.add_connection(
                message.topic,
                message.kind,
                typestore=self._types,
                msgdef=known.msgdef.data if is_described else None,
                rihs01=known.digest if is_described else None,
                serialization_format=known.ext.serialization_format,
                offered_qos_profiles=known.ext.offered_qos_profiles,
            )
        self._write(message.topic, message.log_ns, message.data)

    def publisher(self, topic: str, kind: Any, *, is_wanted: bool = True) -> Publisher:
        """A publisher whose messages are written with `log_ns`.

        Args:
            topic: absolute name; one that the bag has already is refused.
            kind: message class of rclpy.
            is_wanted: whether messages that nobody asks for are to be made.

        Raises:
            DataError: the bag has this topic.
        """
        if topic in self._described:
            raise DataError(
                f"the bag has a topic {topic} already; choose another --name, so that old and new "
                "points can be told apart"
            )
        name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        return _BagPublisher(self, topic, name, is_wanted and name in self._types.fielddefs)

    def add(self, topic: str, kind: str, message: Any) -> None:
        """Write a new message."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._types
            )
        data = serialize_message(message)
        # Fast CDR leaves padding as the memory was; rosbags writes zeros, so that runs are equal.
        read = self._types.deserialize_cdr(data, kind)
        self._write(topic, self.log_ns, bytes(self._types.serialize_cdr(read, kind)))
        self.num_added += 1

    def _write(self, topic: str, log_ns: int, data: bytes) -> None:
        try:
            self._writer.write(self._connections[topic], log_ns, data)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> DataError:
        return DataError(
            f"{self._out} cannot be written ({error.strerror or error}); make room or choose "
            "another place, nothing is left of this one"
        )


class _BagPublisher:
    """See Publisher."""

    def __init__(self, copy: BagCopy, topic: str, kind: str, is_wanted: bool) -> None:
        self._copy = copy
        self._topic = topic
        self._kind = kind
        self._is_wanted = is_wanted

    def publish(self, msg: Any) -> None:
        """See Publisher."""
        self._copy.add(self._topic, self._kind, msg)

    def get_subscription_count(self) -> int:
        """See Publisher."""
        return int(self._is_wanted)
