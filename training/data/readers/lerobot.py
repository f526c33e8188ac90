"""LeRobot data sets of versions 2 and 3: each episode and camera with the words of its task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.data.example import Annotation, Example, Media, Task
from molmo2_ros.training.data.readers.fields import Fields
from molmo2_ros.training.data.readers.report import Why
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.data.readers.table import read_json, rows

QUESTION = "What is the robot doing?"
ANSWERS = MappingProxyType({"reply": Task.REPLY, "caption": Task.CAPTION})
CAPTION_STYLE = "video_short_caption"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """What `meta/info.json` says: where the files are, and which cameras there are."""

    is_v3: bool
    fps: float
    data_path: str
    video_path: str
    chunk_size: int
    cameras: Mapping[str, bool]  # name -> whether it is a video, else pictures in the table


def read_lerobot(
    source: Source,
    *,
    episodes: tuple[int, ...] = (),
    cameras: tuple[str, ...] = (),
    answer: str = "reply",
    question: str = QUESTION,
) -> Iterator[Example]:
    """One example an episode and camera; states and actions of the robot are not read.

    Args:
        source: a folder with `meta/info.json`, the episodes (`meta/episodes.jsonl`, or from
            version 3 on `meta/episodes/**/*.parquet`), `data/` and `videos/`. Cameras whose
            pictures are inside the data table need a store.
        episodes: by index; empty: all.
        cameras: by feature name, as `observation.images.top`; empty: all.
        answer: "reply" to `question`, or "caption".
        question: that the task's words answer; for replies.

    Raises:
        ConfigError: an unknown camera, episode, or kind of answer.
        DataError: another version, or files that cannot be read.

    Source: huggingface/lerobot `datasets/utils.py`, versions 2.1 and 3.0.
    """
    if answer not in ANSWERS:
        raise ConfigError(f"answer is {answer!r}, expected {' or '.join(ANSWERS)}")
    layout = _layout(source.folder)
    unknown = [camera for camera in cameras if camera not in layout.cameras]
    if unknown:
        raise ConfigError(f"no camera {unknown[0]!r}, expected of {', '.join(layout.cameras)}")
    left = set(episodes)
    for row in _episodes(source.folder, layout):
        try:
            index = row.whole("episode_index")
        except DataError as error:
            source.malformed(row.place, error)
            continue
        if episodes and index not in episodes:
            continue
        left.discard(index)
        for camera in cameras or layout.cameras:
            place = f"{row.place}, {camera}"
            make = partial(_example, source, row, layout, index, camera, (answer, question))
            yield from source.checked(place, make)
    if left:
        raise ConfigError(f"no episode {min(left)} in {source.folder}")


def _layout(folder: Path) -> _Layout:
    path = folder / "meta" / "info.json"
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} is no record, expected that of a LeRobot data set")
    info = Fields("meta/info.json", content)
    version = info.text("codebase_version")
    if not version.startswith(("v2.", "v3.")):
        raise DataError(f"LeRobot data set of version {version}, expected v2.x or v3.x; convert it")
    features = info.record("features")
    kinds = {name: features.record(name).text("dtype") for name in features.values}
    cameras = {name: kind == "video" for name, kind in kinds.items() if kind in ("video", "image")}
    if not cameras:
        raise DataError(f"{path} names no camera, expected a feature of dtype video or image")
    return _Layout(
        is_v3=version.startswith("v3."),
        fps=info.positive("fps"),
        data_path=info.text("data_path"),
        video_path=info.text("video_path") if any(cameras.values()) else "",
        chunk_size=info.whole("chunks_size"),
        cameras=cameras,
    )


def _episodes(folder: Path, layout: _Layout) -> Iterator[Fields]:
    if not layout.is_v3:
        path = folder / "meta" / "episodes.jsonl"
        if not path.is_file():
            raise DataError(f"{path} is missing, expected one line for each episode")
        yield from rows(folder / "meta", ("episode_index", "tasks"), split="episodes")
        return
    columns = ["episode_index", "tasks", "data/chunk_index", "data/file_index"]
    for camera, is_video in layout.cameras.items():
        if is_video:
            names = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
            columns += [f"videos/{camera}/{name}" for name in names]
    yield from rows(folder / "meta" / "episodes", columns)


def _example(
    source: Source,
    row: Fields,
    layout: _Layout,
    index: int,
    camera: str,
    wanted: tuple[str, str],
) -> Example | None:
    words = "; ".join(text for text in row.texts("tasks") if text)
    if not words:
        source.report.skip(row.place, Why.RULE, f"episode {index} has no task in words")
        return None
    name = f"episode {index} {camera}"
    if layout.cameras[camera]:
        media = _video(source, row, layout, index, camera)
    else:
        media = _pictures(source, row, layout, index, camera)
    if media is None:
        return None
    task = ANSWERS[wanted[0]]
    annotation = Annotation(
        task=task,
        question=wanted[1] if task is Task.REPLY else None,
        answer=words,
        style=CAPTION_STYLE if task is Task.CAPTION else None,
    )
    return Example(name=name, media=media, annotations=(annotation,))


def _file(layout: _Layout, template: str, row: Fields, index: int, camera: str, kind: str) -> str:
    """The path of an episode's file, as the template of `meta/info.json` has it."""
    places: dict[str, Any] = {"video_key": camera, "episode_index": index}
    if layout.is_v3:
        places["chunk_index"] = row.whole(f"{kind}/chunk_index")
        places["file_index"] = row.whole(f"{kind}/file_index")
    else:
        places["episode_chunk"] = index // layout.chunk_size
    try:
        return template.format(**places)
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"path {template!r} of meta/info.json has an unknown place: {error}"
        ) from None


def _video(source: Source, row: Fields, layout: _Layout, index: int, camera: str) -> Media | None:
    relative = _file(layout, layout.video_path, row, index, camera, f"videos/{camera}")
    path = source.folder / relative
    if not path.is_file():
        source.report.skip(row.place, Why.NO_MEDIA, f"no file {relative}")
        return None
    if not layout.is_v3:
        return Media(video=str(path))
    start_s = row.number(f"videos/{camera}/from_timestamp")
    return Media(
        video=str(path), start_s=start_s, end_s=row.number(f"videos/{camera}/to_timestamp")
    )


def _pictures(
    source: Source, row: Fields, layout: _Layout, index: int, camera: str
) -> Media | None:
    """Writes the pictures that stand in the data table, with their times from the first."""
    relative = _file(layout, layout.data_path, row, index, camera, "data")
    store = source.needed_store()
    frames: list[str] = []
    times_s: list[float] = []
    for frame in _data_rows(source.folder / relative, relative, camera, index):
        name = f"episode {index} {camera} {len(frames)}"
        frames.append(store.add_image(name, frame.record(camera).data("bytes")))
        times_s.append(frame.number("timestamp"))
    if not frames:
        raise DataError(f"{relative} has no frame of episode {index}")
    return Media(frames=tuple(frames), times_s=tuple(time_s - times_s[0] for time_s in times_s))


def _data_rows(path: Path, relative: str, camera: str, index: int) -> Iterator[Fields]:
    columns = ["timestamp", camera]
    try:
        table = pq.read_table(path, columns=columns, filters=[("episode_index", "=", index)])
        for number, values in enumerate(table.to_pylist()):
            yield Fields(f"{relative}, frame {number} of episode {index}", values)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
