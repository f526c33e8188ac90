"""Clips and labels of all logs become the datasets: one to train on, one held out by time.

Each clip is an example for each source of its labels, so that what a person said, and what each
machine said, can be told apart, weighed and left out; nothing is merged.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molmo2_ros.training.data.dataset import ABOUT_FILE, ROWS_FILE
from molmo2_ros.training.data.dataset_writer import DatasetWriter
from molmo2_ros.training.data.example import (
    HUMAN,
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.logs.label_log import LABELS, hardest_first, read_clips
from molmo2_ros.training.logs.records import ClipRecord, cannot_write, read_lines
from molmo2_ros.training.logs.sample_bag import CLIPS
from molmo2_ros.training.logs.sampling import SPLITS

CARRIED = "+flow"  # follows the source of labels of which optical flow carried a part
Labels = Mapping[str, Sequence[Mapping[str, Any]]]  # lines of the files with labels, by clip


def write_data_sets(out: Path, *, as_frames: bool = False) -> dict[str, int]:
    """Write the data sets of all logs of a folder anew.

    A kill leaves the old ones, the new ones, or one that `Dataset.open` refuses until they were
    written again.

    Args:
        out: folder of the data sets.
        as_frames: a single picture becomes a clip of one frame, as a node reads the newest one;
            otherwise a still image, which is read in tiles.

    Returns:
        the number of examples of each set.

    Raises:
        DataError: no space is left, or what was made of a log is damaged.
    """
    # By logs and, in each, by time, where they are equally hard.
    clips = hardest_first(clip for folder in log_folders(out) for clip in read_clips(folder))
    labels = _labels_by_clip(out)
    return {
        split: _write_data_set(
            out, split, [c for c in clips if c.split == split], labels, as_frames
        )
        for split in SPLITS
    }


def _write_data_set(
    out: Path, split: str, clips: Sequence[ClipRecord], labels: Labels, as_frames: bool
) -> int:
    folder, new = out / split, out / f".{split}.new"
    shutil.rmtree(new, ignore_errors=True)
    with DatasetWriter(new, name=f"{out.name}/{split}") as writer:
        for example in examples_of(clips, labels, as_frames=as_frames):
            writer.add(example)
    try:
        lines = [json.dumps(clip.as_json(), ensure_ascii=False) + "\n" for clip in clips]
        (new / CLIPS).write_text("".join(lines), "utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CLIPS, ROWS_FILE, ABOUT_FILE):  # the last says how many rows there are
            os.replace(new / name, folder / name)
        shutil.rmtree(new)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return len(writer)


def log_folders(out: Path) -> list[Path]:
    """The folders of all logs, by name."""
    folder = out / "logs"
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def examples_of(
    clips: Iterable[ClipRecord], labels: Labels, *, as_frames: bool = False
) -> Iterator[Example]:
    """The labelled ones of some clips, in their order; what has no label is no example.

    Args:
        clips: of any logs.
        labels: theirs.
        as_frames: see `write_data_sets`.
    """
    for clip in clips:
        yield from _human_examples(clip, as_frames)
        by_source: dict[str, list[Annotation]] = defaultdict(list)
        for line in labels.get(clip.name, ()):
            annotation = _annotation(clip, line, as_frames)
            if annotation is not None:
                by_source[annotation.source].append(annotation)
        for source, said in sorted(by_source.items()):
            media = _media(clip, as_frames)
            yield Example(name=f"{clip.name}/{source}", media=media, annotations=tuple(said))


def _labels_by_clip(out: Path) -> Labels:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for folder in log_folders(out):
        for path in sorted(folder.glob(f"{LABELS}*.jsonl")):
            for line in read_lines(path):
                found[line["clip"]].append(line)
    return found


def _media(clip: ClipRecord, as_frames: bool) -> Media:
    if len(clip.frames) == 1:
        return _one_picture(clip.frames[0], as_frames)
    return Media(frames=clip.frames, times_s=clip.times_s)


def _one_picture(path: str, as_frames: bool) -> Media:
    return Media(frames=(path,), times_s=(0.0,)) if as_frames else Media(images=(path,))


def _place(x: float, y: float, as_frames: bool) -> LabelledPoint:
    """A point in the one picture of an example."""
    if as_frames:
        return LabelledPoint(x=x, y=y, time_s=0.0)
    return LabelledPoint(x=x, y=y, image=1)


def _annotation(clip: ClipRecord, line: Mapping[str, Any], as_frames: bool) -> Annotation | None:
    """What one labeller says about one clip; None where it says nothing."""
    things = line.get("things", [])
    if not things and not line.get("none"):
        return None
    is_still = len(clip.frames) == 1
    points = [point for thing in things for point in thing]
    is_carried = any(carried for *_, carried in points)
    confidences = [confidence for _, _, _, confidence, _ in points]
    return Annotation(
        task=Task.POINT if is_still or not things else Task.TRACK,
        label=line["label"],
        objects=tuple(
            LabelledObject(
                points=tuple(
                    _place(x, y, as_frames)
                    if is_still
                    else LabelledPoint(x=x, y=y, time_s=clip.times_s[frame])
                    for frame, x, y, _, _ in thing
                )
            )
            for thing in things
        ),
        source=line["source"] + (CARRIED if is_carried else ""),
        confidence=round(float(np.mean(confidences)), 4) if confidences else None,
    )


def _human_examples(clip: ClipRecord, as_frames: bool) -> Iterator[Example]:
    """One example for each picture that an operator spoke of: of the others he said nothing."""
    by_frame: dict[int, dict[str, list[tuple[float, float]]]] = defaultdict(dict)
    for frame, words, x, y in clip.corrections:
        if x is None or y is None:
            by_frame[frame][words] = []  # also takes back what was said of this picture before
        else:
            by_frame[frame].setdefault(words, []).append((x, y))
    for frame, said in sorted(by_frame.items()):
        yield Example(
            name=f"{clip.name}/{HUMAN}/{frame}",
            media=_one_picture(clip.frames[frame], as_frames),
            annotations=tuple(_pointed(words, places, as_frames) for words, places in said.items()),
        )


def _pointed(words: str, places: Sequence[tuple[float, float]], as_frames: bool) -> Annotation:
    return Annotation(
        task=Task.POINT,
        label=words,
        objects=tuple(LabelledObject(points=(_place(x, y, as_frames),)) for x, y in places),
        source=HUMAN,
    )
