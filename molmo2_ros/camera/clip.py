"""The frames that one answer is about: a sliding window, sampled by Molmo2's rules."""

from __future__ import annotations

import logging
import math
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ImageError

_LOG = logging.getLogger(__name__)
_NS = 1_000_000_000

_MAX_FORESEEN = 2000  # frames; stamps a nanosecond apart would be foreseen by the thousand million
MAX_FPS = 10.0  # above it two frames print the same stamp, which has one decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which frames of a window Molmo2 reads.

    Args:
        fps: frames a second, laid as a grid over time; the newest frame is always added.
        max_frames: at most so many; a longer window is sampled evenly, its first and last frame
            included.
        max_clip_s: only the newest so many seconds; None for the whole window.
        answer_fps: for tracking: when the window is too long for `fps`, take the densest grid that
            is a multiple of this rate and still spans it, so that answers fall on frames.

    Raises:
        ImageError: a value is out of range.

    Source: the released code's TimeSampler and TrackingDataset (2 fps, last frame added, uniform
        above max_frames; tracking reads up to 10 fps and answers at 1 or 2).
    """

    fps: float = 2.0
    max_frames: int = 384
    max_clip_s: float | None = None
    answer_fps: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fps <= MAX_FPS:
            raise ImageError(
                f"sampling at {self.fps} fps, expected above 0 and at most {MAX_FPS}: stamps have "
                "one decimal and frames closer than 0.1 s would print the same one"
            )
        if self.max_frames < 1:
            raise ImageError(f"sampling max_frames is {self.max_frames}, expected at least 1")
        if self.max_clip_s is not None and not self.max_clip_s > 0:
            raise ImageError(f"sampling max_clip_s is {self.max_clip_s}, expected above 0")
        if self.answer_fps is not None and not 0 < self.answer_fps <= self.fps:
            raise ImageError(
                f"answers at {self.answer_fps} fps from frames at {self.fps} fps, expected above 0 "
                "and at most the frames' rate: raise the sampling rate or lower the answers'"
            )


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames in the order of their time.

    Args:
        frames: at least one; stamps strictly increasing.

    Raises:
        ImageError: there is no frame, or a stamp does not increase.
    """

    frames: tuple[Frame, ...]

    def __post_init__(self) -> None:
        if not self.frames:
            raise ImageError("clip has no frame, expected at least one; wait for the camera")
        for index, (before, after) in enumerate(pairwise(self.frames)):
            if after.stamp_ns <= before.stamp_ns:
                raise ImageError(
                    f"frame {index + 1} of the clip is stamped {after.stamp_ns} ns, not after "
                    f"frame {index} at {before.stamp_ns} ns; sort the frames and drop repeated ones"
                )

    @property
    def stamps_ns(self) -> tuple[int, ...]:
        """Times of exposure, nanoseconds of the source's clock."""
        return tuple(frame.stamp_ns for frame in self.frames)

    @property
    def times_s(self) -> tuple[float, ...]:
        """Seconds from the first frame."""
        return tuple((frame.stamp_ns - self.frames[0].stamp_ns) / _NS for frame in self.frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)


def stamp_text(time_s: float) -> str:
    """How Molmo2 prints a frame's time: seconds with one decimal."""
    return f"{time_s:.1f}"


def sample_clip(
    frames: Sequence[Frame], sampling: Sampling, *, grid_origin_ns: int | None = None
) -> Clip:
    """Choose a clip's frames by time.

    Each point of the grid takes the frame nearest to it; a slow camera simply gives fewer. Of
    frames that would print the same stamp (one decimal) one is kept; the newest frame always is.

    Args:
        frames: stamps strictly increasing.
        sampling: what to choose.
        grid_origin_ns: a time that the grid passes through; None for the window's first frame. A
            live camera passes a constant, so that a sliding window chooses the same frames again
            and their features are found in the cache.

    Raises:
        ImageError: there is no frame.

    Example:
        Frames every 0.2 s up to 1.2 s at 2 fps: the grid 0, 0.5, 1.0 takes 0, 0.4 (as near as 0.6
        and earlier) and 1.0; 1.2 is added as the newest.
    """
    stamps = [frame.stamp_ns for frame in frames]
    chosen = choose_stamps(stamps, sampling, grid_origin_ns=grid_origin_ns)
    return Clip(tuple(frames[index] for index in chosen))


def choose_stamps(
    stamps_ns: Sequence[int], sampling: Sampling, *, grid_origin_ns: int | None = None
) -> list[int]:
    """Indices of the frames of a clip, by their stamps alone.

    Args, raises: as `sample_clip`.
    """
    if not stamps_ns:
        raise ImageError("there is no frame to choose from; wait for the camera")
    return _choose(stamps_ns, sampling, grid_origin_ns)


class PushResult(Enum):
    """What became of a frame that was pushed."""

    ADDED = "added"
    REPEATED = "repeated"  # same stamp as the newest: left out
    RESET = "reset"  # its stamp ran backwards: the window was emptied and starts with it


class ClipBuffer:
    """The newest seconds of one camera; callbacks push while a worker samples.

    Args:
        duration_s: how far back the window reaches from the newest frame.
        max_frames: at most so many are held.
        keep_fps: hold of the older frames only the one nearest to each point of this grid: from a
            camera no slower than it, all that sampling at a divisor of it would choose. None holds
            every frame. Eight seconds of 1280x720 are 663 MB at 30 Hz and 177 MB at 8.
        max_bytes: pictures and depth together; the oldest go first, the newest frame stays whatever
            it takes. None for no bound.

    Raises:
        ImageError: a value is out of range.
    """

    def __init__(
        self,
        duration_s: float,
        max_frames: int,
        keep_fps: float | None = None,
        max_bytes: int | None = None,
    ) -> None:
        values = (duration_s, max_frames, keep_fps, max_bytes)
        if not all(value is None or value > 0 for value in values):
            raise ImageError(
                f"clip of {duration_s} s, {max_frames} frames at {keep_fps} fps in {max_bytes} "
                "bytes, expected values above 0"
            )
        self._duration_ns = round(duration_s * _NS)
        self._max_frames = max_frames
        self._keep_fps = keep_fps
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._frames: list[Frame] = []  # guarded by _lock

    def push(self, frame: Frame) -> PushResult:
        """Add the camera's newest frame and drop what is too old or too many."""
        with self._lock:
            if self._frames and frame.stamp_ns == self._frames[-1].stamp_ns:
                return PushResult.REPEATED
            if self._frames and frame.stamp_ns < self._frames[-1].stamp_ns:
                _LOG.info(
                    "stamps ran backwards by %.3f s: the clip starts anew",
                    (self._frames[-1].stamp_ns - frame.stamp_ns) / _NS,
                )
                self._frames = [frame]
                return PushResult.RESET
            self._thin()
            self._frames.append(frame)
            oldest_ns = frame.stamp_ns - self._duration_ns
            num_old = bisect_left([held.stamp_ns for held in self._frames], oldest_ns)
            del self._frames[: max(num_old, len(self._frames) - self._max_frames)]
            if self._max_bytes is not None:
                total = sum(held.num_bytes for held in self._frames)
                while total > self._max_bytes and len(self._frames) > 1:
                    total -= self._frames.pop(0).num_bytes
            return PushResult.ADDED

    def _thin(self) -> None:
        """Keep one of the two newest frames where both are about the same point of the grid."""
        if self._keep_fps is None or len(self._frames) < 2:
            return
        step, distance = _nearest_step(self._frames[-1].stamp_ns, self._keep_fps)
        step_before, distance_before = _nearest_step(self._frames[-2].stamp_ns, self._keep_fps)
        if step == step_before:
            del self._frames[-1 if distance_before <= distance else -2]

    @property
    def newest(self) -> Frame | None:
        """The frame pushed last, None before the first."""
        with self._lock:
            return self._frames[-1] if self._frames else None

    @property
    def num_bytes(self) -> int:
        """What the pictures and their depth take of memory."""
        with self._lock:
            return sum(frame.num_bytes for frame in self._frames)

    def frames(self) -> tuple[Frame, ...]:
        """All that is held, oldest first."""
        with self._lock:
            return tuple(self._frames)

    def sample(self, sampling: Sampling) -> Clip:
        """Choose a clip from the window, on a grid that stands still while the window slides.

        Raises:
            ImageError: nothing has been pushed.
        """
        return sample_clip(self.frames(), sampling, grid_origin_ns=0)

    def foresee(self, sampling: Sampling, num_frames: int, period_s: float) -> tuple[Frame, ...]:
        """The frames held now that a later clip will hold, too.

        Args:
            sampling: of that clip.
            num_frames: that the camera gives before it is sampled.
            period_s: seconds between these.

        Returns:
            all of the present clip for no further frame; none where the window has moved on by
            then, or thousands of frames come before.

        Example:
            Of frames every 0.1 s, newest at 1.0 s, a clip at 2 fps that is sampled two frames on,
            at 1.2 s, reads 0, 0.5 and 1.0 again; of one that is sampled one frame after 0.9 s the
            newest is 1.0, and 0.9 is read by none.
        """
        frames = self.frames()
        window_ns = self._duration_ns
        if sampling.max_clip_s is not None:
            window_ns = min(window_ns, round(sampling.max_clip_s * _NS))
        period_ns = round(period_s * _NS)
        if not frames or num_frames * period_ns > window_ns or num_frames > _MAX_FORESEEN:
            return ()  # before many stamps are made up
        held = [frame.stamp_ns for frame in frames]
        stamps = [*held, *(held[-1] + period_ns * more for more in range(1, num_frames + 1))]
        first = bisect_left(stamps, stamps[-1] - window_ns)
        chosen = _choose(stamps[first:], sampling, grid_origin_ns=0)
        return tuple(frames[first + index] for index in chosen if first + index < len(frames))

    def clear(self) -> None:
        """Forget all frames."""
        with self._lock:
            self._frames = []

    def __len__(self) -> int:
        with self._lock:
            return len(self._frames)


def _choose(stamps: Sequence[int], sampling: Sampling, grid_origin_ns: int | None) -> list[int]:
    """Indices of the frames of a clip, by their stamps (see sample_clip)."""
    first = 0
    if sampling.max_clip_s is not None:
        first = bisect_left(stamps, stamps[-1] - round(sampling.max_clip_s * _NS))
        stamps = stamps[first:]
    origin_ns = stamps[0] if grid_origin_ns is None else grid_origin_ns
    chosen: list[int] = []
    for fps in _rates(sampling):
        chosen = _on_grid(stamps, fps, origin_ns)
        if len(chosen) <= sampling.max_frames:
            break
    else:
        if sampling.answer_fps is None:
            chosen = _evenly(stamps, sampling.max_frames)
        else:
            chosen = chosen[-sampling.max_frames :]
    return [first + index for index in _printed_apart(stamps, chosen)]


def _rates(sampling: Sampling) -> list[float]:
    """Rates to try, densest first."""
    if sampling.answer_fps is None:
        return [sampling.fps]
    most = math.floor(sampling.fps / sampling.answer_fps + 1e-9)
    return [sampling.answer_fps * multiple for multiple in range(most, 0, -1)]


def _grid_ns(step: int, fps: float) -> int:
    """Time of a step of the grid from its origin, without float error at clock times."""
    return step * _NS * 1000 // round(fps * 1000)


def _nearest_step(time_ns: int, fps: float) -> tuple[int, int]:
    """The step nearest to a time from the origin, and its distance in nanoseconds."""
    period_ns = _grid_ns(1, fps)
    step = time_ns * round(fps * 1000) // (_NS * 1000)
    step += time_ns - _grid_ns(step, fps) > period_ns // 2
    return step, abs(time_ns - _grid_ns(step, fps))


def _nearest(stamps: Sequence[int], time_ns: int) -> int:
    """Index of the stamp nearest to a time, the earlier of two as near."""
    after = bisect_left(stamps, time_ns)
    if after == 0:
        return 0
    if after == len(stamps):
        return after - 1
    return after - (time_ns - stamps[after - 1] <= stamps[after] - time_ns)


def _on_grid(stamps: Sequence[int], fps: float, origin_ns: int) -> list[int]:
    """Frames nearest to the points of the grid inside the window, and the last frame."""
    # A point just before the window is the first frame's, if no earlier frame would be nearer.
    start_ns = stamps[0] - (stamps[min(1, len(stamps) - 1)] - stamps[0]) // 2
    step = -(-(start_ns - origin_ns) * round(fps * 1000) // (_NS * 1000))
    chosen: list[int] = []
    while (time_ns := origin_ns + _grid_ns(step, fps)) <= stamps[-1]:
        chosen.append(_nearest(stamps, time_ns))
        step += 1
    return sorted({*chosen, len(stamps) - 1})


def _evenly(stamps: Sequence[int], num_frames: int) -> list[int]:
    """First and last frame and evenly spread ones between; the last one only, if one is wanted."""
    if num_frames == 1:
        return [len(stamps) - 1]
    span_ns = stamps[-1] - stamps[0]
    times = (stamps[0] + span_ns * index // (num_frames - 1) for index in range(num_frames))
    return sorted({_nearest(stamps, time_ns) for time_ns in times})


def _printed_apart(stamps: Sequence[int], chosen: Sequence[int]) -> list[int]:
    """Leave out frames that print the stamp of the frame before, but never the last one."""
    first, last = chosen[0], chosen[-1]

    def text(index: int) -> str:
        return stamp_text((stamps[index] - stamps[first]) / _NS)

    kept = [first]
    for index in chosen[1:]:
        if text(index) != text(kept[-1]):
            kept.append(index)
        elif index == last:
            kept[-1] = index
    return kept
