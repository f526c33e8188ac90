"""Corrections of the live page without ROS: pictures, and where all things of a query are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

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
from molmo2_ros.training.data.readers.report import Why
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.logs.spoken import standing
from molmo2_ros.training.logs.topics import Correction, read_correction

FILE = "corrections.jsonl"
HUMAN = "human"  # as corrections of recorded logs are marked


def read_web_corrections(source: Source) -> Iterator[Example]:
    """One example for each picture that somebody corrected and did not take back.

    Args:
        source: the folder of `molmo2 web --corrections`: `corrections.jsonl` and
            `pictures/STAMP_NS.jpg`.
    """
    path = source.folder / FILE
    if not path.is_file():
        raise DataError(f"{source.folder} has no {FILE}, expected the folder of molmo2 web")
    said: list[Correction] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        place = f"{FILE}, line {number}"
        try:
            said.append(read_correction(line, place))
        except DataError as error:
            source.malformed(place, error)
    by_stamp: dict[int, list[Correction]] = {}
    for correction in standing(said):
        by_stamp.setdefault(correction.stamp_ns, []).append(correction)
    for stamp_ns, corrections in sorted(by_stamp.items()):
        yield from source.checked(str(stamp_ns), partial(_example, source, stamp_ns, corrections))


def _example(source: Source, stamp_ns: int, corrections: list[Correction]) -> Example | None:
    path = source.folder / "pictures" / f"{stamp_ns}.jpg"
    if not path.is_file():
        source.report.skip(str(stamp_ns), Why.NO_MEDIA, f"no file pictures/{path.name}")
        return None
    height, width = load_picture(path).shape[:2]
    places: dict[str, list[LabelledPoint]] = {}
    for correction in corrections:
        if correction.u is None or correction.v is None:
            places[correction.words] = []  # also takes back what was said of this picture before
        else:
            x, y = (correction.u + 0.5) / width, (correction.v + 0.5) / height
            places.setdefault(correction.words, []).append(LabelledPoint(x=x, y=y, image=1))
    return Example(
        name=str(stamp_ns),
        media=Media(images=(str(path),)),
        annotations=tuple(
            Annotation(
                task=Task.POINT,
                label=words,
                objects=tuple(LabelledObject(points=(point,)) for point in points),
                source=HUMAN,
            )
            for words, points in places.items()
        ),
    )
