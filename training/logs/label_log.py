"""The clips of one log are labelled, the hardest first; a run that was killed goes on behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ConfigError, DataError, Molmo2Error, ServerError
from molmo2_ros.training.data.file_name import safe_name
from molmo2_ros.training.data.media import load_picture
from molmo2_ros.training.logs.labellers import Labeller, LabelWish, MadeLabels, make_labeller
from molmo2_ros.training.logs.linking import ThingPoint, link
from molmo2_ros.training.logs.records import ClipRecord, LineFile, read_lines
from molmo2_ros.training.logs.sample_bag import CLIPS

LABELS = "labels-"  # begins the names of files with labels


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings:
    """How clips are labelled.

    Args:
        every: the labeller is shown each so many-th picture of a clip; optical flow carries its
            points to those between.
        max_clips: of each log the hardest so many are labelled; None for all.
        max_missed: pictures in a row on which a thing was not found again before it ends.
        min_given: pictures on which a thing has to be found to count.

    Raises:
        ConfigError: a value is out of range.
    """

    every: int = 1
    max_clips: int | None = None
    max_missed: int = 2
    min_given: int = 2

    def __post_init__(self) -> None:
        for name, low in (("every", 1), ("max_clips", 0), ("max_missed", 0), ("min_given", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name} is {value}, expected at least {low}")


def read_clips(folder: Path) -> list[ClipRecord]:
    """The clips of one log, the hardest first, and of equal ones the earliest."""
    lines = read_lines(folder / CLIPS)
    return hardest_first(ClipRecord.from_json(line["clip"]) for line in lines if "clip" in line)


def hardest_first(clips: Iterable[ClipRecord]) -> list[ClipRecord]:
    """Clips in the order in which they are worth labelling; equal ones stay in theirs."""
    return sorted(clips, key=lambda clip: -clip.hardness)


def label_log(
    out: Path, key: str, wishes: Sequence[LabelWish], settings: LabelSettings
) -> dict[str, int]:
    """Label the clips of one log.

    Args:
        out: folder of the datasets.
        key: names the log's folder below `logs`.
        wishes: who labels what.
        settings: how.

    Returns:
        numbers by kind: clips with labels, without, and those that a labeller could not label.

    Raises:
        ConfigError: there is no such labeller, or labels were begun with other settings.
        DataError: no space is left.
        ServerError: a labeller's server is away: the next run goes on from there.
    """
    counts = {"labelled": 0, "nothing": 0, "failed": 0}
    clips = read_clips(out / "logs" / key)[: settings.max_clips]
    for wish in wishes:
        head = {"wish": wish.text, "every": settings.every, "max_missed": settings.max_missed}
        head["min_given"] = settings.min_given
        path = out / "logs" / key / f"{LABELS}{safe_name(wish.text)}.jsonl"
        with LineFile(path, head) as lines:
            done = {line["clip"]: line for line in lines.earlier}
            labeller = None
            for clip in clips:
                line = done.get(clip.name)
                if line is None:
                    labeller = labeller or make_labeller(wish)
                    line = _label(out, clip, labeller, wish, settings)
                    lines.append(line)
                counts[_kind_of(line)] += 1
    return counts


def load_frames(out: Path, clip: ClipRecord) -> list[Frame]:
    """Read a clip's pictures from disk.

    Raises:
        DataError: one is missing or broken.
    """
    pictures = (load_picture(out / clip.split / name) for name in clip.frames)
    return [
        Frame(image=picture, stamp_ns=stamp_ns)
        for picture, stamp_ns in zip(pictures, clip.stamps_ns, strict=True)
    ]


def _label(
    out: Path, clip: ClipRecord, labeller: Labeller, wish: LabelWish, settings: LabelSettings
) -> dict[str, Any]:
    """One line: what a labeller says about a clip, or why it says nothing."""
    line: dict[str, Any] = {"clip": clip.name, "source": labeller.source, "label": wish.phrase}
    try:
        frames = load_frames(out, clip)
        looked = range(0, len(frames), settings.every)
        made = labeller.label([frames[index] for index in looked], wish.phrase)
        things = _things(frames, made, looked, settings)
    except Molmo2Error as error:
        if isinstance(error, ServerError) and error.may_pass:
            raise  # it says nothing about this clip, and all that follow would meet it too
        return {**line, "failed": f"{type(error).__name__}: {error}"}
    return {
        **line,
        "none": made.none and not things,
        "things": [
            [[p.frame, round(p.x, 5), round(p.y, 5), round(p.confidence, 4), p.carried] for p in t]
            for t in things
        ],
    }


def _things(
    frames: Sequence[Frame], made: MadeLabels, looked: range, settings: LabelSettings
) -> tuple[tuple[ThingPoint, ...], ...]:
    """Points of the pictures that were shown, as things in all pictures."""
    for point in made.points:
        if not (0 <= point.frame < len(looked) and 0 <= point.x <= 1 and 0 <= point.y <= 1):
            raise DataError(
                f"a labeller pointed at x {point.x:g}, y {point.y:g} of frame {point.frame}, "
                f"expected 0..1 and one of {len(looked)} frames"
            )
    return link(
        frames,
        made.points,
        looked=looked,
        max_missed=settings.max_missed,
        min_given=settings.min_given,
    )


def _kind_of(line: dict[str, Any]) -> str:
    if "failed" in line:
        return "failed"
    return "labelled" if line["things"] or line["none"] else "nothing"
