"""The web node in the grounding node's process: one command shows, asks and corrects."""

from __future__ import annotations

import threading

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from molmo2_ros.ros import compat
from molmo2_ros.ros.parameters import GroundingParameters
from molmo2_ros.ros.web_node import WebNode

_END_PATIENCE_S = 5.0


class WebBeside:
    """Runs a WebNode about another node of this process, in a thread and an executor of its own.

    Args:
        node: the grounding node; its remapped topics are followed.
        wanted: its parameters.

    Raises:
        ConfigError: the extra `web` is not installed, or the address cannot be taken.
    """

    def __init__(self, node: Node, wanted: GroundingParameters) -> None:
        is_raw = wanted.image_transport == "raw"
        name = node.get_fully_qualified_name()

        def image_topic(camera: str) -> str:
            prefix = f"{camera}/" if camera else ""
            if is_raw:
                return str(node.resolve_topic_name(f"{prefix}image"))
            compressed = str(node.resolve_topic_name(f"{prefix}image/compressed"))
            return compressed.removesuffix("/compressed")

        values = {
            "host": wanted.web_host,
            "port": wanted.web_port,
            "token": wanted.web_token,
            "image_topics": [image_topic(camera) for camera in wanted.cameras],
            "image_transport": wanted.image_transport,
            "image_reliability": wanted.image_reliability,
            "grounding_nodes": [f"{name}/{c}" if c else name for c in wanted.cameras],
        }
        # The command line speaks of the other node: a new name given to it must not become ours.
        self.node = WebNode(
            context=node.context,
            namespace=node.get_namespace(),
            use_global_arguments=False,
            parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
        )
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(self.node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="web node", daemon=True)

    def start(self) -> None:
        """Serve."""
        self.node.start()
        self._thread.start()

    def close(self) -> None:
        """End the page and its node."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_END_PATIENCE_S)
        self.node.close()
        self.node.destroy_node()

    def _spin(self) -> None:
        try:
            while not self._closing.is_set() and self.node.context.ok():
                self._executor.spin_once(timeout_sec=0.2)
        except ExternalShutdownException:
            return
        except Exception as error:
            if not compat.is_shutting_down(error, self.node.context):
                raise
