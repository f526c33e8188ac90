"""One camera of soak.py as a process of its own: frames made before, published as it is told.

    python benchmarks/soak_camera.py FRAMES.npz [--name front] [--transport compressed]

Its orders are lines of JSON on its standard input, each some fields of Manners; it ends with them.
Of every image it prints, before that leaves, what it shows and when: a line that no kill takes back
and that waits for no discovery.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

sys.path[:0] = [str(Path(__file__).parents[1])]

import rclpy  # noqa: E402
from rclpy.node import Node  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402

from molmo2_ros.camera.frame import CameraModel  # noqa: E402
from molmo2_ros.ros import compat, images, qos  # noqa: E402

RATE_HZ = 30.0
FRAME_ID = "camera_optical_frame"
JPEG_QUALITY = 90
SENT = "sent "  # and what, as JSON, in its output


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How the camera behaves; may be changed while it runs."""

    is_on: bool = True
    halved: bool = False  # half the width and height
    encoding: str = "rgb8"
    stamp_offset_s: float = 0.0
    corrupt_share: float = 0.0  # of the images


def topic(camera: str, name: str) -> str:
    """A topic of a camera; the one that has no name is the only one."""
    return f"{camera}/{name}" if camera else name


def spoilt_image(message: Image, numbers: random.Random) -> Image:
    """An Image whose data end too early, or whose rows are not where its step says."""
    if numbers.random() < 0.5:
        message.data = message.data[: numbers.randrange(len(message.data))]
    else:
        message.step += numbers.randrange(1, 64)
    return message


def spoilt_jpeg(message: CompressedImage, numbers: random.Random) -> CompressedImage:
    """A JPEG that ends too early, anywhere between nothing and nearly all of it."""
    message.data = message.data[: numbers.randrange(len(message.data) - 64)]
    return message


class Camera:
    """Publishes frames at their rate, there and back again.

    Args:
        node: whose publishers they are.
        name: of the camera, "" for the only one.
        images_NHWC: uint8 RGB.
        k: 3x3 optics of these, row by row.
        is_compressed: publish JPEG instead of raw images.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        images_NHWC: npt.NDArray[np.uint8],
        k: tuple[float, ...],
        *,
        is_compressed: bool,
    ) -> None:
        self._node, self._images_NHWC, self._k = node, images_NHWC, k
        self._is_compressed = is_compressed
        pictures = qos.image_qos("reliable")
        self._info = node.create_publisher(CameraInfo, topic(name, "camera_info"), pictures)
        kind: Any = CompressedImage if is_compressed else Image
        where = topic(name, "image/compressed" if is_compressed else "image")
        self._image = node.create_publisher(kind, where, pictures)
        self._numbers = random.Random(0)
        self.manners = Manners()  # swapped as a whole by another thread

    def play(self, ending: threading.Event) -> None:
        """Publish until it is over."""
        order = [*range(len(self._images_NHWC)), *range(len(self._images_NHWC) - 2, 0, -1)]
        due_s, number = time.monotonic(), 0
        while not ending.wait(max(0.0, due_s - time.monotonic())):
            # The scene goes on while nobody films it, and after a stop nothing is caught up with.
            due_s = max(due_s + 1.0 / RATE_HZ, time.monotonic() - 1.0 / RATE_HZ)
            number += 1
            if self.manners.is_on:
                self._publish(order[number % len(order)], self.manners)

    def _publish(self, number: int, manners: Manners) -> None:
        image, scale = self._images_NHWC[number], 1.0
        if manners.halved:
            scale = 0.5
            image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale), np.uint8)
        height, width = image.shape[:2]
        offset_ns = round(1e9 * manners.stamp_offset_s)
        at = (self._node.get_clock().now().nanoseconds + offset_ns, FRAME_ID)
        is_corrupt = self._numbers.random() < manners.corrupt_share
        message: Any
        if self._is_compressed:
            message = images.jpeg_message(image, *at, JPEG_QUALITY)
            message = spoilt_jpeg(message, self._numbers) if is_corrupt else message
        else:
            message = images.image_message(image, *at, manners.encoding)
            message = spoilt_image(message, self._numbers) if is_corrupt else message
        scaling = (scale, 1.0, scale, 1.0, scale, scale, 1.0, 1.0, 1.0)
        k = tuple(value * factor for value, factor in zip(self._k, scaling, strict=True))
        optics = CameraModel(width=width, height=height, k=k, d=(0.0,) * 5)
        self._info.publish(images.camera_info_message(optics, width, height, *at))
        sent = {
            "stamp_ns": at[0],
            "number": number,
            "scale": scale,
            "is_corrupt": is_corrupt,
            "sent_s": time.monotonic(),  # the same clock in all processes of a machine
        }
        print(f"{SENT}{json.dumps(sent)}", flush=True)
        self._image.publish(message)


def main() -> int:
    """Play until the orders end."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("frames", type=Path)
    parser.add_argument("--name", default="")
    parser.add_argument("--transport", choices=("raw", "compressed"), default="raw")
    wanted = parser.parse_args()
    frames = np.load(wanted.frames)
    k = tuple(frames["k"].tolist())
    cv2.setNumThreads(1)
    compat.offer_shared_memory()
    rclpy.init(args=[])
    camera = Camera(
        Node(f"{wanted.name or 'only'}_camera"),
        wanted.name,
        frames["images"],
        k,
        is_compressed=wanted.transport == "compressed",
    )
    ending = threading.Event()

    def obey() -> None:
        for line in sys.stdin:
            camera.manners = replace(camera.manners, **json.loads(line))
        ending.set()

    threading.Thread(target=obey, daemon=True).start()
    camera.play(ending)
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
