"""What is true of the pictures that a question is about, place by place.

A place is one still image, or one moment of a clip. Masks are made when they are looked at: those
of a long clip would not fit into memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from molmo2_ros.training.data.answers import SAME_S
from molmo2_ros.training.data.example import (
    Annotation,
    LabelledObject,
    LabelledPoint,
    Task,
)
from molmo2_ros.training.data.media import USUAL_FPS, load_picture
from molmo2_ros.training.metrics.pointing import Mask, TimedTruth, in_mask

NEAR = 0.05  # of the picture's diagonal: how near a point must come where no mask decides
_DISC_SIDE = 320  # pixels of the longer side on which such a neighbourhood is drawn
_KEPT_MASKS = 32

Key = TypeVar("Key")


class Masks(Mapping[Key, Mask], Generic[Key]):
    """Masks, bool [H, W] each, made anew whenever one is looked at.

    Args:
        makers: of each.
    """

    def __init__(self, makers: Mapping[Key, Callable[[], Mask]]) -> None:
        self._makers = makers

    def __getitem__(self, key: Key) -> Mask:
        return self._makers[key]()

    def __iter__(self) -> Iterator[Key]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


class MaskRow(Sequence[Mask]):
    """Some of them in an order, made anew like them."""

    def __init__(self, masks: Mapping[int, Mask], keys: Sequence[int]) -> None:
        self._masks, self._keys = masks, keys

    def __getitem__(self, index: int) -> Mask:  # type: ignore[override]
        return self._masks[self._keys[index]]

    def __len__(self) -> int:
        return len(self._keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One picture.

    Args:
        at: the image's number from 1, or seconds from the clip's first frame.
        true: x, y in 0..1 by object, of those that are in view.
        masks: by object, of those that have one here; where there is none, the neighbourhood of its
            point (NEAR), but for objects of a pointed clip that have masks elsewhere.
        hidden: objects that are known to be out of view.
    """

    at: float
    true: Mapping[int, tuple[float, float]]
    masks: Mapping[int, Mask]
    hidden: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """All that an answer is held against.

    Args:
        places: rising; of a track those that the answer speaks of.
        num_objects: that are asked for, seen or not.
        aspect: width / height of the first picture.
        size: share of the picture that an object takes, the median of the objects; None: not known.
        visible_fraction: 0..1, how much of the objects is in view on average; None: not known.
        speed: of the objects, in diagonals of the picture a second; None: not known.
    """

    places: tuple[Place, ...]
    num_objects: int
    aspect: float
    size: float | None = None
    visible_fraction: float | None = None
    speed: float | None = None

    def holds(self, at: float, x: float, y: float) -> bool:
        """Whether a point lies on an object that is asked for.

        Args:
            at: of the place; nothing is at one that the truth does not have.
            x: 0..1 of the width.
            y: 0..1 of the height.
        """
        place = next((place for place in self.places if place.at == at), None)
        return place is not None and any(in_mask(place.masks[key], x, y) for key in place.masks)

    def timed(self) -> list[TimedTruth]:
        """Each object of a clip with its first point, and its masks by stamp."""
        found = []
        for key in range(1, self.num_objects + 1):
            first = next((place for place in self.places if key in place.true), None)
            if first is None:
                continue
            makers = {
                p.at: partial(p.masks.__getitem__, key) for p in self.places if key in p.masks
            }
            x, y = first.true[key]
            found.append(TimedTruth(time_s=first.at, x=x, y=y, masks=Masks(makers)))
        return found


def is_told(annotation: Annotation) -> bool:
    """Whether there is anything that an answer can be held against: points, masks, or "none"."""
    objects = annotation.objects
    return not objects or any(thing.points or thing.masks for thing in objects)


def image_truth(folder: Path, annotation: Annotation, shapes: Sequence[tuple[int, int]]) -> Truth:
    """The truth about still images.

    Args:
        folder: of the data set.
        annotation: one that has objects.
        shapes: height and width of each image in pixels.
    """
    things = annotation.objects
    places = [
        _place(folder, things, float(number), shape, reach=0.5)
        for number, shape in enumerate(shapes, 1)
    ]
    return _truth(folder, things, places, shapes[0])


def clip_truth(
    folder: Path, annotation: Annotation, times_s: Sequence[float], shape: tuple[int, int]
) -> Truth:
    """The truth about a clip.

    Args:
        folder: of the data set.
        annotation: one that has objects.
        times_s: of the frames that are shown; a track is held against what lies among them.
        shape: height and width of a frame in pixels.
    """
    things = annotation.objects
    if annotation.task.is_track:
        fps = annotation.fps or USUAL_FPS
        stamps = [i / fps for i in range(int(times_s[-1] * fps + 1e-6) + 1)]
        if annotation.task is Task.TRACK_FROM_POINT:
            start = start_of(annotation, times_s)
            stamps = [t for t in stamps if start is not None and t > (start.time_s or 0) + SAME_S]
    else:
        told = [p.time_s or 0.0 for thing in things for p in thing.points]
        stamps = sorted({round(t, 3) for t in [*told, *(m[0] for t in things for m in t.masks)]})
    is_pointed = not annotation.task.is_track
    places = [
        _place(folder, things, stamp, shape, reach=SAME_S, masks_only=is_pointed)
        for stamp in stamps
    ]
    return _truth(folder, things, places, shape)


def start_of(annotation: Annotation, times_s: Sequence[float]) -> LabelledPoint | None:
    """The point from which a track starts: the first that is seen on a frame of the answer."""
    fps = annotation.fps or USUAL_FPS
    for point in annotation.objects[0].seen():
        time_s = point.time_s or 0.0
        on_grid = abs(time_s - round(time_s * fps) / fps) < SAME_S
        if on_grid and any(abs(time_s - t) < SAME_S for t in times_s):
            return point
    return None


def disc(x: float, y: float, shape: tuple[int, int]) -> Mask:
    """The neighbourhood of a point, bool, in the proportions of a picture but small."""
    scale = _DISC_SIDE / max(shape)
    height, width = (max(round(side * scale), 1) for side in shape)
    rows, columns = np.ogrid[:height, :width]
    reach = NEAR * math.hypot(height, width)
    inside = (columns + 0.5 - x * width) ** 2 + (rows + 0.5 - y * height) ** 2 <= reach**2
    return np.asarray(inside)


@lru_cache(maxsize=_KEPT_MASKS)
def load_mask(path: Path) -> Mask:
    """A mask of a data set.

    Raises:
        DataError: the file is missing or no picture.
    """
    mask: Mask = load_picture(path)[..., 0] > 127
    return mask


def _place(
    folder: Path,
    things: Sequence[LabelledObject],
    at: float,
    shape: tuple[int, int],
    *,
    reach: float,
    masks_only: bool = False,
) -> Place:
    true: dict[int, tuple[float, float]] = {}
    makers: dict[int, Callable[[], Mask]] = {}
    hidden = set()
    for key, thing in enumerate(things, 1):
        point = next((p for p in thing.points if abs(_where(p) - at) < reach), None)
        if point is not None and point.visible:
            true[key] = (point.x, point.y)
            makers[key] = partial(disc, point.x, point.y, shape)
        elif point is not None:
            hidden.add(key)
        path = next((path for place, path in thing.masks if abs(place - at) < reach), None)
        if path is not None:
            makers[key] = partial(load_mask, folder / path)
        elif masks_only and thing.masks:
            makers.pop(key, None)
    return Place(at=at, true=true, masks=Masks(makers), hidden=frozenset(hidden))


def _where(point: LabelledPoint) -> float:
    return point.time_s if point.image is None else float(point.image)  # type: ignore[return-value]


def _truth(
    folder: Path, things: Sequence[LabelledObject], places: list[Place], shape: tuple[int, int]
) -> Truth:
    height, width = shape
    return Truth(
        places=tuple(places),
        num_objects=len(things),
        aspect=width / height,
        size=_size(folder, things),
        visible_fraction=_visible_fraction(things),
        speed=_speed(things, width / height),
    )


def _size(folder: Path, things: Sequence[LabelledObject]) -> float | None:
    areas = [load_mask(folder / thing.masks[0][1]).mean() for thing in things if thing.masks]
    return float(np.median(areas)) if areas else None


def _visible_fraction(things: Sequence[LabelledObject]) -> float | None:
    """Of the points; where no fraction is told, the share of the moments in which it is in view."""
    points = [point for thing in things for point in thing.points]
    if all(point.visible and point.visible_fraction is None for point in points):
        return None
    told = [1.0 if p.visible_fraction is None else p.visible_fraction for p in points]
    return float(np.mean([f if p.visible else 0.0 for p, f in zip(points, told, strict=True)]))


def _speed(things: Sequence[LabelledObject], aspect: float) -> float | None:
    """Mean over all steps from one point of an object to its next."""
    diagonal = math.hypot(aspect, 1.0)
    speeds = [
        math.hypot((b.x - a.x) * aspect, b.y - a.y) / diagonal / (b.time_s - a.time_s)
        for thing in things
        for a, b in pairwise(thing.points)
        if a.visible and b.visible and a.time_s is not None and b.time_s is not None
    ]
    return float(np.mean(speeds)) if speeds else None
