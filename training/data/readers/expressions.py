"""MeViS and Ref-YouTube-VOS: phrases, and the masks of what they mean in each frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

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
from molmo2_ros.training.data.readers.mask import Mask, decode_mask, point_on_mask
from molmo2_ros.training.data.readers.report import Why
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.data.readers.table import read_json

EXPRESSIONS = "meta_expressions.json"

MaskAt = Callable[[int], "Mask | None"]  # number of the frame -> the object's mask, if it has one


@dataclass(frozen=True, slots=True, kw_only=True)
class _Video:
    """The frames of one video, and which of them are answered.

    Args:
        name: of its folder.
        frames: names without suffix, in the order of time.
        fps: of the frames.
        step: frames from one answered stamp to the next.
        media: the frames' files.
    """

    name: str
    frames: tuple[str, ...]
    fps: float
    step: int
    media: Media


def read_mevis(
    source: Source,
    *,
    fps: int = 6,
    sampling_fps: int = 2,
    masks: bool = True,
    all_masks: bool = False,
) -> Iterator[Example]:
    """One example a video, with a branch for each expression.

    Args:
        source: the folder of a split: `meta_expressions.json`, `mask_dict.json` (run lengths or
            null for each frame, by annotation) and `JPEGImages/<video>/<frame>.jpg`. Needs a store
            for masks.
        fps: of the frames.
        sampling_fps: rate of the answers, points and masks.
        masks: write the masks of the answered frames.
        all_masks: write those of all frames, as J&F needs them.

    Raises:
        DataError: a split without ground truth, or files that cannot be read.
        ConfigError: rates that do not divide, or masks without a store.

    Source: henghuiding/MeViS; the rate from allenai/molmo2 `Mevis`.
    """
    path = source.folder / "mask_dict.json"
    if not path.is_file():
        raise DataError(f"{path} is missing: this split has no masks, and so no truth to learn")
    runs = read_json(path)
    if not isinstance(runs, dict):
        raise DataError(f"{path} holds no record, expected masks by annotation")
    reader = _ExpressionReader(source, source.folder, fps, sampling_fps, masks, all_masks)
    yield from reader.read(source.folder / EXPRESSIONS, "anno_id", partial(_runs_of, runs))


def read_ref_youtube_vos(
    source: Source,
    *,
    split: str = "train",
    fps: int = 6,
    sampling_fps: int = 2,
    masks: bool = True,
    all_masks: bool = False,
) -> Iterator[Example]:
    """The same for Ref-YouTube-VOS, whose masks are PNGs: a pixel's value is its object's number.

    Args:
        source: the data set's folder: `meta_expressions/<split>/meta_expressions.json`,
            `<split>/JPEGImages/<video>` and `<split>/Annotations/<video>`. Needs a store for
            masks.
        split: train; the others come without masks.
        fps: of the frames: every fifth of 30 a second.
        sampling_fps: rate of the answers, points and masks.
        masks: write the masks of the answered frames.
        all_masks: write those of all frames, as J&F needs them.

    Raises:
        DataError: a split without ground truth, or files that cannot be read.
        ConfigError: rates that do not divide, or masks without a store.

    Source: youtube-vos.org, `RefYTVOS` of allenai/molmo2 for the rate.
    """
    folder = source.folder / split
    if not (folder / "Annotations").is_dir():
        raise DataError(f"{folder}/Annotations is missing: this split has no truth to learn")
    reader = _ExpressionReader(source, folder, fps, sampling_fps, masks, all_masks)
    yield from reader.read(
        source.folder / "meta_expressions" / split / EXPRESSIONS,
        "obj_id",
        partial(_pixels_of, folder / "Annotations"),
    )


class _ExpressionReader:
    """What is the same for all videos of a split."""

    def __init__(
        self,
        source: Source,
        folder: Path,
        fps: int,
        sampling_fps: int,
        masks: bool,
        all_masks: bool,
    ) -> None:
        if fps < 1 or sampling_fps < 1 or fps % sampling_fps:
            raise ConfigError(
                f"fps {fps} and sampling_fps {sampling_fps}, expected a multiple and its divisor"
            )
        if masks or all_masks:
            source.needed_store()
        self._source, self._folder = source, folder
        self._masks, self._all_masks = masks or all_masks, all_masks
        self._fps, self._sampling_fps = fps, sampling_fps

    def read(
        self, path: Path, id_column: str, open_object: Callable[[_Video, str], MaskAt]
    ) -> Iterator[Example]:
        """The videos of a file of expressions; each object's masks are decoded once."""
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataError(f"{path} holds no record, expected videos")
        videos = Fields(path.name, content).record("videos")
        for name in sorted(videos.values):
            place = f"{path.name}, video {name}"
            make = partial(self._example, videos, place, name, id_column, open_object)
            yield from self._source.checked(place, make)

    def _example(
        self,
        videos: Fields,
        place: str,
        name: str,
        id_column: str,
        open_object: Callable[[_Video, str], MaskAt],
    ) -> Example | None:
        record = Fields(place, videos.record(name).values)
        video = self._video(place, name, record.keys("frames"))
        if video is None:
            return None
        found: dict[str, LabelledObject] = {}
        annotations = []
        expressions = record.record("expressions")
        for number in expressions.values:
            row = Fields(f"{place}, expression {number}", expressions.record(number).values)
            try:
                keys = row.keys(id_column) if _is_list(row, id_column) else [row.key(id_column)]
                for key in keys:
                    if key not in found:
                        found[key] = self._object(video, key, open_object(video, key))
                annotations.append(
                    Annotation(
                        task=Task.TRACK,
                        label=row.text("exp"),
                        objects=tuple(found[key] for key in keys),
                        fps=float(self._sampling_fps),
                    )
                )
            except DataError as error:
                self._source.malformed(row.place, error)
        if not annotations:
            self._source.report.skip(place, Why.RULE, "no expression that can be used")
            return None
        return Example(name=name, media=video.media, annotations=tuple(annotations))

    def _video(self, place: str, name: str, frames: list[str]) -> _Video | None:
        if not frames:
            raise DataError(f"{place}: no frames")
        folder = self._folder / "JPEGImages" / name
        paths = [folder / f"{frame}.jpg" for frame in frames]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            reason = f"{len(missing)} of {len(paths)} frames, first JPEGImages/{name}/{frames[0]}"
            if missing[0] != paths[0]:
                reason = f"{len(missing)} of {len(paths)} frames, first {missing[0].name}"
            self._source.report.skip(place, Why.NO_MEDIA, reason)
            return None
        return _Video(
            name=name,
            frames=tuple(frames),
            fps=self._fps,
            step=self._fps // self._sampling_fps,
            media=Media(
                frames=tuple(str(path) for path in paths),
                times_s=tuple(number / self._fps for number in range(len(paths))),
            ),
        )

    def _object(self, video: _Video, key: str, mask_at: MaskAt) -> LabelledObject:
        """Where its mask is null or empty, the object is known not to be seen."""
        points, paths = [], []
        for number in range(0, len(video.frames), 1 if self._all_masks else video.step):
            time_s, mask = number / video.fps, mask_at(number)
            is_answered = number % video.step == 0
            found = None if mask is None else point_on_mask(mask)
            if mask is None or found is None:
                if is_answered:
                    points.append(LabelledPoint(time_s=time_s, visible=False))
                continue
            if is_answered:
                points.append(LabelledPoint(x=found[0], y=found[1], time_s=time_s))
            if self._masks:
                name = f"{video.name} {key} {video.frames[number]}"
                paths.append((time_s, self._source.needed_store().add_mask(name, mask)))
        return LabelledObject(points=tuple(points), masks=tuple(paths))


def _is_list(row: Fields, name: str) -> bool:
    return isinstance(row.values.get(name), list)


def _runs_of(runs: dict[str, Any], video: _Video, key: str) -> MaskAt:
    masks = Fields("mask_dict.json", runs).items(key)
    if len(masks) != len(video.frames):
        raise DataError(
            f"mask_dict.json has {len(masks)} masks of {key}, expected one for each of the "
            f"{len(video.frames)} frames of {video.name}"
        )

    def mask_at(number: int) -> Mask | None:
        if masks[number] is None:
            return None
        return decode_mask(f"mask_dict.json, {key}, frame {number}", masks[number])

    return mask_at


def _pixels_of(folder: Path, video: _Video, key: str) -> MaskAt:
    if not key.isdecimal():
        raise DataError(f"obj_id {key!r}, expected a number")

    def mask_at(number: int) -> Mask | None:
        path = folder / video.name / f"{video.frames[number]}.png"
        return _indexed(path) == int(key) if path.is_file() else None

    return mask_at


def _indexed(path: Path) -> np.ndarray[Any, Any]:
    """The palette's numbers of a PNG, uint8 [H, W]."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if picture.mode not in ("P", "L"):
                raise DataError(f"{path} has mode {picture.mode}, expected a palette")
            return np.asarray(picture)
    except OSError as error:
        raise DataError(f"{path} cannot be read as a PNG: {error}") from error
