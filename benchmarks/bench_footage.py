"""Points set by hand on real videos, carried for two seconds: which are still on their thing?

    benchmarks/footage/fetch.sh          (once: the videos come with Debian's opencv-doc)
    python benchmarks/bench_footage.py [--videos runs/footage] [--sheet FILE.png] [--json]

benchmarks/footage/*.json say where things are on a first frame and where the same things are two
seconds later, or that they are hidden or gone by then. They were set by eye before any tracker saw
the videos; in vtest.avi they are everyone on four frames whose body shows, and those who are about
to leave on four more. Each point is answered once, on the first frame, and carried over every frame
of the video at its own stamps. On target: published, and within the radius round the place set by
hand, which is inside the thing. `uncarried` is the same share for points that stay where they were.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.bench_tracks import answer  # noqa: E402
from benchmarks.report import publish  # noqa: E402
from molmo2_ros.camera.frame import Frame  # noqa: E402
from molmo2_ros.camera.sources import open_source  # noqa: E402
from molmo2_ros.errors import DataError, Molmo2Error  # noqa: E402
from molmo2_ros.runtime.strict_json import read_dataclass  # noqa: E402
from molmo2_ros.tracking.tracker import Tracker  # noqa: E402

ANNOTATIONS = Path(__file__).with_name("footage")
VIDEOS = Path(__file__).parents[1] / "runs/footage"
CARRIED_S = 2.0
LEFT = ("hidden", "gone")
STAMP_TOLERANCE_S = 0.002  # a decoder that counts frames otherwise is found out
SHEET_PX = 90  # side of the pictures round a point

Place = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A frame of a video."""

    frame: int  # from 0
    time_s: float  # from the file's start


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedPoint:
    """A thing that someone pointed at on two frames; pixels of the video."""

    name: str
    u: float  # on the first frame
    v: float
    radius_px: float  # round the later place: as near, a carried point is on the thing
    later: tuple[float, float] | None = None  # where it is then
    left: str | None = None  # or why it cannot be seen: one of LEFT


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedClip:
    """Two frames, CARRIED_S apart, without a cut between them."""

    first: Moment
    later: Moment
    points: tuple[MarkedPoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedVideo:
    """What was marked in one video."""

    video: str  # name of the file
    width: int  # pixels
    height: int
    clips: tuple[MarkedClip, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a marked point."""

    point: MarkedPoint
    carried: Place | None  # where it is published on the later frame, None if it was lost

    @property
    def error_px(self) -> float:
        """From the carried point to the thing; inf if it was lost or the thing has left."""
        if self.carried is None or self.point.later is None:
            return math.inf
        return math.dist(self.carried, self.point.later)

    @property
    def on_target(self) -> bool:
        """Published, and on the thing."""
        return self.error_px <= self.point.radius_px


def marked_videos() -> list[MarkedVideo]:
    """All annotations.

    Raises:
        DataError: one has an unknown, missing or mistyped key.
    """
    return [
        read_dataclass(
            MarkedVideo,
            json.loads(path.read_text(encoding="utf-8")),
            path.name,
            "see MarkedVideo in benchmarks/bench_footage.py",
            DataError,
        )
        for path in sorted(ANNOTATIONS.glob("*.json"))
    ]


def frames_of(marked: MarkedVideo, clip: MarkedClip, videos: Path) -> list[Frame]:
    """The clip's frames, from its first to its later moment.

    Raises:
        ImageError: the video is missing or cannot be read.
        DataError: it is another video than the one that was marked.
    """
    source = open_source(str(videos / marked.video))
    frames = []
    try:
        for index in range(clip.later.frame + 1):
            frame = source.read()
            if frame is None:
                raise DataError(f"{marked.video} ends at frame {index}; run footage/fetch.sh again")
            if index >= clip.first.frame:
                frames.append(frame)
    finally:
        source.close()
    for frame, moment in ((frames[0], clip.first), (frames[-1], clip.later)):
        size = (frame.width, frame.height)
        late_s = abs(frame.stamp_ns / 1e9 - moment.time_s)
        if size != (marked.width, marked.height) or late_s > STAMP_TOLERANCE_S:
            raise DataError(
                f"{marked.video}: frame {moment.frame} is of {frame.stamp_ns / 1e9:.3f} s and size "
                f"{size}, expected {moment.time_s} s and {(marked.width, marked.height)}; get the "
                "video by benchmarks/footage/fetch.sh"
            )
    return frames


def carried(points: Sequence[MarkedPoint], frames: Sequence[Frame]) -> list[Outcome]:
    """Answer the points on the first frame and carry them to the last."""
    tracker = Tracker()
    tracker.update(frames[0])
    tracker.measure(answer(frames[0], np.array([(point.u, point.v) for point in points])), 1)
    for frame in frames[1:]:
        tracker.update(frame)
    # Ids are given in the order of the answer.
    places = {target.track_id: (target.u, target.v) for target in tracker.targets()}
    return [
        Outcome(point=point, carried=places.get(number)) for number, point in enumerate(points, 1)
    ]


def row(case: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """One line of the table."""
    seen = [outcome for outcome in outcomes if outcome.point.later is not None]
    left = [outcome for outcome in outcomes if outcome.point.later is None]
    on_target = sum(outcome.on_target for outcome in seen)
    lost = sum(outcome.carried is None for outcome in seen)
    errors_px = [outcome.error_px for outcome in seen if outcome.carried is not None]
    rightly_lost = sum(outcome.carried is None for outcome in left)
    uncarried = [
        Outcome(point=outcome.point, carried=(outcome.point.u, outcome.point.v)) for outcome in seen
    ]
    return {
        "case": case,
        "in_view": len(seen),
        "on_target": on_target,
        "elsewhere": len(seen) - on_target - lost,
        "lost": lost,
        "share": round(on_target / len(seen), 3),
        "uncarried": round(sum(outcome.on_target for outcome in uncarried) / len(seen), 3),
        "median_px": round(float(np.median(errors_px)), 1) if errors_px else math.nan,
        "left": len(left),
        "rightly_lost": rightly_lost,
        "falsely_alive": len(left) - rightly_lost,
    }


def sheet(frames: Sequence[Frame], outcomes: Sequence[Outcome]) -> npt.NDArray[np.uint8]:
    """Each point on the first and, beside it, on the later frame.

    Returns:
        RGB, a row per point: green circle where it was set by hand, red cross where it was carried.
    """
    rows = []
    for outcome in outcomes:
        point = outcome.point
        start = (point.u, point.v)
        pair = [
            _cutout(frames[0], start, start, start, point.radius_px),
            _cutout(
                frames[-1],
                point.later or outcome.carried or start,
                point.later,
                outcome.carried,
                point.radius_px,
            ),
        ]
        picture = np.hstack(pair)
        became = point.left or "in view"
        fate = "lost" if outcome.carried is None else f"{outcome.error_px:.0f} px off"
        words = f"{point.name}: {became}, {fate}"
        cv2.putText(picture, words, (4, 12), cv2.FONT_HERSHEY_PLAIN, 0.8, (255, 255, 0), 1)
        rows.append(picture)
    return np.vstack(rows)


def _cutout(
    frame: Frame, centre: Place, true: Place | None, published: Place | None, radius_px: float
) -> npt.NDArray[np.uint8]:
    """The picture round a place, three times as large."""
    scale = 3
    corner = np.array(centre) - SHEET_PX / 2
    matrix = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
    side = scale * SHEET_PX
    picture = cv2.warpAffine(frame.image, matrix, (side, side), flags=cv2.INTER_CUBIC)

    def drawn(place: Place) -> tuple[int, int]:
        x, y = np.rint(scale * (np.array(place) - corner)).astype(int)
        return int(x), int(y)

    if true is not None:
        cv2.circle(picture, drawn(true), round(scale * radius_px), (0, 255, 0), 1)
    if published is not None:
        cv2.drawMarker(picture, drawn(published), (255, 0, 0), cv2.MARKER_CROSS, 14, 2)
    return np.asarray(picture, np.uint8)


def measured(videos: Path) -> Iterator[tuple[MarkedVideo, list[Frame], list[Outcome]]]:
    """What became of the points of each clip.

    Raises:
        Molmo2Error: a video is missing or another one than was marked.
    """
    for marked in marked_videos():
        for clip in marked.clips:
            frames = frames_of(marked, clip, videos)
            yield marked, frames, carried(clip.points, frames)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, default=VIDEOS, help="folder that fetch.sh filled")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="a picture of every point")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    by_video: dict[str, list[Outcome]] = {}
    columns = []
    try:
        for marked, frames, outcomes in measured(options.videos):
            by_video.setdefault(marked.video, []).extend(outcomes)
            if options.sheet is not None:
                columns.append(sheet(frames, outcomes))
    except Molmo2Error as error:
        parser.error(f"{error}; benchmarks/footage/fetch.sh gets the videos on Debian and Ubuntu")
    if options.sheet is not None:
        tallest = max(len(column) for column in columns)
        padded = [np.pad(c, ((0, tallest - len(c)), (0, 6), (0, 0))) for c in columns]
        cv2.imwrite(str(options.sheet), cv2.cvtColor(np.hstack(padded), cv2.COLOR_RGB2BGR))
    rows = [row(video, outcomes) for video, outcomes in by_video.items()]
    total = row("all", [outcome for outcomes in by_video.values() for outcome in outcomes])
    publish(
        "footage",
        [*rows, total],
        packages=["numpy", "opencv-python-headless"],
        settings={"carried_s": CARRIED_S},
        figures={
            "footage_on_target": total["share"],
            "footage_uncarried": total["uncarried"],
            "footage_rightly_lost": round(total["rightly_lost"] / total["left"], 3),
        },
        equality={},
        as_json=options.json,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
