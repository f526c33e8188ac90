"""COCO's instances: for each image and category the points and masks of its objects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.example import (
    HUMAN,
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.data.readers.fields import Fields
from molmo2_ros.training.data.readers.mask import decode_mask, point_on_mask
from molmo2_ros.training.data.readers.report import Why
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.data.readers.table import read_json


def read_coco(
    source: Source,
    *,
    annotations: str | None = None,
    tasks: tuple[str, ...] = ("point", "count"),
    masks: bool = False,
    boxes: bool = False,
    max_points: int = 60,
    made_by: str = HUMAN,
) -> Iterator[Example]:
    """One example an image, with a branch for each category in it.

    A point is the mask's centroid, or its deepest pixel where the centroid lies outside. A category
    that has a crowd in an image is left out there: its objects cannot be counted.

    Args:
        source: one JSON file with `images`, `categories` and `annotations`; images by
            `file_name`, below the folder of the media.
        annotations: that file, relative to the folder; None: the only one in it, or in its folder
            `annotations`.
        tasks: one is drawn for each branch.
        masks: write each mask; needs a store.
        boxes: take the middle of the box of an object without a mask, which may miss the object.
        max_points: categories with more objects in an image are left out there.
        made_by: who made the labels.

    Raises:
        DataError: no such file, or one that is not in this form.
        ConfigError: masks without a store.
    """
    if masks:
        source.needed_store()
    path = _file(source.folder, annotations)
    place = path.relative_to(source.folder).as_posix()
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no record, expected images, categories and annotations")
    file = Fields(place, content)
    labels = {row.key("id"): row.text("name") for row in file.records("categories")}
    by_image: dict[str, list[Fields]] = defaultdict(list)
    for row in file.records("annotations"):
        try:
            by_image[row.key("image_id")].append(row)
        except DataError as error:
            source.malformed(row.place, error)
    reader = _CocoReader(source, labels, tasks, masks, boxes, max_points, made_by)
    for image in file.records("images"):
        yield from source.checked(image.place, partial(reader.example, image, by_image))


def _file(folder: Path, annotations: str | None) -> Path:
    if annotations is not None:
        return folder / annotations
    found = [*sorted(folder.glob("*.json")), *sorted((folder / "annotations").glob("*.json"))]
    if len(found) != 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found[:5]) or "none"
        raise DataError(
            f"{folder} has {len(found)} JSON files ({names}), expected one; name it (annotations)"
        )
    return found[0]


class _CocoReader:
    """What is the same for all images of one file."""

    def __init__(
        self,
        source: Source,
        labels: dict[str, str],
        tasks: tuple[str, ...],
        masks: bool,
        boxes: bool,
        max_points: int,
        made_by: str,
    ) -> None:
        self._source, self._labels, self._made_by = source, labels, made_by
        self._tasks = tuple(Task(task) for task in tasks)
        self._masks, self._boxes, self._max_points = masks, boxes, max_points

    def example(self, image: Fields, by_image: dict[str, list[Fields]]) -> Example | None:
        """All categories of an image, or None, which is reported."""
        key, name = image.key("id"), image.text("file_name")
        rows = by_image.pop(key, [])
        if not rows:
            self._source.report.skip(image.place, Why.RULE, "no annotation")
            return None
        path = self._source.find(image.place, name)
        if path is None:
            return None
        size = (image.whole("height"), image.whole("width"))
        annotations = self._annotations(image, rows, size)
        if not annotations:
            self._source.report.skip(image.place, Why.RULE, "no category of it can be used")
            return None
        return Example(name=key, media=Media(images=(str(path),)), annotations=annotations)

    def _annotations(
        self, image: Fields, rows: list[Fields], size: tuple[int, int]
    ) -> tuple[Annotation, ...]:
        by_category: dict[str, list[Fields]] = defaultdict(list)
        for row in rows:
            by_category[row.key("category_id")].append(row)
        rng = self._source.rng(image.key("id"))
        made = []
        for category, members in by_category.items():
            task = self._tasks[int(rng.integers(len(self._tasks)))]
            objects = self._objects(category, members, size)
            if objects is not None:
                label = self._labels[category]
                made.append(
                    Annotation(task=task, label=label, objects=objects, source=self._made_by)
                )
        return tuple(made)

    def _objects(
        self, category: str, members: list[Fields], size: tuple[int, int]
    ) -> tuple[LabelledObject, ...] | None:
        """None where they are not all known: one that is left out would make the count wrong."""
        place, report = members[0].place, self._source.report
        try:
            if category not in self._labels:
                raise DataError(f"category {category} is not in categories")
            if any(row.has("iscrowd") and row.flag("iscrowd") for row in members):
                reason = f"a crowd of {self._labels[category]}"
                report.skip(place, Why.RULE, reason)
                return None
            if len(members) > self._max_points:
                reason = f"{len(members)} objects, expected at most {self._max_points}"
                report.skip(place, Why.RULE, reason)
                return None
            return tuple(self._object(row, size) for row in members)
        except DataError as error:
            self._source.malformed(place, error)
            return None

    def _object(self, row: Fields, size: tuple[int, int]) -> LabelledObject:
        segmentation = row.values.get("segmentation")
        if not segmentation and self._boxes:
            return LabelledObject(points=(_box_middle(row, size),))
        mask = decode_mask(row.place, segmentation, size)
        found = point_on_mask(mask)
        if found is None:
            raise DataError(f"{row.place}: an empty mask, expected pixels inside the picture")
        paths: tuple[tuple[float, str], ...] = ()
        if self._masks:
            paths = ((1, self._source.needed_store().add_mask(row.key("id"), mask)),)
        point = LabelledPoint(x=found[0], y=found[1], image=1)
        return LabelledObject(points=(point,), masks=paths)


def _box_middle(row: Fields, size: tuple[int, int]) -> LabelledPoint:
    box = row.items("bbox")
    if len(box) != 4:
        raise DataError(f"{row.place}: bbox {box!r:.80}, expected x, y, width and height")
    x, y, width, height = (Fields(row.place, {"bbox": side}).number("bbox") for side in box)
    return LabelledPoint(x=(x + width / 2) / size[1], y=(y + height / 2) / size[0], image=1)
