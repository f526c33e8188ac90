"""Point-Bench and PixMo-Points' evaluation set: pointing in one image, decided by masks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.data.media import load_picture
from molmo2_ros.training.data.readers.fields import Fields, as_records
from molmo2_ros.training.data.readers.mask import Mask, point_on_mask
from molmo2_ros.training.data.readers.report import Why
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.data.readers.table import read_json, rows


def read_point_bench(source: Source, *, categories: tuple[str, ...] = ()) -> Iterator[Example]:
    """One question each in the row's own words; all that may be pointed at is one mask.

    Args:
        source: `data.json` with `image_filename`, `mask_filename`, `category` and `user_input`,
            and the folders `selected_images/<category>` and `selected_masks/<category>`. Needs a
            store: masks in colour are rewritten as 8-bit PNG.
        categories: that are kept; empty: all.

    Source: PointArena/pointarena-data, allenai/molmo2 `PointBench`.
    """
    source.needed_store()
    path = source.folder / "data.json"
    for number, row in enumerate(as_records("data.json, row", read_json(path))):
        if not row.has("mask_filename"):
            source.report.skip(row.place, Why.RULE, "no mask_filename")
        elif categories and row.values.get("category") not in categories:
            reason = f"category {row.values.get('category')}, which was not asked for"
            source.report.skip(row.place, Why.RULE, reason)
        else:
            yield from source.checked(row.place, partial(_bench, source, row, number))


def read_pixmo_points_eval(source: Source, *, split: str | None = None) -> Iterator[Example]:
    """Each image's label with a point and a mask for every object.

    Args:
        source: hub columns `image_url`, `label`, `points` in 0..100 of width and height, and
            `masks`: one for each point, rows of true and false; images by address. Needs a store.
        split: of the hub: test.

    Source: allenai/molmo2 `PixMoPointsEval`.
    """
    source.needed_store()
    table = rows(source.folder, ("image_url", "label", "points", "masks"), split=split)
    for number, row in enumerate(table):
        yield from source.checked(row.place, partial(_labelled, source, row, number))


def _bench(source: Source, row: Fields, number: int) -> Example | None:
    category, question = row.text("category"), row.text("user_input")
    paths = [
        source.folder / folder / category / row.text(column)
        for folder, column in (
            ("selected_images", "image_filename"),
            ("selected_masks", "mask_filename"),
        )
    ]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        reason = f"no file {missing[0].relative_to(source.folder)}"
        source.report.skip(row.place, Why.NO_MEDIA, reason)
        return None
    name = f"{category} {number}"
    mask = _read_mask(paths[1])
    found = point_on_mask(mask)
    if found is None:
        raise DataError(f"{paths[1].name} has no pixel above 127, expected a mask")
    stored = source.needed_store().add_mask(name, mask)
    thing = LabelledObject(
        points=(LabelledPoint(x=found[0], y=found[1], image=1),), masks=((1, stored),)
    )
    return Example(
        name=name,
        media=Media(images=(str(paths[0]),)),
        annotations=(
            Annotation(task=Task.POINT, label=question, objects=(thing,), question=question),
        ),
    )


def _read_mask(path: Path) -> Mask:
    """True where any channel is above 127."""
    return load_picture(path).max(axis=2) > 127


def _labelled(source: Source, row: Fields, number: int) -> Example | None:
    label, points, masks = row.text("label"), row.records("points"), row.items("masks")
    if len(points) != len(masks):
        raise DataError(f"{len(points)} points and {len(masks)} masks, expected as many")
    path = source.find(row.place, row.text("image_url"))
    if path is None:
        return None
    name, objects = f"{number} {label}", []
    for index, (point, values) in enumerate(zip(points, masks, strict=True)):
        mask = _mask_of_rows(f"{row.place}, mask {index}", values)
        stored = source.needed_store().add_mask(f"{name} {index}", mask)
        x, y = point.number("x") / 100, point.number("y") / 100
        objects.append(
            LabelledObject(points=(LabelledPoint(x=x, y=y, image=1),), masks=((1, stored),))
        )
    annotation = Annotation(task=Task.POINT, label=label, objects=tuple(objects))
    return Example(name=name, media=Media(images=(str(path),)), annotations=(annotation,))


def _mask_of_rows(place: str, values: object) -> Mask:
    try:
        mask = np.asarray(values, dtype=np.bool_)
    except ValueError:
        mask = np.zeros(0, np.bool_)
    if mask.ndim != 2 or not mask.size:
        raise DataError(f"{place}: expected rows of true and false, all of one length")
    return mask
