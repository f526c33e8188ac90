"""Figures by name with their intervals, as tables and JSON have them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from molmo2_ros.training.metrics import Cases, bootstrap_interval

# "figures", their "low" and "high" ends of 95 % intervals, "cases", and "finer" means.
Result = dict[str, dict[str, float]]

_MOST_FINER = 60  # lines of the table; JSON has all


def empty_result() -> Result:
    """Without any figure."""
    return {part: {} for part in ("figures", "low", "high", "cases", "finer")}


def add_mean(result: Result, name: str, cases: Cases, *, part: str = "figures") -> None:
    """A mean with its interval and number of cases."""
    interval = bootstrap_interval(cases.values, groups=cases.groups)
    add_value(result, name, float(np.mean(cases.values)), interval, len(cases.values), part=part)


def add_value(
    result: Result,
    name: str,
    value: float,
    interval: tuple[float, float],
    num_cases: int,
    *,
    part: str = "figures",
) -> None:
    """A figure that is no plain mean."""
    result[part][name] = round(value, 4)
    result["low"][name], result["high"][name] = (round(end, 4) for end in interval)
    result["cases"][name] = num_cases


def table(result: Result) -> Iterator[str]:
    """Lines for people."""
    width = max([22, *(len(name) + 1 for name in result["figures"])])
    yield f"{'figure':<{width}}{'value':>8}{'95 % interval':>20}{'cases':>8}"
    for name in result["figures"]:
        yield _line(result, "figures", name, width)
    finer = list(result["finer"])
    if finer:
        yield ""
    width = max([22, *(len(name) + 1 for name in finer[:_MOST_FINER])])
    for name in finer[:_MOST_FINER]:
        yield _line(result, "finer", name, width)
    if len(finer) > _MOST_FINER:
        yield f"... and {len(finer) - _MOST_FINER} more, with --json"


def _line(result: Result, part: str, name: str, width: int) -> str:
    interval = ""
    if name in result["low"]:
        interval = f"{result['low'][name]:.3f} .. {result['high'][name]:.3f}"
    return f"{name:<{width}}{result[part][name]:>8.3f}{interval:>20}{result['cases'][name]:>8.0f}"
