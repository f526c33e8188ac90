"""What a recorded message says: a camera's picture, an answer of ours, an operator's correction."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.bags.bag import BagMessage
from molmo2_ros.camera.encodings import decode_compressed, decode_image, encode_jpeg, stores_rgb
from molmo2_ros.camera.stamp import NS_PER_S, stamp_from_json
from molmo2_ros.errors import DataError, Molmo2Error

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
TEXT = "std_msgs/msg/String"
IMAGE_KINDS = (IMAGE, COMPRESSED_IMAGE)
_JPEG = b"\xff\xd8"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeenFrame:
    """One picture of a log.

    Args:
        image: uint8 [H, W, 3] RGB.
        stamp_ns: of its header; where that is 0, when it was recorded.
        log_ns: when it was recorded.
        frame_id: of the camera.
        stored: the JPEG as it was recorded; None for raw pictures, other formats, and channels in
            another order than that of files.
    """

    image: npt.NDArray[np.uint8]
    stamp_ns: int
    log_ns: int
    frame_id: str
    stored: bytes | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.image.shape[1], self.image.shape[0]

    def jpeg(self, quality: int) -> bytes:
        """As it was recorded where that was JPEG: coding twice loses twice."""
        return self.stored or encode_jpeg(self.image, quality)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredTrack:
    """One object of a recorded answer.

    Args:
        track_id: the node's lasting id.
        points: x and y in 0..1 and confidence (None: unknown) by stamp in nanoseconds.
    """

    track_id: int
    points: Mapping[int, tuple[float, float, float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAnswer:
    """What the node said about one clip.

    Args:
        query: what kind was asked and in which words; equal for answers of one question.
        stamps_ns: of the clip's frames.
        tracks: where the objects were.
        confidences: 0..1, of all points that have one.
        is_doubtful: degenerate, cut, or with problems.
    """

    query: str
    stamps_ns: tuple[int, ...]
    tracks: tuple[AnsweredTrack, ...]
    confidences: tuple[float, ...]
    is_doubtful: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What an operator said about one picture.

    Args:
        words: for the object, as they stand in a label.
        stamp_ns: of the picture.
        frame_id: of the camera; "" for any.
        u: pixels from the left; None: there is no such thing in the picture.
        v: pixels from the top.
        retracted: what was said of the thing in this picture before is taken back.
    """

    words: str
    stamp_ns: int
    frame_id: str
    u: float | None
    v: float | None
    retracted: bool = False


class Decoder:
    """Reads CDR by the message definitions that rosbags comes with.

    The messages of interest are the same in every distribution since Humble.
    """

    MIN_BYTES = 12  # of a message with a header: four of CDR, and the stamp

    def __init__(self) -> None:
        from rosbags.typesys import Stores, get_typestore

        self._types = get_typestore(Stores.ROS2_HUMBLE)

    def frame(self, message: BagMessage) -> SeenFrame:
        """A picture of either kind.

        Raises:
            DataError: the message is no image, or a broken one; says which.
        """
        fields = self._fields(message)
        header = fields.header
        stamp_ns = header.stamp.sec * NS_PER_S + header.stamp.nanosec
        stored = None
        try:
            if message.kind == COMPRESSED_IMAGE:
                image = decode_compressed(fields.data, fields.format)
                data = fields.data.tobytes()
                is_plain = data.startswith(_JPEG) and not stores_rgb(fields.format)
                stored = data if is_plain else None
            else:
                image = decode_image(
                    height=fields.height,
                    width=fields.width,
                    encoding=fields.encoding,
                    step=fields.step,
                    is_bigendian=bool(fields.is_bigendian),
                    data=fields.data,
                )
        except Molmo2Error as error:
            raise DataError(f"{message.place}: {error}") from error
        return SeenFrame(
            image=image,
            stamp_ns=stamp_ns or message.log_ns,
            log_ns=message.log_ns,
            frame_id=header.frame_id,
            stored=stored,
        )

    def stamp_ns(self, message: BagMessage) -> int:
        """The stamp of an image message, without its pixels.

        Raises:
            DataError: the message is too short.
        """
        if len(message.data) < self.MIN_BYTES:
            raise DataError(
                f"{message.place} has {len(message.data)} bytes, expected a header: it was cut"
            )
        order = "little" if message.data[1] & 1 else "big"
        sec = int.from_bytes(message.data[4:8], order, signed=True)  # type: ignore[arg-type]
        nanosec = int.from_bytes(message.data[8:12], order)  # type: ignore[arg-type]
        return sec * NS_PER_S + nanosec or message.log_ns

    def text(self, message: BagMessage) -> str:
        """A std_msgs/String.

        Raises:
            DataError: the bytes are none.
        """
        return str(self._fields(message).data)

    def _fields(self, message: BagMessage) -> Any:
        try:
            return self._types.deserialize_cdr(message.data, message.kind)
        except Exception as error:  # whatever the bytes make of rosbags' generated code
            raise DataError(
                f"{message.place} is no {message.kind}: its {len(message.data)} bytes cannot be "
                f"read ({type(error).__name__}: {error})"
            ) from error


def read_answer(text: str, place: str) -> RecordedAnswer | None:
    """Read the JSON of ~/answer; None for an answer that was not whole yet, or was refused.

    Raises:
        DataError: it is no such JSON; says which message.
    """
    try:
        found = json.loads(text)
        if found["partial"] or found.get("refused", False):
            return None
        width, height = found["image"]["width"], found["image"]["height"]
        query = found["query"]
        confidences = [p["confidence"] for p in found["points"]]
        return RecordedAnswer(
            query=f"{query['kind']}: {query['words']}",
            stamps_ns=tuple(stamp_from_json(stamp) for stamp in found["clip_stamps"]),
            tracks=tuple(_track(track, width, height) for track in found["tracks"]),
            confidences=tuple(float(value) for value in confidences if value is not None),
            is_doubtful=bool(found["degenerate"] or found["truncated"] or found["problems"]),
        )
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise DataError(
            f"{place} is no answer of ours ({type(error).__name__}: {error}); expected the JSON of "
            "~/answer, see docs/interfaces.md"
        ) from error


def _track(track: Mapping[str, Any], width: int, height: int) -> AnsweredTrack:
    return AnsweredTrack(
        track_id=int(track["track_id"]),
        points={
            stamp_from_json(point["stamp"]): (
                point["u"] / width,
                point["v"] / height,
                point["confidence"],
            )
            for point in track["points"]
        },
    )


def read_correction(text: str, place: str) -> Correction:
    """Read the JSON of the recorder's ~/corrections.

    Raises:
        DataError: it is no such JSON; says which message.
    """
    try:
        found = json.loads(text)
        is_there = found["visible"]
        u, v = (float(found["u"]), float(found["v"])) if is_there else (None, None)
        if u is not None and v is not None and not (math.isfinite(u) and math.isfinite(v)):
            raise ValueError(f"u is {u} and v is {v}, expected pixels")
        words = " ".join(str(found["query"]).split())
        if not words:
            raise ValueError("query is empty, expected the words for the object")
        return Correction(
            words=words,
            stamp_ns=stamp_from_json(found["stamp"]),
            frame_id=str(found["frame_id"]),
            u=u,
            v=v,
            retracted=found.get("retracted", False) is True,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{place} is no correction ({type(error).__name__}: {error}); expected the JSON of the "
            "recorder's ~/corrections, see docs/interfaces.md"
        ) from error
