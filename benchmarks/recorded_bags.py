"""Bags as cameras and our nodes fill them, in every storage, for benchmarks and tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from molmo2_ros.camera.encodings import encode_jpeg

NS = 1_000_000_000
START_NS = 1_700_000_000 * NS
TOPIC = "/camera/image_raw"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
TEXT = "std_msgs/msg/String"
TYPES = get_typestore(Stores.ROS2_HUMBLE)
Message = tuple[str, int, str, bytes]  # topic, time of recording in ns, kind, CDR


def scene(
    step: int, size: tuple[int, int] = (160, 120), shift_px: int = 4
) -> npt.NDArray[np.uint8]:
    """A soft background before which a bright chequered square moves to the right.

    Args:
        step: how often the square has moved; it begins anew at the left.
        size: width and height, pixels.
        shift_px: pixels of one step.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    width, height = size
    rng = np.random.default_rng(0)
    small = rng.integers(40, 120, (height // 8, width // 8, 3), np.uint8)
    image = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    left, top, side = square(step, size, shift_px)
    patch = rng.integers(150, 255, (side // 3, side // 3, 3), np.uint8)
    image[top : top + side, left : left + side] = cv2.resize(
        patch, (side, side), interpolation=cv2.INTER_NEAREST
    )
    return image


def square(
    step: int, size: tuple[int, int] = (160, 120), shift_px: int = 4
) -> tuple[int, int, int]:
    """Where the square of `scene` is: left, top and side, pixels."""
    width, height = size
    side = height // 5
    return 10 + step * shift_px % (width - side - 20), height // 3, side


def header(stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    time = TYPES.types["builtin_interfaces/msg/Time"](sec=stamp_ns // NS, nanosec=stamp_ns % NS)
    return TYPES.types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def raw(
    image: npt.NDArray[Any],
    stamp_ns: int,
    *,
    encoding: str = "rgb8",
    frame_id: str = "camera",
    size: tuple[int, int] | None = None,
) -> tuple[str, bytes]:
    """A sensor_msgs/Image: its kind and CDR.

    Args:
        image: uint8 rows of data, [H, W, C] or as the encoding has it.
        stamp_ns: of the header.
        encoding: of the data.
        frame_id: of the header.
        size: width and height where they are not those of `image`.
    """
    width, height = size or image.shape[1::-1]
    message = TYPES.types[IMAGE](
        header=header(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=image.strides[0],
        data=np.ascontiguousarray(image).reshape(-1).view(np.uint8),
    )
    return IMAGE, bytes(TYPES.serialize_cdr(message, IMAGE))


def jpeg(
    image: npt.NDArray[np.uint8], stamp_ns: int, *, frame_id: str = "camera"
) -> tuple[str, bytes]:
    """A sensor_msgs/CompressedImage: its kind and CDR."""
    message = TYPES.types[COMPRESSED_IMAGE](
        header=header(stamp_ns, frame_id),
        format="jpeg",
        data=np.frombuffer(encode_jpeg(image, 95), np.uint8),
    )
    return COMPRESSED_IMAGE, bytes(TYPES.serialize_cdr(message, COMPRESSED_IMAGE))


def text(value: Any) -> tuple[str, bytes]:
    """A std_msgs/String: its kind and CDR; anything but a string as JSON."""
    data = value if isinstance(value, str) else json.dumps(value)
    return TEXT, bytes(TYPES.serialize_cdr(TYPES.types[TEXT](data=data), TEXT))


def stamp(stamp_ns: int) -> dict[str, int]:
    """A stamp in JSON."""
    return {"sec": stamp_ns // NS, "nanosec": stamp_ns % NS}


def camera(
    num: int,
    *,
    fps: float = 10.0,
    make: Any = raw,
    topic: str = TOPIC,
    start_ns: int = START_NS,
    first: int = 0,
    **options: Any,
) -> Iterator[Message]:
    """What is recorded of a camera that sees the moving square.

    Args:
        num: pictures.
        fps: a second.
        make: `raw` or `jpeg`.
        topic: of the camera.
        start_ns: stamp of the first picture.
        first: step of the first picture.
        options: of `scene`.
    """
    for step in range(num):
        stamp_ns = start_ns + round(step * NS / fps)
        yield topic, stamp_ns + 5_000_000, *make(scene(first + step, **options), stamp_ns)


def write_bag(
    path: Path, messages: Iterable[Message], storage: str = "mcap", compression: str = "none"
) -> Path:
    """Write a rosbag2.

    Args:
        path: of the bag's folder, which must not be there.
        messages: in the order of recording.
        storage: "mcap" or "sqlite3".
        compression: "none", "message", "file" or "storage", by zstd.
    """
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for topic, log_ns, kind, data in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=TYPES)
            writer.write(connections[topic], log_ns, data)
    return path
