"""Molmo2-VideoPoint: points at half seconds of clips of at most a minute."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.data.readers.fields import Fields, as_records
from molmo2_ros.training.data.readers.report import Why
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.data.readers.table import rows

STEP_S = 0.5  # the annotators saw two frames a second
MAX_CLIP_S = 63.0
COLUMNS = (
    "video_id",
    "video_source",
    "video_duration",
    "clip_start",
    "clip_end",
    "label",
    "question",
    "count",
    "two_fps_timestamps",
    "points",
    "annotator_unsure",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Query:
    """One row: what is asked about which part of a video."""

    place: str
    video_id: str
    start_s: float
    end_s: float
    is_whole: bool
    annotation: Annotation


def read_video_point(
    source: Source,
    *,
    config: str | None = None,
    split: str | None = None,
    min_points: int = 0,
    max_points: int = 60,
    unsure: bool = False,
    tasks: tuple[str, ...] = ("count", "point"),
    dialogue_share: float = 0.2,
) -> Iterator[Example]:
    """All queries about a short video as one example; those about a part of a long one each alone.

    Args:
        source: hub columns COLUMNS; points in 0..100 of width and height, a list of them for each
            stamp; videos by `<video_id>_2fps` or `video_id`.
        config: of the hub, one of eight kinds of query ("object", "spatial reference", ...).
        split: of the hub.
        min_points: queries that count fewer are left out.
        max_points: queries that count more are left out.
        unsure: take also what its annotator was unsure of.
        tasks: one is drawn for each query; pointing has the recipe's own wordings, counting the
            row's question.
        dialogue_share: how many of the examples with several queries are one conversation.

    Source: allenai/molmo2 `Molmo2VideoPoint`.
    """
    grouped: dict[tuple[str, tuple[float, float] | None], list[_Query]] = defaultdict(list)
    for row in rows(source.folder, COLUMNS, config=config, split=split):
        try:
            count = row.whole("count")
            if row.has("annotator_unsure") and row.flag("annotator_unsure") and not unsure:
                source.report.skip(row.place, Why.RULE, "its annotator was unsure")
            elif not min_points <= count <= max_points:
                reason = f"count {count}, expected {min_points} to {max_points}"
                source.report.skip(row.place, Why.RULE, reason)
            else:
                query = _query(source, row, tasks)
                if query is not None:
                    clip = None if query.is_whole else (query.start_s, query.end_s)
                    grouped[query.video_id, clip].append(query)
        except DataError as error:
            source.malformed(row.place, error)
    for queries in grouped.values():
        together = [queries] if queries[0].is_whole else [[query] for query in queries]
        for number, members in enumerate(together):
            yield from _example(source, members, number, dialogue_share)


def _query(source: Source, row: Fields, tasks: tuple[str, ...]) -> _Query | None:
    duration_s = row.positive("video_duration")
    is_whole = duration_s <= MAX_CLIP_S
    if is_whole:
        start_s, end_s = 0.0, duration_s
    elif row.has("clip_start") and row.has("clip_end"):
        start_s, end_s = row.number("clip_start"), row.number("clip_end")
    else:
        reason = f"{duration_s:g} s long, and no clip of it is named"
        source.report.skip(row.place, Why.RULE, reason)
        return None
    if not 0 <= start_s < end_s <= duration_s:
        raise DataError(f"clip from {start_s:g} to {end_s:g} s of a video of {duration_s:g} s")
    if end_s - start_s > MAX_CLIP_S:
        reason = f"clip of {end_s - start_s:g} s, expected at most {MAX_CLIP_S:g}"
        source.report.skip(row.place, Why.RULE, reason)
        return None
    video_id, label = row.text("video_id"), row.text("label")
    rng = source.rng(f"{video_id} {start_s} {label}")
    task = Task(tasks[int(rng.integers(len(tasks)))])
    own_words = row.text("question") if task is Task.COUNT and row.has("question") else ""
    return _Query(
        place=row.place,
        video_id=video_id,
        start_s=start_s,
        end_s=end_s,
        is_whole=is_whole,
        annotation=Annotation(
            task=task,
            label=label,
            objects=tuple(_objects(row, start_s, end_s)),
            question=own_words or None,
        ),
    )


def _objects(row: Fields, start_s: float, end_s: float) -> Iterator[LabelledObject]:
    """One object a point: a thing is pointed at once."""
    stamps_s, points = row.items("two_fps_timestamps"), row.items("points")
    if len(stamps_s) != len(points):
        raise DataError(f"{len(stamps_s)} stamps and points for {len(points)}, expected as many")
    for stamp_s, at_stamp in zip(stamps_s, points, strict=True):
        if not isinstance(stamp_s, (int, float)) or stamp_s % STEP_S != 0:
            raise DataError(f"stamp {stamp_s!r}, expected a multiple of {STEP_S} s")
        if not start_s <= stamp_s <= end_s:
            raise DataError(f"stamp {stamp_s:g} is outside its clip, {start_s:g} to {end_s:g} s")
        time_s = math.floor((stamp_s - start_s) / STEP_S) * STEP_S
        for point in as_records(f"{row.place}, point", at_stamp):
            x, y = point.number("x") / 100, point.number("y") / 100
            yield LabelledObject(points=(LabelledPoint(x=x, y=y, time_s=time_s),))


def _example(
    source: Source, queries: list[_Query], number: int, dialogue_share: float
) -> Iterator[Example]:
    first = queries[0]
    path = source.find(first.place, f"{first.video_id}_2fps", first.video_id)
    if path is None:
        return
    name = first.video_id
    if not first.is_whole:
        name = f"{first.video_id} {first.start_s:g}-{first.end_s:g} {number}"
    yield Example(
        name=name,
        media=Media(
            video=str(path),
            start_s=first.start_s,
            end_s=max(query.end_s for query in queries),  # rows differ by a few milliseconds
        ),
        annotations=tuple(query.annotation for query in queries),
        dialogue=len(queries) > 1 and source.rng(name).random() < dialogue_share,
    )
