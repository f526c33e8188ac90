"""A camera of a bag as a source of frames: for who plays a recording without ROS."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

from molmo2_ros.bags.bag import Bag, BagMessage
from molmo2_ros.bags.skips import Skips
from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import DataError
from molmo2_ros.training.logs.topics import IMAGE_KINDS, Decoder

_NUM_TIMED = 32  # pictures by whose stamps the rate is told


class BagSource:
    """Frames of one camera in the order of recording: a `camera.sources.FrameSource`.

    Pictures that cannot be read, and those whose stamps run backwards, are left out and told in the
    log. Stamps count from the first picture.

    Args:
        path: a bag's folder, or one of its files.
        topic: of sensor_msgs/Image or CompressedImage; "" where the bag has but one.

    Raises:
        ConfigError: the package rosbags is missing.
        DataError: there is no bag, no such camera, several and none named, or no picture.
    """

    def __init__(self, path: Path, topic: str = "") -> None:
        self.skips = Skips()
        self._bag = Bag(path, self.skips)
        self._decoder = Decoder()
        try:
            self.topic = topic or self._only_camera()
            self._bag.require([self.topic], IMAGE_KINDS)
            self.rate_hz = self._rate()
        except DataError:
            self.close()
            raise
        self._messages: Iterator[BagMessage] = self._bag.messages([self.topic])
        self._first_ns: int | None = None
        self._last_ns: int | None = None

    def _only_camera(self) -> str:
        cameras = sorted(name for name, kind in self._bag.topics.items() if kind in IMAGE_KINDS)
        if len(cameras) != 1:
            raise DataError(
                f"the bag {self._bag.path} has {len(cameras)} topics with pictures, expected one: "
                + (f"name it: {', '.join(cameras)}" if cameras else "was a camera recorded?")
            )
        return cameras[0]

    def _rate(self) -> float:
        """Pictures a second, by the first stamps."""
        stamps_ns = []
        for message in itertools.islice(self._bag.messages([self.topic]), _NUM_TIMED):
            try:
                stamps_ns.append(self._decoder.stamp_ns(message))
            except DataError as error:
                self.skips.add("pictures", str(error))
        if not stamps_ns:
            raise DataError(f"topic {self.topic} of the bag {self._bag.path} has no picture")
        steps_ns = [b - a for a, b in itertools.pairwise(stamps_ns) if b > a]
        return NS_PER_S / statistics.median(steps_ns) if steps_ns else 1.0

    def read(self) -> Frame | None:
        """The next picture that can be used; None at the end."""
        for message in self._messages:
            try:
                seen = self._decoder.frame(message)
            except DataError as error:
                self.skips.add("pictures", str(error))
                continue
            if self._last_ns is not None and seen.stamp_ns <= self._last_ns:
                early_s = (self._last_ns - seen.stamp_ns) / NS_PER_S
                self.skips.add(
                    "stamps",
                    f"{message.place} is stamped {early_s:.3f} s before the picture before it, "
                    "expected times that run forward",
                )
                continue
            self._last_ns = seen.stamp_ns
            if self._first_ns is None:
                self._first_ns = seen.stamp_ns
            return Frame(
                image=seen.image,
                stamp_ns=seen.stamp_ns - self._first_ns,
                frame_id=seen.frame_id,
            )
        return None

    def close(self) -> None:
        """Let go of the bag; may be called twice."""
        self._bag.close()
