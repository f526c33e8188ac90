"""Molmo2-VideoTrack and molmo2-track-instruction: what a phrase means, through a clip."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import MappingProxyType

from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.data.readers.fields import Fields
from molmo2_ros.training.data.readers.media_index import find_media
from molmo2_ros.training.data.readers.report import Why
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.data.readers.table import has_table, rows

TASKS = MappingProxyType(
    {
        "track": Task.TRACK,
        "ground": Task.ENDS,
        "single_point_track": Task.TRACK_FROM_POINT,
    }
)
CLIP_COLUMNS = ("id", "clip", "fps", "video_dataset", "mask_id")
SPAN_COLUMNS = ("video", "start_frame", "end_frame")
INSTRUCTION_COLUMNS = (
    *CLIP_COLUMNS,
    "expression",
    "sampling_fps",
    "width",
    "height",
    "frame_trajectories",
)
RAW_COLUMNS = (*CLIP_COLUMNS, "exp", "w", "h", "points")


def read_track_instruction(
    source: Source, *, configs: tuple[str, ...] = (), split: str | None = None
) -> Iterator[Example]:
    """What the released models were trained on: points at the rate of each row's answer.

    Args:
        source: hub columns INSTRUCTION_COLUMNS, and SPAN_COLUMNS where clips were not cut: points
            in pixels of `width` and `height`. A clip is found as `<video_dataset>/<clip>` or
            `clip`; else its part of `<video_dataset>/<video>` is taken.
        configs: of TASKS; empty: those that are in the folder.
        split: of the hub.

    Raises:
        ConfigError: an unknown configuration.
        DataError: no table.

    Source: allenai/molmo2 `Molmo2VideoTrackInstruction`, `TrackingDataset`.
    """
    unknown = [config for config in configs if config not in TASKS]
    if unknown:
        raise ConfigError(f"no configuration {unknown[0]!r}, expected of {', '.join(TASKS)}")
    present = [config for config in TASKS if has_table(source.folder, config=config)]
    for config in configs or present or TASKS:
        table = rows(
            source.folder,
            INSTRUCTION_COLUMNS,
            optional=SPAN_COLUMNS,
            config=config,
            split=split,
        )
        for row in table:
            yield from source.checked(row.place, partial(_instruction, source, row, config))


def read_video_track(
    source: Source, *, split: str | None = None, sampling_fps: int = 2
) -> Iterator[Example]:
    """The raw annotations: points of every frame, of which those of the answers' rate are taken.

    Args:
        source: hub columns RAW_COLUMNS, and SPAN_COLUMNS as above; points in pixels of `w`, `h`,
            one or null for each frame. What is hidden is not told from what was not annotated.
        split: of the hub.
        sampling_fps: rate of the answers; clips whose own is no multiple of it are left out.

    Source: allenai/molmo2 `Molmo2VideoTrack`.
    """
    for row in rows(source.folder, RAW_COLUMNS, optional=SPAN_COLUMNS, split=split):
        yield from source.checked(row.place, partial(_raw, source, row, sampling_fps))


def clip_media(source: Source, row: Fields, fps: float) -> Media | None:
    """The clip's own file, or its part of the whole video; None is reported."""
    dataset, clip = row.text("video_dataset"), row.text("clip")
    path = find_media(source.resolve, f"{dataset}/{clip}", clip)
    if path is not None:
        return Media(video=str(path))
    if not all(row.has(column) for column in SPAN_COLUMNS):
        source.report.skip(row.place, Why.NO_MEDIA, f"no file for {clip}")
        return None
    video = row.text("video")
    path = find_media(source.resolve, f"{dataset}/{video}", video)
    if path is None:
        reason = f"no file for {clip} of {dataset}, nor for its video {video}"
        source.report.skip(row.place, Why.NO_MEDIA, reason)
        return None
    first, last = row.whole("start_frame"), row.whole("end_frame")
    return Media(video=str(path), start_s=first / fps, end_s=(last + 1) / fps)


def answer_step(source: Source, row: Fields, fps: int, sampling_fps: int) -> int | None:
    """Frames of the clip from one answered stamp to the next; None is reported."""
    if sampling_fps < 1 or fps % sampling_fps:
        reason = f"{fps} frames a second are no multiple of the answer's {sampling_fps}"
        source.report.skip(row.place, Why.RULE, reason)
        return None
    return fps // sampling_fps


def raw_objects(row: Fields, fps: int, step: int) -> dict[str, list[LabelledPoint]]:
    """The points of each object at every `step`th frame, in the order of `mask_id`."""
    width, height = row.positive("w"), row.positive("h")
    found: dict[str, list[LabelledPoint]] = {key: [] for key in row.keys("mask_id")}
    for record in row.records("points"):
        key = record.key("object_id")
        if key not in found:
            raise DataError(f"{record.place}: object {key} is not in mask_id {list(found)}")
        for frame, pixel in enumerate(record.items("points")):
            if pixel and frame % step == 0:
                found[key].append(_point(record.place, pixel, width, height, frame / fps))
    return found


def _instruction(source: Source, row: Fields, config: str) -> Example | None:
    sampling_fps = row.whole("sampling_fps")
    fps = row.whole("fps")
    if answer_step(source, row, fps, sampling_fps) is None:
        return None
    objects = _trajectories(row)
    task, label = TASKS[config], row.text("expression")
    if task is Task.TRACK_FROM_POINT:
        objects = [thing for thing in objects if any(thing.seen())]
    annotations = tuple(
        Annotation(task=task, label=label, objects=tuple(group), fps=float(sampling_fps))
        for group in (
            [[thing] for thing in objects] if task is Task.TRACK_FROM_POINT else [objects]
        )
    )
    return _clip_example(source, row, f"{config} {row.key('id')}", annotations, fps)


def _trajectories(row: Fields) -> list[LabelledObject]:
    """In the order of `mask_id`; points of other objects are dropped, as the authors do."""
    width, height = row.positive("width"), row.positive("height")
    found: dict[str, list[LabelledPoint]] = {key: [] for key in row.keys("mask_id")}
    for frame in sorted(row.records("frame_trajectories"), key=lambda f: f.number("time")):
        time_s = frame.number("time")
        for record in frame.records("points"):
            key, place = record.key("id"), record.place
            if key not in found:
                continue
            if record.has("occluded") and record.flag("occluded"):
                found[key].append(LabelledPoint(time_s=time_s, visible=False))
            elif record.has("point"):
                pixel = record.items("point")
                found[key].append(_point(place, pixel, width, height, time_s))
    return [LabelledObject(points=tuple(points)) for points in found.values() if points]


def _raw(source: Source, row: Fields, sampling_fps: int) -> Example | None:
    fps = row.whole("fps")
    step = answer_step(source, row, fps, sampling_fps)
    if step is None:
        return None
    found = raw_objects(row, fps, step)
    annotation = Annotation(
        task=Task.TRACK,
        label=row.text("exp"),
        objects=tuple(LabelledObject(points=tuple(points)) for points in found.values() if points),
        fps=float(sampling_fps),
    )
    return _clip_example(source, row, row.key("id"), (annotation,), fps)


def _clip_example(
    source: Source, row: Fields, name: str, annotations: tuple[Annotation, ...], fps: float
) -> Example | None:
    if row.items("mask_id") and not any(annotation.objects for annotation in annotations):
        source.report.skip(row.place, Why.RULE, "no point falls on a stamp of the answer")
        return None
    media = clip_media(source, row, fps)
    return None if media is None else Example(name=name, media=media, annotations=annotations)


def _point(place: str, pixel: object, width: float, height: float, time_s: float) -> LabelledPoint:
    if not isinstance(pixel, (list, tuple)) or len(pixel) != 2:
        raise DataError(f"{place}: point {pixel!r:.80}, expected x and y in pixels")
    fields = Fields(place, {"x": pixel[0], "y": pixel[1]})
    return LabelledPoint(x=fields.number("x") / width, y=fields.number("y") / height, time_s=time_s)
