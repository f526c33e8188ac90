"""Figures of many scored questions: means, intervals, and finer tables."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from molmo2_ros.training.evaluation.result import Result, add_mean, empty_result
from molmo2_ros.training.evaluation.scoring import MAIN, Judged, Scored
from molmo2_ros.training.metrics import (
    Cases,
    ReliabilityBin,
    bootstrap_interval,
    calibration_error,
    reliability,
)

# Lower bounds of bins, and how they are written.
SIZES = (0.0, 0.001, 0.005, 0.02, 0.1)  # share of the picture
VISIBLE = (0.0, 0.3, 0.5, 0.7, 0.9)  # share of the object, or of the moments
SPEEDS = (0.0, 0.02, 0.05, 0.1, 0.2)  # diagonals a second
_PREFIXES = (
    "pointing",
    "video_pointing",
    "counting",
    "tracking",
    "hota",
    "j_and_f",
    "hidden_left_out",
    "ids_one_to_one",
    "absent",
    "choice",
    "short_answer",
    "format_valid",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """A property by which questions are told apart."""

    name: str
    bounds: tuple[float, ...]
    unit: str
    read: Callable[[Scored], float | None]


ATTRIBUTES = (
    Attribute(name="size", bounds=SIZES, unit="share of the picture", read=lambda s: s.size),
    Attribute(
        name="visible", bounds=VISIBLE, unit="share in view", read=lambda s: s.visible_fraction
    ),
    Attribute(name="speed", bounds=SPEEDS, unit="diagonals a second", read=lambda s: s.speed),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """The mean of one bin with its interval."""

    title: str
    value: float
    low: float
    high: float
    num: int


def summarise(scored: Sequence[Scored]) -> Result:
    """All figures with intervals and numbers of cases, and the main ones told apart.

    Args:
        scored: at least one question.

    Returns:
        `figures`, `low`, `high` and `cases` by name; `finer` has further means, of which the first
        three dictionaries have interval and number, too.
    """
    result = empty_result()
    for name, cases in _by_measure(scored).items():
        add_mean(result, name, cases)
    sure = known(point for one in scored for point in one.judged)
    if sure:
        result["finer"]["calibration_error"] = round(calibration_error(bins_of(sure)), 4)
        result["cases"]["calibration_error"] = len(sure)
    for title, chosen in _groups(scored):
        add_mean(result, title, _cases(chosen), part="finer")
    return result


def binned(scored: Iterable[Scored], attribute: Attribute) -> list[tuple[str, list[Scored]]]:
    """Questions whose attribute is known, by its bin; rising, with the bin's title."""
    bins: dict[int, list[Scored]] = defaultdict(list)
    for one in scored:
        value = attribute.read(one)
        if value is not None:
            number = int(np.searchsorted(attribute.bounds, value, side="right")) - 1
            bins[max(number, 0)].append(one)
    return [(bin_title(attribute, number), bins[number]) for number in sorted(bins)]


def bar(title: str, chosen: Sequence[Scored]) -> Bar:
    """The mean of the main measure of some questions."""
    cases = _cases(chosen)
    low, high = bootstrap_interval(cases.values, groups=cases.groups)
    value = float(np.mean(cases.values))
    return Bar(title=title, value=value, low=low, high=high, num=len(cases.values))


def bin_title(attribute: Attribute, number: int) -> str:
    """`0.1 to 0.5 %` of sizes and visible fractions, `0.02 to 0.05` of speeds."""
    factor, unit = (1, "") if attribute.name == "speed" else (100, " %")
    bounds = [f"{factor * bound:g}" for bound in attribute.bounds]
    if number + 1 == len(bounds):
        return f"{bounds[number]}{unit} and more"
    return f"{bounds[number]} to {bounds[number + 1]}{unit}"


def known(judged: Iterable[Judged]) -> list[Judged]:
    """Points whose confidence is known: a server may not tell it."""
    return [point for point in judged if not math.isnan(point.confidence)]


def bins_of(judged: Sequence[Judged]) -> list[ReliabilityBin]:
    """Ten bins of confidence, beside the share that was right."""
    return reliability([p.confidence for p in judged], [p.is_right for p in judged])


def by_main(scored: Iterable[Scored]) -> dict[str, list[Scored]]:
    """Questions by the measure that ranks them."""
    mains: dict[str, list[Scored]] = defaultdict(list)
    for one in scored:
        mains[one.main].append(one)
    return dict(mains)


def _by_measure(scored: Sequence[Scored]) -> dict[str, Cases]:
    names = sorted({name for one in scored for name in one.measures}, key=_order)
    found = {name: _cases([one for one in scored if name in one.measures], name) for name in names}
    return {name: cases for name, cases in found.items() if cases.values}


def _order(name: str) -> tuple[int, int, str]:
    """As docs/evaluating.md tells of them: by kind, the main one first."""
    prefix = next((p for p in _PREFIXES if name.startswith(p)), _PREFIXES[-1])
    first = name in MAIN.values() or name == prefix
    return _PREFIXES.index(prefix), 0 if first else 1, name


def _cases(scored: Sequence[Scored], name: str | None = None) -> Cases:
    """The values of a measure, None for the main one of each, with their examples."""
    values: list[float] = []
    groups: list[str] = []
    for one in scored:
        measured = one.measures[name or one.main]
        values += measured
        groups += [one.example] * len(measured)
    return Cases(values, groups)


def _groups(scored: Sequence[Scored]) -> Iterator[tuple[str, list[Scored]]]:
    """Questions of one main measure by attribute, then by label, most frequent labels first."""
    mains = by_main(scored)
    for main, asked in mains.items():
        for attribute in ATTRIBUTES:
            for title, chosen in binned(asked, attribute):
                yield f"{main}, {attribute.name} {title}", chosen
    for main, asked in mains.items():
        labels: dict[str, list[Scored]] = defaultdict(list)
        for one in asked:
            labels[one.label].append(one)
        named = sorted(labels.items(), key=lambda item: (-len(item[1]), item[0]))
        for label, chosen in named if len(named) > 1 else ():
            yield f"{main}, {label}", chosen
