"""Molmo2-Cap: whole videos and their captions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from molmo2_ros.training.data.example import Annotation, Example, Media, Task
from molmo2_ros.training.data.readers.fields import Fields
from molmo2_ros.training.data.readers.report import Why
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.data.readers.table import rows

STYLES = {  # column -> style
    "merged_caption": "video_merged_caption",
    "video_caption": "video_short_caption",
    "video_frame_merged_caption": "video_long_caption",
}
# The authors found these videos' files damaged.
DAMAGED = frozenset(
    {
        "0OfUqrbRa2Y",
        "mTXBQzptWAg",
        "NyuA4FatDQk",
        "a_",
        "gsfIHiBB6xE",
        "bXApJtAf6Qo",
        "N8BlpYSpgg4",
    }
)


def read_molmo2_cap(
    source: Source, *, split: str | None = None, min_score: float = 3.0
) -> Iterator[Example]:
    """One example a video, with up to three captions as its branches.

    Args:
        source: hub columns `video_id`, `annotation_score` and the three of STYLES; videos by id.
        split: of the hub: train or val.
        min_score: of the annotation; the released models were trained from 3 on.

    Source: allenai/molmo2 `Molmo2Captions`.
    """
    columns = ("video_id", "annotation_score", *STYLES)
    for row in rows(source.folder, columns, split=split):
        yield from source.checked(row.place, partial(_example, source, row, min_score))


def _example(source: Source, row: Fields, min_score: float) -> Example | None:
    video_id, score = row.text("video_id"), row.number("annotation_score")
    captions = {column: row.text(column) for column in STYLES if row.has(column)}
    reason = None
    if video_id in DAMAGED:
        reason = f"the authors found the file of {video_id} damaged"
    elif score < min_score:
        reason = f"annotation_score {score:g} is below {min_score:g}"
    elif not any(captions.values()):
        reason = "no caption"
    if reason is not None:
        source.report.skip(row.place, Why.RULE, reason)
        return None
    path = source.find(row.place, video_id, f"v_{video_id}", f"ytb_{video_id}")
    if path is None:
        return None
    return Example(
        name=video_id,
        media=Media(video=str(path)),
        annotations=tuple(
            Annotation(task=Task.CAPTION, answer=caption, style=STYLES[column])
            for column, caption in captions.items()
            if caption
        ),
    )
