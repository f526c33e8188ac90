"""Where the results of one camera go: the topics of a node, all under the camera's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile

from molmo2_ros.ros import qos


class Publisher(Protocol):
    """Takes the messages of one topic, as rclpy's publishers do."""

    def publish(self, msg: Any) -> None:
        """Send one message."""

    def get_subscription_count(self) -> int:
        """How many want it; what nobody wants need not be made."""


class Topics(Protocol):
    """Makes the publishers of one camera's results."""

    def result(self, name: str, kind: Any) -> Publisher:
        """A topic that is silent while the node is not active.

        Args:
            name: without the node's name: points, answer.
            kind: message class.
        """

    def state(self, name: str, kind: Any) -> Publisher:
        """A topic whose last message those get, too, who come later."""

    def now_ns(self) -> int:
        """The clock by which the age of a picture is told, nanoseconds."""


class NodeTopics:
    """Topics of a managed node.

    Args:
        node: its own name comes first.
        camera: its name comes next; "" for the only camera of a node.
    """

    def __init__(self, node: LifecycleNode, camera: str = "") -> None:
        self._node = node
        self._prefix = f"~/{camera}/" if camera else "~/"

    def result(self, name: str, kind: Any) -> Publisher:
        """See Topics."""
        made: Publisher = self._node.create_lifecycle_publisher(
            kind, f"{self._prefix}{name}", qos.result_qos()
        )
        return made

    def state(self, name: str, kind: Any) -> Publisher:
        """See Topics."""
        made: Publisher = self._node.create_publisher(
            kind, f"{self._prefix}{name}", qos.state_qos()
        )
        return made

    def now_ns(self) -> int:
        """See Topics."""
        return int(self._node.get_clock().now().nanoseconds)

    def listen(
        self, name: str, kind: Any, callback: Callable[[Any], None], profile: QoSProfile
    ) -> None:
        """Call back for each message of a topic of the camera."""
        self._node.create_subscription(kind, f"{self._prefix}{name}", callback, profile)
