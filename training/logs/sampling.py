"""Which pictures of a log are kept, and how they become clips."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.clip import MAX_FPS
from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import ConfigError
from molmo2_ros.training.logs.topics import SeenFrame

TRAIN, HELD_OUT = "train", "held_out"
SPLITS = (TRAIN, HELD_OUT)
_THUMBNAIL = (64, 48)  # width, height
_CHANGED_SHARE = 0.01  # of the thumbnail: so small a thing has to be seen when it moves
_EARLY_SHARE = 0.1  # of the period: a picture that is so much early is taken for its place
_MAX_HOLE_S = 2.0  # without a picture: what follows is another clip
Thumbnail = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSettings:
    """How clips are made.

    Args:
        fps: pictures kept a second.
        clip_s: seconds of a clip.
        near_duplicate: 0..1 of full scale: a picture that differs less from the last one kept, in
            the hundredth of it that differs most, is dropped; 0 keeps all.
        held_out: share of the log's time, at its end, that goes to the held-out set.
        border_gap_s: seconds left out between the two sets.
        jpeg_quality: of pictures that were not recorded as JPEG.

    Raises:
        ConfigError: a value is out of range.
    """

    fps: float = 2.0
    clip_s: float = 8.0
    near_duplicate: float = 0.02
    held_out: float = 0.2
    border_gap_s: float = 2.0
    jpeg_quality: int = 90

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("fps", self.fps, 0.01, MAX_FPS),
            ("clip_s", self.clip_s, 0.1, 600.0),
            ("near_duplicate", self.near_duplicate, 0.0, 1.0),
            ("held_out", self.held_out, 0.0, 1.0),
            ("border_gap_s", self.border_gap_s, 0.0, math.inf),
            ("jpeg_quality", self.jpeg_quality, 1, 100),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}, expected {low:g} to {high:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which time of a log belongs to which set.

    Args:
        border_ns: time of recording at which the training set ends.
        gap_ns: after it nothing is kept for so long.
    """

    border_ns: int
    gap_ns: int

    @classmethod
    def of(cls, span_ns: tuple[int, int], settings: ClipSettings) -> Split:
        """Cut a log's span. The gap takes at most half of what is held out."""
        first, last = span_ns
        held_out_ns = round((last + 1 - first) * settings.held_out)
        gap_ns = min(round(settings.border_gap_s * NS_PER_S), held_out_ns // 2)
        is_cut = held_out_ns <= last - first
        return cls(border_ns=last + 1 - held_out_ns, gap_ns=gap_ns if is_cut else 0)

    def at(self, log_ns: int) -> str | None:
        """The set of a message, None between the two."""
        if log_ns < self.border_ns:
            return TRAIN
        return HELD_OUT if log_ns >= self.border_ns + self.gap_ns else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerState:
    """Where sampling stands between two clips; enough to go on after the process was killed.

    Args:
        last_ns: stamp of the last picture that was looked at, kept or not.
        due_ns: stamp from which the next picture is wanted.
        thumbnail: of the last picture kept.
    """

    last_ns: int | None = None
    due_ns: int | None = None
    thumbnail: Thumbnail | None = None

    def as_json(self) -> dict[str, Any]:
        """As text that `from_json` reads."""
        packed = None if self.thumbnail is None else base64.b64encode(self.thumbnail.tobytes())
        return {
            "last_ns": self.last_ns,
            "due_ns": self.due_ns,
            "thumbnail": None if packed is None else packed.decode(),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> SamplerState:
        """What `as_json` wrote."""
        packed = found["thumbnail"]
        flat = None if packed is None else np.frombuffer(base64.b64decode(packed), np.uint8)
        return cls(
            last_ns=found["last_ns"],
            due_ns=found["due_ns"],
            thumbnail=None if flat is None else flat.reshape(_THUMBNAIL[::-1]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClip:
    """Pictures of one clip that is being filled.

    Args:
        split: the set that it belongs to.
        frames: in the order of time, of one size and one camera.
    """

    split: str
    frames: tuple[SeenFrame, ...]

    def takes(self, stamp_ns: int, seen_ns: int, split: str | None, settings: ClipSettings) -> bool:
        """Whether a picture of this stamp and set still belongs to it.

        Args:
            stamp_ns: of the picture.
            seen_ns: of the picture before it in the log, kept or not.
            split: the picture's set.
            settings: how long a clip is.
        """
        return (
            split == self.split
            and 0 < stamp_ns - seen_ns <= round(_MAX_HOLE_S * NS_PER_S)
            and stamp_ns - self.frames[0].stamp_ns < round(settings.clip_s * NS_PER_S)
        )

    def fits(self, frame: SeenFrame) -> bool:
        """Whether a picture has the same size and camera."""
        first = self.frames[0]
        return frame.size == first.size and frame.frame_id == first.frame_id


def thumbnail_of(frame: SeenFrame) -> Thumbnail:
    """A picture in so few pixels that noise is gone, uint8 [48, 64] grey."""
    small = cv2.resize(frame.image, _THUMBNAIL, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def difference(one: Thumbnail, other: Thumbnail) -> float:
    """How much two pictures differ where they differ most, 0..1 of full scale.

    The mean over the hundredth of the pixels that changed most: something small that moves counts,
    noise all over does not.
    """
    changes = np.abs(one.astype(np.int16) - other).ravel()
    num = max(1, round(changes.size * _CHANGED_SHARE))
    return float(np.partition(changes, -num)[-num:].mean() / 255)


def is_due(stamp_ns: int, state: SamplerState, settings: ClipSettings) -> bool:
    """Whether a picture is wanted by its time alone."""
    early_ns = round(_EARLY_SHARE / settings.fps * NS_PER_S)
    return state.due_ns is None or stamp_ns >= state.due_ns - early_ns


def next_due_ns(stamp_ns: int, state: SamplerState, settings: ClipSettings) -> int:
    """When the picture after one that was taken is wanted: on the same grid where that is near."""
    period_ns = round(NS_PER_S / settings.fps)
    if state.due_ns is None or abs(stamp_ns - state.due_ns) > period_ns:
        return stamp_ns + period_ns
    return state.due_ns + period_ns
