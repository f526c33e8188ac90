"""Readers by the name of what they read, with their options checked."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.data.example import Example
from molmo2_ros.training.data.readers.captions import read_molmo2_cap
from molmo2_ros.training.data.readers.coco import read_coco
from molmo2_ros.training.data.readers.expressions import read_mevis, read_ref_youtube_vos
from molmo2_ros.training.data.readers.image_points import read_pixmo_points_eval, read_point_bench
from molmo2_ros.training.data.readers.image_sets import (
    read_multi_image_point,
    read_multi_image_qa,
    read_syn_multi_image_qa,
)
from molmo2_ros.training.data.readers.lerobot import read_lerobot
from molmo2_ros.training.data.readers.media_index import MediaIndex, Resolve
from molmo2_ros.training.data.readers.media_store import MediaStore
from molmo2_ros.training.data.readers.report import ReadReport
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.data.readers.text_chats import read_text_chats
from molmo2_ros.training.data.readers.video_evaluations import (
    read_video_count_eval,
    read_video_point_eval,
    read_video_track_eval,
)
from molmo2_ros.training.data.readers.video_points import read_video_point
from molmo2_ros.training.data.readers.video_questions import (
    read_ask_model_anything,
    read_video_cap_qa,
    read_video_subtitle_qa,
)
from molmo2_ros.training.data.readers.video_tracks import read_track_instruction, read_video_track
from molmo2_ros.training.data.readers.web_corrections import read_web_corrections

READERS: Mapping[str, Callable[..., Iterator[Example]]] = MappingProxyType(
    {
        "molmo2-cap": read_molmo2_cap,
        "molmo2-ask-model-anything": read_ask_model_anything,
        "molmo2-video-cap-qa": read_video_cap_qa,
        "molmo2-video-subtitle-qa": read_video_subtitle_qa,
        "molmo2-video-point": read_video_point,
        "molmo2-video-track": read_video_track,
        "molmo2-track-instruction": read_track_instruction,
        "molmo2-multi-image-qa": read_multi_image_qa,
        "molmo2-multi-image-point": read_multi_image_point,
        "molmo2-syn-multi-image-qa": read_syn_multi_image_qa,
        "molmo2-video-count-eval": read_video_count_eval,
        "molmo2-video-point-eval": read_video_point_eval,
        "molmo2-video-track-eval": read_video_track_eval,
        "point-bench": read_point_bench,
        "pixmo-points-eval": read_pixmo_points_eval,
        "lerobot": read_lerobot,
        "coco": read_coco,
        "mevis": read_mevis,
        "ref-youtube-vos": read_ref_youtube_vos,
        "web-corrections": read_web_corrections,
        "text-chats": read_text_chats,
    }
)


def open_reader(
    kind: str,
    folder: Path,
    *,
    media: Path | Resolve | None = None,
    store: Path | None = None,
    report: ReadReport | None = None,
    seed: int = 0,
    **options: Any,
) -> Iterator[Example]:
    """The examples of a downloaded data set, one after the other.

    Args:
        kind: one of READERS.
        folder: of the data set's tables.
        media: a folder with its videos or images, a JSON file of names and paths (MediaIndex),
            or a function; None: `folder`.
        store: where pictures and masks are written that have no file of their own; their paths
            in the examples are relative to it.
        report: takes each row that gives no example; complete when the iterator ends.
        seed: of what the recipe leaves to chance.
        **options: the reader's own (`describe_options`); a list is taken for a tuple, as option
            files have no other.

    Raises:
        ConfigError: an unknown kind or option, or an option's value of another type.
        DataError: files that cannot be read or lack columns, or, at the end, no example at all.
    """
    read = _reader(kind)
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
    _check_options(kind, read, options)
    if not _fits(seed, int) or seed < 0:
        raise ConfigError(f"option seed of {kind} is {seed!r}, expected a whole number from 0")
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder, expected that of a downloaded {kind}")
    source = Source(
        folder=folder,
        resolve=_resolve(folder if media is None else media),
        report=ReadReport() if report is None else report,
        store=None if store is None else MediaStore(Path(store)),
        seed=seed,
    )
    return _counted(kind, source, read(source, **options))


def describe_options(kind: str) -> dict[str, str]:
    """The options of a reader, each with its type and what it is when not given.

    Raises:
        ConfigError: an unknown kind.
    """
    read = _reader(kind)
    hints = typing.get_type_hints(read)
    return {
        name: f"{_type_name(hints[name])} = {parameter.default!r}"
        for name, parameter in _options(read).items()
    }


def _reader(kind: str) -> Callable[..., Iterator[Example]]:
    if kind not in READERS:
        raise ConfigError(f"no reader for {kind!r}, expected one of {', '.join(READERS)}")
    return READERS[kind]


def _options(read: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(read).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _check_options(kind: str, read: Callable[..., Any], options: Mapping[str, Any]) -> None:
    known, hints = _options(read), typing.get_type_hints(read)
    for name, value in options.items():
        if name not in known:
            raise ConfigError(
                f"{kind} has no option {name!r}, expected {', '.join(known) or 'none'}"
            )
        if not _fits(value, hints[name]):
            raise ConfigError(
                f"option {name} of {kind} is {value!r}, expected {_type_name(hints[name])}"
            )


def _fits(value: Any, hint: Any) -> bool:
    members = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(v, members[0]) for v in value)
    if members:
        return any(_fits(value, member) for member in members)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _type_name(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return name.replace("NoneType", "None")


def _resolve(media: Path | Resolve) -> Resolve:
    if not isinstance(media, (str, Path)):
        return media
    path = Path(media).resolve()
    return MediaIndex.load(path) if path.suffix == ".json" else MediaIndex.scan(path)


def _counted(kind: str, source: Source, examples: Iterator[Example]) -> Iterator[Example]:
    for example in examples:
        source.report.num_examples += 1
        yield example
    if not source.report.num_examples:
        raise DataError(
            f"{kind} in {source.folder} gave no example:\n" + "\n".join(source.report.lines())
        )
