"""Degenerate answers: what Molmo2 is known to write when it loses the thread.

Source: Molmo2 paper, appendix H (a long row of points on one frame, the same point in every frame,
worst with many objects or long clips).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.answers.text import ParsedPoint
from molmo2_ros.camera.frame import Frame

STAMP_TOLERANCE_S = 0.15  # a stamp is written with one decimal of a frame's time
ROW_LENGTH = 6  # equally spaced points on one frame from which on we speak of a row
ENDLESS_ROW = 12  # from which on we believe that the model goes on so for ever
REPEATED_STAMPS = 6  # frames with a point at one place from which on we speak of repeats ...
ENDLESS_STAMPS = 12  # ... and believe that every further frame gets it, too
FROZEN_STAMPS = 3  # equal positions from which on we ask whether the picture moved
FROZEN_WHILE_WRITTEN = 8  # and while more stamps may follow
CHANGED_GREY = 10.0  # mean absolute grey difference of a patch that is another picture
_PATCH = 13  # pixels at the width below
_WIDTH = 160


def drop_unplaceable(
    points: Sequence[ParsedPoint], times_s: Sequence[float], problems: list[str]
) -> tuple[list[ParsedPoint], bool]:
    """Leave out points whose stamp lies outside the clip: they belong to no frame.

    Args:
        points: as written, with stamps in seconds from the clip's first frame.
        times_s: the clip's frame times, increasing, the first 0.
        problems: gets one line per kind of trouble.

    Returns:
        those inside the clip, and whether any lay outside: stamps rise, so that all later ones do.
    """
    kept = []
    outside = []
    between = []
    for point in points:
        if point.stamp > times_s[-1] + STAMP_TOLERANCE_S:
            outside.append(point.stamp)
            continue
        if min(abs(point.stamp - time) for time in times_s) > STAMP_TOLERANCE_S:
            between.append(point.stamp)
        kept.append(point)
    if outside:
        problems.append(
            f"stamps {_listed(outside)} lie outside the clip of {times_s[-1]:.1f} s: points dropped"
        )
    if between:
        problems.append(f"stamps {_listed(between)} are no frame's: moved to the nearest frame")
    if any(later.stamp < earlier.stamp for earlier, later in zip(points, points[1:], strict=False)):
        problems.append("stamps run backwards")
    return kept, bool(outside)


def drop_unknown_images(
    points: Sequence[ParsedPoint], num_images: int, problems: list[str]
) -> list[ParsedPoint]:
    """Leave out points on images that were not shown; numbers are 1-based."""
    known = {float(number) for number in range(1, num_images + 1)}
    unknown = [point.stamp for point in points if point.stamp not in known]
    if unknown:
        problems.append(
            f"image numbers {_listed(unknown)} are not among the {num_images} shown: points dropped"
        )
    return [point for point in points if point.stamp in known]


def drop_duplicates(points: Sequence[ParsedPoint], problems: list[str]) -> list[ParsedPoint]:
    """Keep the first of equal ids and of equal positions on one frame, as Molmo2 reads them."""
    kept = []
    ids: set[tuple[float, int]] = set()
    places: set[tuple[float, float, float]] = set()
    repeated_ids = []
    repeated_places = []
    for point in points:
        if (point.stamp, point.object_id) in ids:
            repeated_ids.append(point)
        elif (point.stamp, point.x, point.y) in places:
            repeated_places.append(point)
        else:
            kept.append(point)
        ids.add((point.stamp, point.object_id))
        places.add((point.stamp, point.x, point.y))
    if repeated_ids:
        first = repeated_ids[0]
        problems.append(
            f"id {first.object_id} stands twice at {first.stamp:g} ({len(repeated_ids)} such): "
            "the first was kept"
        )
    if repeated_places:
        first = repeated_places[0]
        problems.append(
            f"one place has several ids at {first.stamp:g} ({len(repeated_places)} such): "
            "the first was kept"
        )
    return kept


def note_rows(points: Sequence[ParsedPoint], problems: list[str]) -> bool:
    """Name frames with a long row of equally spaced points.

    Returns:
        whether a row is so long that no things stand like that.
    """
    is_endless = False
    frames: dict[float, list[ParsedPoint]] = defaultdict(list)
    for point in points:
        frames[point.stamp].append(point)
    for stamp, row in frames.items():
        places = np.rint(1000 * np.array([(point.x, point.y) for point in row]))
        bends = np.abs(np.diff(places, n=2, axis=0)).max(axis=1) <= 1  # [n - 2] equal steps
        longest = _longest_run(bends)
        if longest + 2 >= ROW_LENGTH:
            problems.append(f"{longest + 2} points at {stamp:g} stand in an even row")
            is_endless = is_endless or longest + 2 >= ENDLESS_ROW
    return is_endless


def note_repeats(points: Sequence[ParsedPoint], problems: list[str]) -> bool:
    """Name places that are pointed to on frame after frame of a clip, each time as a new thing.

    Args:
        points: of a clip, no track: there each thing is written once.
        problems: gets a line about the place that comes most often.

    Returns:
        whether that is so often that nothing is counted any more.
    """
    stamps: dict[tuple[float, float], set[float]] = defaultdict(set)
    for point in points:
        stamps[point.x, point.y].add(point.stamp)
    place, repeats = max(stamps.items(), key=lambda item: len(item[1]), default=((0.0, 0.0), ()))
    if len(repeats) >= REPEATED_STAMPS:
        x, y = (round(1000 * value) for value in place)
        problems.append(
            f"the place {x:03d} {y:03d} is a new thing on each of {len(repeats)} frames"
        )
    return len(repeats) >= ENDLESS_STAMPS


def note_frozen(
    points: Sequence[ParsedPoint],
    frames: Sequence[Frame],
    problems: list[str],
    num_stamps: int = FROZEN_STAMPS,
) -> bool:
    """Name ids that never move although the picture under them does.

    A still object before a still camera is also written with equal coordinates at every stamp, so
    the frames decide: the patch round the point is compared between the first and the last stamp.

    Args:
        points: of a track.
        frames: the clip's; its first frame is time 0.
        problems: gets one line per frozen id.
        num_stamps: equal positions from which on an id is looked at.

    Returns:
        whether any id is frozen.
    """
    is_frozen = False
    tracks: dict[int, list[ParsedPoint]] = defaultdict(list)
    for point in points:
        tracks[point.object_id].append(point)
    for object_id, track in tracks.items():
        if len(track) < num_stamps or len({(point.x, point.y) for point in track}) > 1:
            continue
        first, last = (
            _patch(_nearest(frames, point.stamp), point) for point in track[:: len(track) - 1]
        )
        difference = first - last
        if np.abs(difference - difference.mean()).mean() > CHANGED_GREY:
            problems.append(
                f"id {object_id} is frozen on all {len(track)} stamps while the picture moves"
            )
            is_frozen = True
    return is_frozen


def _nearest(frames: Sequence[Frame], time_s: float) -> Frame:
    start_ns = frames[0].stamp_ns
    return min(frames, key=lambda frame: abs((frame.stamp_ns - start_ns) / 1e9 - time_s))


def _patch(frame: Frame, point: ParsedPoint) -> npt.NDArray[np.float32]:
    height = max(_PATCH, round(frame.height * _WIDTH / frame.width))
    small = cv2.resize(frame.image, (_WIDTH, height), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    centre = (point.x * (_WIDTH - 1), point.y * (height - 1))
    return np.asarray(cv2.getRectSubPix(grey, (_PATCH, _PATCH), centre))


def _longest_run(flags: npt.NDArray[np.bool_]) -> int:
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


def _listed(stamps: Sequence[float]) -> str:
    distinct = sorted(set(stamps))
    shown = ", ".join(f"{stamp:g}" for stamp in distinct[:4])
    return shown if len(distinct) <= 4 else f"{shown} and {len(distinct) - 4} more"
