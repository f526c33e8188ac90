"""The web node: the live page of cameras and grounding nodes, over their topics."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import String

from molmo2_ros.camera.encodings import encode_jpeg
from molmo2_ros.camera.jpeg import jpeg_size
from molmo2_ros.corrections import PictureName, Review, keep_json
from molmo2_ros.errors import DataError, ImageError, QueryError
from molmo2_ros.ros import images, qos
from molmo2_ros.ros.clouds import rows_of
from molmo2_ros.ros.diagnostics import ProblemLog
from molmo2_ros.ros.parameter_server import ParameterServer
from molmo2_ros.ros.parameters import WebParameters
from molmo2_ros.ros.process import run_node
from molmo2_ros.web.hub import Hub
from molmo2_ros.web.pairing import Paired, Pairing
from molmo2_ros.web.scene import Mark, Scene
from molmo2_ros.web.server import Address, WebServer

_SHOWN_PARTS = ("source", "recording")  # of other nodes, beside all of the grounding nodes


class WebNode(Node):
    """A client of topics, and the server of the page; needs no node in this process.

    Raises:
        ConfigError: a parameter given at start is wrong, the extra `web` is not installed, or the
            address cannot be taken.
    """

    is_done = False

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("web", **node_arguments)
        self._problems = ProblemLog(self.get_logger())
        wanted = ParameterServer(
            self,
            WebParameters,
            check=lambda _: None,
            changed=lambda _before, _after: None,
            frozen=lambda: "it is read at start; start the node again with the new value",
        ).snapshot
        self._quality = wanted.jpeg_quality
        self.cameras = tuple(wanted.image_topics)
        self.nodes = tuple(wanted.grounding_nodes)
        self.hub = Hub(self.cameras, wanted.max_viewers)
        address = Address(host=wanted.host, port=wanted.port, token=wanted.token)
        self.server = WebServer(self.hub, self, address)
        self._pairing: Pairing[Image | CompressedImage] = Pairing(self._on_pair)
        reliable = qos.result_qos()
        is_raw = wanted.image_transport == "raw"
        for topic in self.cameras:
            self.create_subscription(
                Image if is_raw else CompressedImage,
                topic if is_raw else f"{topic}/compressed",
                partial(self._on_image, topic),
                qos.image_qos(wanted.image_reliability),
            )
        self._asks: dict[str, Any] = {}
        self._changes: dict[str, Any] = {}
        for name in self.nodes:
            # Depth 1 of points: where this node is late, the newest are what it needs.
            self._subscribe(PointCloud2, name, "points", self._on_points, qos.image_qos("reliable"))
            self._subscribe(String, name, "answer", self._on_answer, reliable)
            self._subscribe(String, name, "queries", self._on_queries, qos.state_qos())
            self._asks[name] = self.create_publisher(String, f"{name}/ask", reliable)
            self._changes[name] = self.create_publisher(String, f"{name}/query", reliable)
        self._reviews = self.create_publisher(String, "~/correction", reliable)
        recorded = f"{wanted.recorder}/corrections"
        self.create_subscription(String, recorded, self._on_recorded, reliable)
        self.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.result_qos()
        )

    def start(self) -> None:
        """Serve."""
        self.server.start()
        self.get_logger().info(f"open {self.server.url}")

    def close(self) -> None:
        """Say goodbye to the viewers."""
        self.server.close()

    def _subscribe(
        self, kind: Any, node: str, topic: str, callback: Callable[[str, Any], None], profile: Any
    ) -> None:
        self.create_subscription(kind, f"{node}/{topic}", partial(callback, node), profile)

    # ---- requests of viewers, from the server's thread

    def ask(self, node: str, text: str) -> None:
        """See Backend."""
        _publish(self._asks[node], text, node)

    def query(self, node: str, text: str) -> None:
        """See Backend."""
        _publish(self._changes[node], text, node)

    def review(self, review: Review) -> None:
        """See Backend."""
        if not self._reviews.get_subscription_count():
            raise DataError(
                "nobody records corrections, so this one would be lost; start recorder_node "
                "(ros2 launch molmo2_ros record.launch.xml) with review_topics that name "
                f"{self._reviews.topic_name}"
            )
        self._reviews.publish(String(data=review.as_json()))

    def keep(self, picture: PictureName) -> None:
        """See Backend."""
        self._reviews.publish(String(data=keep_json(picture)))

    # ---- what nodes tell

    def _on_image(self, camera: str, message: Image | CompressedImage) -> None:
        stamp_ns, frame_id = images.stamp_ns_of(message), message.header.frame_id
        self._pairing.picture(camera, frame_id, stamp_ns, message, time.time())

    def _on_points(self, node: str, message: PointCloud2) -> None:
        try:
            marks = [_mark(node, row) for row in rows_of(message)]
        except DataError as error:
            self._problems.report("points", error)
            return
        stamp_ns = images.stamp_ns_of(message)
        self._pairing.points(node, message.header.frame_id, stamp_ns, marks)

    def _on_pair(self, pair: Paired[Image | CompressedImage]) -> None:
        message = pair.picture
        try:
            size = _size(message)
        except ImageError as error:
            self._problems.report("camera", error)
            return
        self.hub.tell_scene(
            Scene(
                camera=pair.camera,
                frame_id=pair.frame_id,
                stamp_ns=pair.stamp_ns,
                width=size[0],
                height=size[1],
                marks=pair.marks,
                nodes=pair.nodes,
                jpeg=partial(_jpeg, message, self._quality),
                arrived_s=pair.arrived_s,
            )
        )

    def _on_answer(self, node: str, message: String) -> None:
        self._tell(self.hub.tell_answer, node, message)

    def _on_queries(self, node: str, message: String) -> None:
        self._tell(self.hub.tell_queries, node, message)

    def _tell(
        self, tell: Callable[[str, dict[str, Any]], None], node: str, message: String
    ) -> None:
        try:
            told = json.loads(message.data)
            if not isinstance(told, dict):
                raise TypeError(f"{type(told).__name__} is no object")
            tell(node, told)
        except (ValueError, TypeError, RecursionError) as error:
            self._problems.report(
                "answer", DataError(f"{node} tells {message.data[:60]!r}, no JSON object: {error}")
            )

    def _on_recorded(self, message: String) -> None:
        try:
            review_id = json.loads(message.data).get("review_id", "")
        except (ValueError, AttributeError, RecursionError):
            return  # not from our recorder
        if review_id:
            self.hub.tell_recorded(str(review_id))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        lines: dict[str, list[dict[str, Any]]] = {}
        for line in message.status:
            name, _, part = line.name.partition(": ")
            # What a node says of all its cameras is told with each of them.
            about = [node for node in self.nodes if f"/{name}/" in f"/{node}/"]
            if not about and part in _SHOWN_PARTS:
                about = [name]
            if about:
                told_line = {
                    "name": line.name,
                    "level": line.level[0] if isinstance(line.level, bytes) else int(line.level),
                    "message": line.message,
                    "values": {entry.key: entry.value for entry in line.values},
                }
                for node in about:
                    lines.setdefault(node, []).append(told_line)
        for name, told in lines.items():
            self.hub.tell_status(name, told)


def _publish(publisher: Any, text: str, node: str) -> None:
    if not publisher.get_subscription_count():
        raise QueryError(
            f"the node {node!r} does not listen, expected a grounding node of this name; start it, "
            "or name another in grounding_nodes"
        )
    publisher.publish(String(data=text))


def _mark(node: str, row: npt.NDArray[Any] | Any) -> Mark:
    x, y, z = float(row["x"]), float(row["y"]), float(row["z"])
    return Mark(
        node=node,
        query_id=int(row["query_id"]),
        track_id=int(row["track_id"]),
        u=float(row["u"]),
        v=float(row["v"]),
        xyz_m=(x, y, z) if math.isfinite(z) else None,
        age_s=float(row["age"]),
        quality=float(row["quality"]),
        confidence=float(row["confidence"]),
        measured=bool(row["measured"]),
    )


def _jpeg(message: Image | CompressedImage, quality: int) -> bytes:
    """The picture's bytes; JPEGs go as they came."""
    if isinstance(message, Image):
        return encode_jpeg(images.rgb_of(message), quality)
    data = bytes(message.data)
    if jpeg_size(data) is not None:
        return data
    return encode_jpeg(images.rgb_of_compressed(message), quality)


def _size(message: Image | CompressedImage) -> tuple[int, int]:
    """Width and height of a picture.

    Raises:
        ImageError: it is compressed and cannot be read.
    """
    if isinstance(message, Image):
        return message.width, message.height
    size = jpeg_size(bytes(message.data[:65536]))
    if size is None:
        picture = images.rgb_of_compressed(message)
        return picture.shape[1], picture.shape[0]
    return size


def main(args: list[str] | None = None) -> int:
    """Entry point of the executable `web_node`."""
    return run_node(WebNode, args, shares_memory=False)


if __name__ == "__main__":
    raise SystemExit(main())
