"""Targets drawn on a picture: points, ids, trails, names and ages."""

from __future__ import annotations

import colorsys
import math
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.tracking.target import Target

Picture = npt.NDArray[np.uint8]
Trail = Sequence[tuple[float, float]]  # pixels, oldest first

_GOLDEN = 0.618034  # successive multiples spread evenly over the circle of hues
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LINE = cv2.LINE_AA
_FRESH_S = 0.5  # older targets show their age
_LOW_QUALITY = 0.5


def track_colour(track_id: int) -> tuple[int, int, int]:
    """A bright colour, RGB, that differs between neighbouring ids."""
    red, green, blue = colorsys.hsv_to_rgb((track_id * _GOLDEN) % 1.0, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


class Trails:
    """Where targets have been in the last seconds.

    Args:
        duration_s: length of a trail.
    """

    def __init__(self, duration_s: float = 1.5) -> None:
        self._duration_ns = round(duration_s * 1e9)
        self._points: dict[tuple[int, int], deque[tuple[int, float, float]]] = {}

    def add(self, targets: Iterable[Target], stamp_ns: int) -> None:
        """Note the targets of one frame; trails of those that are gone end at once."""
        present = {}
        for target in targets:
            key = (target.query_id, target.track_id)
            trail = self._points.get(key, deque())
            if trail and trail[-1][0] > stamp_ns:
                trail.clear()
            trail.append((stamp_ns, target.u, target.v))
            while trail[0][0] < stamp_ns - self._duration_ns:
                trail.popleft()
            present[key] = trail
        self._points = present

    @property
    def lines(self) -> dict[tuple[int, int], list[tuple[float, float]]]:
        """Pixels of each trail by (query_id, track_id), oldest first."""
        return {key: [(u, v) for _, u, v in trail] for key, trail in self._points.items()}


def draw(
    image: Picture,
    targets: Sequence[Target],
    *,
    trails: Mapping[tuple[int, int], Trail] | None = None,
    caption: str = "",
) -> Picture:
    """Draw targets on a copy of a picture; see `paint`.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    picture: Picture = image.copy()
    paint(picture, targets, trails=trails, caption=caption)
    return picture


def paint(
    picture: Picture,
    targets: Sequence[Target],
    *,
    trails: Mapping[tuple[int, int], Trail] | None = None,
    caption: str = "",
) -> None:
    """Draw targets on a picture.

    A filled point is one that the model answered on this frame, a ring one that was carried: it is
    as closed as its quality is good, and thin where that is low. Beside it stand the query's name
    where somebody gave it one, the thing and its track id, metres where known, and the age where it
    is old.

    Args:
        picture: uint8 [H, W, 3] RGB, drawn on.
        targets: with pixels of this picture.
        trails: `Trails.lines`.
        caption: a line for the picture's lower edge.
    """
    height, width = picture.shape[:2]
    unit = max(0.8, min(width, height) / 480)  # everything grows with the picture
    for key, trail in (trails or {}).items():
        _draw_trail(picture, trail, track_colour(key[1]), unit)
    taken: list[tuple[int, int, int, int]] = []
    for target in targets:
        _draw_point(picture, target, unit)
    for target in targets:
        at = (target.u + 11 * unit, target.v - 11 * unit)
        taken.append(
            _draw_text(picture, _name(target), at, track_colour(target.track_id), unit, taken)
        )
    if caption:
        _draw_text(picture, caption, (6 * unit, height - 6 * unit), (255, 255, 255), unit, [])


def _name(target: Target) -> str:
    parts = [f"{target.label} {target.track_id}".strip()]
    if not _says(target.query_name, target.label):
        parts[0] = f"{target.query_name}: {parts[0]}"
    if target.point_m is not None and math.isfinite(target.point_m[2]):
        parts.append(f"{target.point_m[2]:.2f} m")
    if target.age_s >= _FRESH_S:
        parts.append(f"{target.age_s:.1f} s")
    return "  ".join(parts)


def _says(name: str, label: str) -> bool:
    """Whether a query's name is but its words, as a name is that nobody gave."""
    return set(re.findall(r"\w+", name.lower().replace("_", " "))) <= set(
        re.findall(r"\w+", f"the {label} {label}s".lower())
    )


def _draw_trail(picture: Picture, trail: Trail, colour: tuple[int, int, int], unit: float) -> None:
    if len(trail) < 2:
        return
    line = np.rint(np.array(trail) * 16).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(picture, [line], False, colour, max(1, round(1.5 * unit)), _LINE, shift=4)


def _draw_point(picture: Picture, target: Target, unit: float) -> None:
    centre = (round(target.u * 16), round(target.v * 16))  # sixteenths of a pixel
    radius = round(7 * unit * 16)
    colour = track_colour(target.track_id)
    thin = target.quality < _LOW_QUALITY
    stroke = max(1, round((1 if thin else 2.5) * unit))
    cv2.circle(picture, centre, radius, (0, 0, 0), stroke + max(2, round(2 * unit)), _LINE, 4)
    if target.measured:
        cv2.circle(picture, centre, radius, colour, -1, _LINE, 4)
    else:
        turn = 360 * min(max(target.quality, 0.0), 1.0)
        cv2.ellipse(picture, centre, (radius, radius), -90, 0, turn, colour, stroke, _LINE, 4)
    cv2.circle(picture, centre, round(1.5 * unit * 16), (0, 0, 0), -1, _LINE, 4)


def _draw_text(
    picture: Picture,
    text: str,
    at: tuple[float, float],
    colour: tuple[int, int, int],
    unit: float,
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Write on a dark plate, inside the picture and below the plates that are taken already."""
    shown = text.encode("ascii", "replace").decode()  # OpenCV's font has no other letters
    scale, stroke = 0.45 * unit, max(1, round(unit))
    (text_width, text_height), base = cv2.getTextSize(shown, _FONT, scale, stroke)
    pad = round(3 * unit)
    box_width, box_height = text_width + 2 * pad, text_height + base + pad
    height, width = picture.shape[:2]
    left = round(min(max(at[0], 0), max(0, width - box_width)))
    top = round(min(max(at[1] - box_height, 0), max(0, height - box_height)))
    for other in sorted(taken, key=lambda box: box[1]):
        beside = left + box_width <= other[0] or other[2] <= left
        if not beside and top < other[3] and other[1] < top + box_height:
            top = min(other[3] + 1, height - box_height)
    plate = picture[max(top, 0) : top + box_height, left : left + box_width]
    plate[:] = plate // 4
    baseline = (left + pad, top + text_height + pad // 2 + 1)
    cv2.putText(picture, shown, baseline, _FONT, scale, colour, stroke, _LINE)
    return left, top, left + box_width, top + box_height
