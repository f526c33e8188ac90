"""One bag and one camera become clips on disk; a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from molmo2_ros.bags.bag import Bag, BagMessage
from molmo2_ros.bags.skips import Skips
from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import DataError
from molmo2_ros.training.logs.hardness import hardness
from molmo2_ros.training.logs.records import ClipRecord, LineFile, cannot_write
from molmo2_ros.training.logs.sampling import (
    ClipSettings,
    OpenClip,
    SamplerState,
    Split,
    difference,
    is_due,
    next_due_ns,
    thumbnail_of,
)
from molmo2_ros.training.logs.spoken import LogTopics, Spoken, read_spoken
from molmo2_ros.training.logs.topics import IMAGE_KINDS, Correction, Decoder, SeenFrame

CLIPS = "clips.jsonl"
_RESTART_NS = NS_PER_S  # a stamp that is so much earlier: the clock began anew


@dataclass(frozen=True, slots=True, kw_only=True)
class LogReport:
    """What became of one bag and camera.

    Args:
        key: names its folder below `logs`.
        num_images: messages of the camera that were looked at.
        num_duplicates: pictures that were dropped because nothing had changed.
        num_kept: pictures that are in clips.
        num_clips: clips.
        skips: what could not be used, as Skips.as_json has it.
    """

    key: str
    num_images: int = 0
    num_duplicates: int = 0
    num_kept: int = 0
    num_clips: int = 0
    skips: dict[str, Any]


def log_key(bag: Path, topic: str) -> str:
    """A folder's name for a bag and a camera: readable, and unique by the bag's whole path."""
    where = hashlib.sha256(f"{bag.resolve()} {topic}".encode()).hexdigest()[:8]
    words = re.sub(r"[^A-Za-z0-9]+", "_", f"{bag.stem} {topic}").strip("_")
    return f"{words[-80:]}_{where}"


def sample_bag(bag: Path, topics: LogTopics, out: Path, settings: ClipSettings) -> LogReport:
    """Make the clips of one camera of one bag, or the rest of them.

    Args:
        bag: a bag's folder or file.
        topics: what of it is read.
        out: folder of the datasets.
        settings: how clips are made.

    Raises:
        DataError: there is no such bag or topic, nothing of it can be read, or no space is left.
        ConfigError: the folder holds clips of the same bag that were made with other settings.
    """
    key = log_key(bag, topics.image)
    head = {"bag": bag.name, **asdict(topics), **asdict(settings)}
    with LineFile(out / "logs" / key / CLIPS, head) as lines:
        last = lines.earlier[-1] if lines.earlier else None
        if last is not None and "report" in last:
            return LogReport(**last["report"])
        report = LogReport(key=key, skips={}) if last is None else LogReport(**last["so_far"])
        # What opening the bag and reading its texts meets was counted by the run before.
        skips = Skips(report.skips)
        with Bag(bag, Skips() if last else skips) as reader:
            reader.require([topics.image], IMAGE_KINDS)
            decoder = Decoder()
            reader.skips = Skips()  # a file that breaks off is met again with the pictures
            spoken = read_spoken(reader, topics, decoder, Skips() if last else skips)
            reader.skips = skips
            run = _Run(reader, topics.image, decoder, spoken, out, settings, lines, report)
            report = run.go(last)
        lines.append({"report": asdict(report)})
    return report


class _Run:
    """One pass over a bag's pictures."""

    def __init__(
        self,
        bag: Bag,
        topic: str,
        decoder: Decoder,
        spoken: Spoken,
        out: Path,
        settings: ClipSettings,
        lines: LineFile,
        report: LogReport,
    ) -> None:
        self._bag, self._topic, self._decoder, self._spoken = bag, topic, decoder, spoken
        self._out, self._settings, self._lines, self._report = out, settings, lines, report
        self._split = Split.of(bag.span_ns, settings)
        self._state = SamplerState()
        self._clip: OpenClip | None = None
        self._log_ns, self._num_before = -1, 0  # messages of that very time before this one

    def go(self, last: dict[str, Any] | None) -> LogReport:
        """Read all pictures from where the last run stood."""
        start_ns, num_taken = None, 0
        if last is not None:
            self._state = SamplerState.from_json(last["state"])
            start_ns, num_taken = last["next_log_ns"], last["num_before_next"]
        for message in self._bag.messages([self._topic], start_ns):
            # A recorder that goes by a simulated clock gives many messages one time.
            is_same = message.log_ns == self._log_ns
            self._num_before = self._num_before + 1 if is_same else 0
            self._log_ns = message.log_ns
            if message.log_ns != start_ns or self._num_before >= num_taken:
                self._take(message)
        self._close_clip(None)
        return replace(self._report, skips=self._bag.skips.as_json())

    def _take(self, message: BagMessage) -> None:
        """Look at one picture. What is noted about it is noted after the clip before it is written.

        A run that goes on begins with the picture that ended the last clip.
        """
        stamp_ns = self._stamp_ns(message)
        if stamp_ns is None:
            return
        last_ns = self._state.last_ns
        split = self._split.at(message.log_ns)
        clip = self._clip
        if clip is not None and not clip.takes(stamp_ns, last_ns or 0, split, self._settings):
            self._close_clip(message)
        if last_ns is not None and stamp_ns <= last_ns:
            self._bag.skips.add(
                "clock that began anew",
                f"{message.place} is stamped {stamp_ns} ns after {last_ns} ns of the picture "
                "before it: a new clip begins",
            )
            self._state = replace(self._state, due_ns=None)
        self._choose(message, stamp_ns, split)
        self._add(num_images=1)
        self._state = replace(self._state, last_ns=stamp_ns)

    def _stamp_ns(self, message: BagMessage) -> int | None:
        """The picture's stamp; None where it has none, or a little less than the one before."""
        try:
            stamp_ns = self._decoder.stamp_ns(message)
        except DataError as error:
            self._bag.skips.add("undecodable picture", str(error))
            self._add(num_images=1)
            return None
        last_ns = self._state.last_ns
        if last_ns is None or stamp_ns > last_ns or stamp_ns <= last_ns - _RESTART_NS:
            return stamp_ns
        self._add(num_images=1)
        self._bag.skips.add(
            "stamp that runs backwards",
            f"{message.place} is stamped {stamp_ns} ns, not after {last_ns} ns of the picture "
            "before it",
        )
        return None

    def _choose(self, message: BagMessage, stamp_ns: int, split: str | None) -> None:
        """Decode and keep a picture that is due, or of which a correction speaks."""
        is_wanted = stamp_ns in self._spoken.corrections
        if split is None:
            if is_wanted:
                self._bag.skips.add(
                    "correction between the sets",
                    f"{message.place} is in the gap between training and held-out set",
                )
            return
        if not is_wanted and not is_due(stamp_ns, self._state, self._settings):
            return
        try:
            frame = self._decoder.frame(message)
        except DataError as error:
            self._bag.skips.add("undecodable picture", str(error))
            return
        if self._clip is not None and not self._clip.fits(frame):
            first = self._clip.frames[0]
            # Before the clip is written: a run that goes on from there has nothing to compare with.
            self._bag.skips.add(
                "other size or camera",
                f"{message.place} is {frame.size[0]}x{frame.size[1]} of {frame.frame_id!r} after "
                f"{first.size[0]}x{first.size[1]} of {first.frame_id!r}: a new clip begins",
            )
            self._close_clip(message)
        self._keep(frame, split, is_wanted)

    def _keep(self, frame: SeenFrame, split: str, is_wanted: bool) -> None:
        """Put a picture into the clip, unless nothing has changed since the last one."""
        due_ns = next_due_ns(frame.stamp_ns, self._state, self._settings)
        self._state = replace(self._state, due_ns=due_ns)
        thumbnail, last = thumbnail_of(frame), self._state.thumbnail
        is_same = last is not None and difference(thumbnail, last) < self._settings.near_duplicate
        if is_same and not is_wanted:
            self._add(num_duplicates=1)
            return
        self._state = replace(self._state, thumbnail=thumbnail)
        frames = self._clip.frames if self._clip is not None else ()
        self._clip = OpenClip(split=split, frames=(*frames, frame))

    def _close_clip(self, following: BagMessage | None) -> None:
        """Write the clip, and from where to go on."""
        clip, self._clip = self._clip, None
        if clip is None:
            return
        record = self._record(clip)
        folder = self._out / clip.split
        for frame, name in zip(clip.frames, record.frames, strict=True):
            try:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(frame.jpeg(self._settings.jpeg_quality))
            except OSError as error:
                raise cannot_write(folder / name, error) from error
        self._add(num_clips=1, num_kept=len(clip.frames))
        so_far = replace(self._report, skips=self._bag.skips.as_json())
        self._lines.append(
            {
                "clip": record.as_json(),
                "state": self._state.as_json(),
                "next_log_ns": (1 << 62) if following is None else following.log_ns,
                "num_before_next": self._num_before,
                "so_far": asdict(so_far),
            }
        )

    def _record(self, clip: OpenClip) -> ClipRecord:
        key, begun_ns = self._report.key, clip.frames[0].stamp_ns
        corrections = [
            entry
            for index, frame in enumerate(clip.frames)
            for correction in self._spoken.corrections.get(frame.stamp_ns, ())
            if (entry := self._placed(index, frame, correction)) is not None
        ]
        judged = hardness(clip.frames, self._spoken.answers, is_corrected=bool(corrections))
        return ClipRecord(
            name=f"{key}/{begun_ns}_{self._report.num_clips}",
            split=clip.split,
            frames=tuple(
                f"frames/{key}/{self._report.num_clips:06d}_{frame.stamp_ns}.jpg"
                for frame in clip.frames
            ),
            stamps_ns=tuple(frame.stamp_ns for frame in clip.frames),
            hardness=round(judged.total, 4),
            reasons={name: round(value, 4) for name, value in asdict(judged).items()},
            corrections=tuple(corrections),
        )

    def _placed(
        self, index: int, frame: SeenFrame, correction: Correction
    ) -> tuple[int, str, float | None, float | None] | None:
        """A correction in 0..1 of its picture; None for one that lies outside."""
        if correction.u is None or correction.v is None:
            return index, correction.words, None, None
        width, height = frame.size
        x, y = correction.u / width, correction.v / height
        if 0 <= x <= 1 and 0 <= y <= 1:
            return index, correction.words, x, y
        self._bag.skips.add(
            "label outside the picture",
            f"the correction about {correction.words!r} at {correction.stamp_ns} ns is at "
            f"{correction.u:g}, {correction.v:g} of a picture of {width}x{height} pixels",
        )
        return None

    def _add(self, **counts: int) -> None:
        """Count what was looked at, dropped, kept or made."""
        sums = {name: getattr(self._report, name) + more for name, more in counts.items()}
        self._report = replace(self._report, **sums)
