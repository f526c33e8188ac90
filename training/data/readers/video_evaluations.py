"""Molmo2-VideoCountEval, -VideoPointEval and -VideoTrackEval: with the masks that decide."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.data.readers.fields import Fields
from molmo2_ros.training.data.readers.mask import decode_mask
from molmo2_ros.training.data.readers.report import Why
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.data.readers.table import rows
from molmo2_ros.training.data.readers.video_tracks import (
    RAW_COLUMNS,
    SPAN_COLUMNS,
    answer_step,
    clip_media,
    raw_objects,
)

COUNT_COLUMNS = ("video_id", "clip_start", "clip_end", "label", "question", "count")
POINT_COLUMNS = ("video_id", "label", "width", "height", "two_fps_timestamps", "points", "masks")


def read_video_count_eval(source: Source, *, split: str | None = None) -> Iterator[Example]:
    """Molmo2-VC: one question each, in the row's own words, answered by a bare number.

    Args:
        source: hub columns COUNT_COLUMNS; videos by `<video_id>_2fps` or `video_id`.
        split: of the hub: val.

    Source: allenai/molmo2 `Molmo2VideoCountEval`.
    """
    for number, row in enumerate(rows(source.folder, COUNT_COLUMNS, split=split)):
        yield from source.checked(row.place, partial(_count, source, row, number))


def read_video_point_eval(source: Source, *, split: str | None = None) -> Iterator[Example]:
    """Molmo2-VP: each object with its point and its masks at the half seconds around it.

    Args:
        source: hub columns POINT_COLUMNS: a point in pixels and a list of masks (`frame_id` at
            two frames a second, `rle`) for each stamp; videos as above. Needs a store.
        split: of the hub: val.

    Source: allenai/molmo2 `Molmo2VideoPointEval`.
    """
    source.needed_store()
    for number, row in enumerate(rows(source.folder, POINT_COLUMNS, split=split)):
        yield from source.checked(row.place, partial(_points, source, row, number))


def read_video_track_eval(
    source: Source,
    *,
    split: str | None = None,
    sampling_fps: int = 1,
    datasets: tuple[str, ...] = (),
    all_masks: bool = False,
) -> Iterator[Example]:
    """Molmo2-Track: the raw annotations with a mask or null for each object and frame.

    Args:
        source: hub columns of Molmo2-VideoTrack and `masks`: records of `object_id` and `masks`,
            run lengths. Needs a store.
        split: of the hub: test.
        sampling_fps: rate of the answers.
        datasets: keep rows whose `video_dataset` is one of these; empty: all.
        all_masks: write the masks of all frames, as J&F at the clip's own rate needs them, and
            not of the answered stamps alone.

    Source: allenai/molmo2 `Molmo2VideoTrackEval`.
    """
    source.needed_store()
    table = rows(source.folder, (*RAW_COLUMNS, "masks"), optional=SPAN_COLUMNS, split=split)
    for row in table:
        if datasets and row.values["video_dataset"] not in datasets:
            reason = f"of {row.values['video_dataset']}, which was not asked for"
            source.report.skip(row.place, Why.RULE, reason)
        else:
            make = partial(_tracks, source, row, sampling_fps, all_masks)
            yield from source.checked(row.place, make)


def _count(source: Source, row: Fields, number: int) -> Example | None:
    video_id, count = row.text("video_id"), row.whole("count")
    if count < 0:
        raise DataError(f"count {count}, expected a number from 0")
    annotation = Annotation(
        task=Task.REPLY,
        question=row.text("question"),
        answer=str(count),
        style="video_count",
    )
    path = source.find(row.place, f"{video_id}_2fps", video_id)
    if path is None:
        return None
    start_s = row.number("clip_start") if row.has("clip_start") else 0.0
    end_s = row.number("clip_end") if row.has("clip_end") else None
    return Example(
        name=f"{video_id} {number}",
        media=Media(video=str(path), start_s=start_s, end_s=end_s),
        annotations=(annotation,),
    )


def _points(source: Source, row: Fields, number: int) -> Example | None:
    video_id, label = row.text("video_id"), row.text("label")
    path = source.find(row.place, f"{video_id}_2fps", video_id)
    if path is None:
        return None
    name = f"{video_id} {number}"
    return Example(
        name=name,
        media=Media(video=str(path)),
        annotations=(
            Annotation(
                task=Task.COUNT,
                label=label,
                objects=tuple(_pointed_objects(source, row, name)),
                question=f'How many "{label}" are there in the video?',
            ),
        ),
    )


def _pointed_objects(source: Source, row: Fields, name: str) -> Iterator[LabelledObject]:
    store, width, height = source.needed_store(), row.whole("width"), row.whole("height")
    stamps_s, points = row.items("two_fps_timestamps"), row.records("points")
    masks = row.items("masks")
    if not len(stamps_s) == len(points) == len(masks):
        raise DataError(
            f"{len(stamps_s)} stamps, {len(points)} points and masks of {len(masks)} objects, "
            "expected as many of each"
        )
    for number, (stamp_s, point) in enumerate(zip(stamps_s, points, strict=True)):
        time_s = Fields(point.place, {"stamp": stamp_s}).number("stamp")
        x, y = point.number("x") / width, point.number("y") / height
        paths = []
        for record in Fields(row.place, {"masks": masks[number]}).records("masks"):
            mask_s = record.whole("frame_id") / 2
            mask = decode_mask(record.place, record.values.get("rle"), (height, width))
            paths.append((mask_s, store.add_mask(f"{name} {number} {mask_s:g}", mask)))
        yield LabelledObject(
            points=(LabelledPoint(x=x, y=y, time_s=time_s),), masks=tuple(sorted(paths))
        )


def _tracks(source: Source, row: Fields, sampling_fps: int, all_masks: bool) -> Example | None:
    fps = row.whole("fps")
    step = answer_step(source, row, fps, sampling_fps)
    media = None if step is None else clip_media(source, row, fps)
    if step is None or media is None:
        return None
    found = raw_objects(row, fps, step)
    masks = _object_masks(source, row, fps, 1 if all_masks else step)
    if set(masks) != set(found):
        raise DataError(f"masks of {sorted(masks)}, expected those of mask_id {sorted(found)}")
    annotation = Annotation(
        task=Task.TRACK,
        label=row.text("exp"),
        objects=tuple(
            LabelledObject(points=tuple(points), masks=masks[key]) for key, points in found.items()
        ),
        fps=float(sampling_fps),
    )
    return Example(name=row.key("id"), media=media, annotations=(annotation,))


def _object_masks(
    source: Source, row: Fields, fps: int, step: int
) -> dict[str, tuple[tuple[float, str], ...]]:
    store, size = source.needed_store(), (row.whole("h"), row.whole("w"))
    found = {}
    for record in row.records("masks"):
        key, paths = record.key("object_id"), []
        for frame, rle in _framed(record.items("masks")):
            if rle is None or frame % step:
                continue
            mask = decode_mask(f"{record.place}, frame {frame}", rle, size)
            if mask.any():
                name = f"{row.key('id')} {key} {frame}"
                paths.append((frame / fps, store.add_mask(name, mask)))
        found[key] = tuple(paths)
    return found


def _framed(masks: Any) -> Iterator[tuple[int, Any]]:
    """Some sources name the frame of each mask, in others each frame has its own."""
    for number, entry in enumerate(masks):
        if isinstance(entry, dict) and "frame" in entry:
            yield int(entry["frame"]), entry.get("mask")
        else:
            yield number, entry
