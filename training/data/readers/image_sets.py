"""Molmo2-MultiImageQA, -MultiImagePoint and -SynMultiImageQA: questions about several images."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.data.example import (
    SYNTHETIC,
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.data.readers.fields import Fields, as_records
from molmo2_ros.training.data.readers.media_index import find_media
from molmo2_ros.training.data.readers.report import Why
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.data.readers.table import has_table, rows

# Said before a question that asks for a number, so that the answer has no points.
WITHOUT_POINTS = ("No pointing: ", "Do not point. ", "Answer this question without pointing: ")
POINT_STYLES = {Task.POINT: "multi_image_pointing", Task.COUNT: "multi_image_point_then_count"}
KINDS = ("chart", "chemical", "circuit", "diagram", "doc", "graphic", "music", "table")


def read_multi_image_qa(
    source: Source, *, split: str | None = None, max_images: int = 5
) -> Iterator[Example]:
    """One example a set of images, with a branch for each question that a person asked.

    Args:
        source: hub columns `image_urls` and `qa_pairs` (`question`, `answer`); images by address.
        split: of the hub: train or validation.
        max_images: sets of one image, or of more, are left out.

    Source: allenai/molmo2 `PixmoMultiImageQa`.
    """
    table = rows(source.folder, ("image_urls", "qa_pairs"), split=split)
    for number, row in enumerate(table):
        make = partial(_questions, source, row, f"set {number}", max_images)
        yield from source.checked(row.place, make)


def read_multi_image_point(
    source: Source,
    *,
    split: str | None = None,
    max_images: int = 5,
    tasks: tuple[str, ...] = ("point", "count"),
) -> Iterator[Example]:
    """One example a set of images, with a branch for each label of the set.

    An image that is listed with another label has, as the authors take it, none of this one.

    Args:
        source: hub columns `image_urls`, `image_sha256s` (of each address), `labels` and `points`
            in 0..100 of width and height, which are clipped to it; images by either name.
        split: of the hub.
        max_images: sets of more are left out.
        tasks: one is drawn for each branch.

    Source: allenai/molmo2 `PixMoMultiPoints`, `DataFormatter.format_multi_points`.
    """
    columns = ("image_urls", "image_sha256s", "labels", "points")
    for number, row in enumerate(rows(source.folder, columns, split=split)):
        make = partial(_pointed_set, source, row, f"set {number}", max_images, tasks)
        yield from source.checked(row.place, make)


def read_syn_multi_image_qa(
    source: Source,
    *,
    configs: tuple[str, ...] = (),
    split: str | None = None,
    max_images: int = 5,
    explain: bool = True,
) -> Iterator[Example]:
    """One example a set of rendered documents, whose images are inside the table.

    Args:
        source: hub columns `id`, `images` (encoded bytes), `qa_pairs` (`question`, `explanation`,
            `answer`) and `metadata` (`num_images`). Needs a store.
        configs: of KINDS; empty: those that are in the folder.
        split: of the hub.
        max_images: sets of more are left out.
        explain: the answer is the explanation and then `Answer: ` and the short answer.

    Raises:
        ConfigError: an unknown configuration, or no store.

    Source: allenai/molmo2 `PixmoMulitDocQa`.
    """
    source.needed_store()
    unknown = [config for config in configs if config not in KINDS]
    if unknown:
        raise ConfigError(f"no configuration {unknown[0]!r}, expected of {', '.join(KINDS)}")
    present = [config for config in KINDS if has_table(source.folder, config=config)]
    columns = ("id", "images", "qa_pairs", "metadata")
    for config in configs or present or KINDS:
        for row in rows(source.folder, columns, config=config, split=split):
            make = partial(_documents, source, row, config, max_images, explain)
            yield from source.checked(row.place, make)


def _images(source: Source, row: Fields, names: Sequence[Sequence[str]]) -> Media | None:
    paths = []
    for of_image in names:
        path = find_media(source.resolve, *of_image)
        if path is None:
            source.report.skip(row.place, Why.NO_MEDIA, f"no file for {of_image[0]}")
            return None
        paths.append(str(path))
    return Media(images=tuple(paths))


def _too_many(source: Source, row: Fields, num_images: int, least: int, most: int) -> bool:
    if least <= num_images <= most:
        return False
    reason = f"{num_images} images, expected {least} to {most}"
    source.report.skip(row.place, Why.RULE, reason)
    return True


def _questions(source: Source, row: Fields, name: str, max_images: int) -> Example | None:
    urls = row.texts("image_urls")
    if _too_many(source, row, len(urls), 2, max_images):
        return None
    annotations = tuple(
        Annotation(
            task=Task.REPLY,
            question=_without_points(source, pair.text("question")),
            answer=pair.text("answer"),
            style="correction_qa",
        )
        for pair in row.records("qa_pairs")
    )
    media = _images(source, row, [[url] for url in urls])
    return None if media is None else Example(name=name, media=media, annotations=annotations)


def _without_points(source: Source, question: str) -> str:
    """A question for a number would else be answered by pointing."""
    if not question:
        raise DataError("an empty question")
    if not re.match(r"how many\b", question, re.IGNORECASE):
        return question
    return WITHOUT_POINTS[int(source.rng(question).integers(len(WITHOUT_POINTS)))] + question


def _pointed_set(
    source: Source, row: Fields, name: str, max_images: int, tasks: tuple[str, ...]
) -> Example | None:
    urls, hashes, labels = (row.texts(c) for c in ("image_urls", "image_sha256s", "labels"))
    points = row.items("points")
    if not len(urls) == len(hashes) == len(labels) == len(points):
        raise DataError(
            f"{len(urls)} addresses, {len(hashes)} hashes, {len(labels)} labels and points of "
            f"{len(points)} images, expected as many of each"
        )
    if _too_many(source, row, len(urls), 1, max_images):
        return None
    words: dict[str, str] = {}
    objects: dict[str, list[LabelledObject]] = defaultdict(list)
    for image, (label, of_image) in enumerate(zip(labels, points, strict=True), start=1):
        words.setdefault(label.lower(), label)
        objects[label.lower()] += _image_points(f"{row.place}, image {image}", of_image, image)
    rng = source.rng(name)
    annotations = []
    for key, label in words.items():
        task = Task(tasks[int(rng.integers(len(tasks)))])
        annotations.append(
            Annotation(
                task=task,
                label=label,
                objects=tuple(objects[key]),
                style=POINT_STYLES[task] if len(urls) > 1 else None,
            )
        )
    media = _images(source, row, list(zip(hashes, urls, strict=True)))
    if media is None:
        return None
    return Example(name=name, media=media, annotations=tuple(annotations))


def _image_points(place: str, points: object, image: int) -> Iterator[LabelledObject]:
    for point in as_records(place, points):
        x, y = (min(max(point.number(axis), 0.0), 100.0) / 100 for axis in ("x", "y"))
        yield LabelledObject(points=(LabelledPoint(x=x, y=y, image=image),))


def _documents(
    source: Source, row: Fields, config: str, max_images: int, explain: bool
) -> Example | None:
    num_images = row.record("metadata").whole("num_images")
    if _too_many(source, row, num_images, 1, max_images):
        return None
    name = f"{config} {row.key('id')}"
    annotations = tuple(_document_answer(pair, config, explain) for pair in row.records("qa_pairs"))
    paths = []
    for number, image in enumerate(row.records("images"), start=1):
        paths.append(source.needed_store().add_image(f"{name} {number}", image.data("bytes")))
    return Example(name=name, media=Media(images=tuple(paths)), annotations=annotations)


def _document_answer(pair: Fields, config: str, explain: bool) -> Annotation:
    answer, style = pair.text("answer"), f"cosyn_{config}"
    explanation = pair.text("explanation") if explain and pair.has("explanation") else ""
    if explanation:
        answer, style = f"{explanation} Answer: {answer}", f"{style}_exp"
    return Annotation(
        task=Task.REPLY,
        question=pair.text("question"),
        answer=answer,
        style=style,
        source=SYNTHETIC,
    )
