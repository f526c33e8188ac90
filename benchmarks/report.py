"""A benchmark's rows as a table, or as JSON with the machine, versions and commit behind them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np


def timed(functions: Mapping[str, Callable[[], object]], num_runs: int) -> list[dict[str, Any]]:
    """Run functions in turn, so that a busy moment hits all of them.

    Returns:
        one row per function: case, median, p90, p99 in milliseconds, n, unit.
    """
    spent: dict[str, list[float]] = {case: [] for case in functions}
    for function in functions.values():
        function()
    for _ in range(num_runs):
        for case, function in functions.items():
            started = time.perf_counter()
            function()
            spent[case].append((time.perf_counter() - started) * 1e3)
    return [spread(case, times, "ms") for case, times in spent.items()]


def spread(case: str, values: Sequence[float], unit: str) -> dict[str, Any]:
    """One row: case, median, p90, p99, n, unit."""
    median, p90, p99 = (round(float(np.percentile(values, share)), 3) for share in (50, 90, 99))
    return {"case": case, "median": median, "p90": p90, "p99": p99, "n": len(values), "unit": unit}


def share_interval(share: float, num: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `num` trials."""
    z, num = 1.96, max(num, 1)
    centre = share + z**2 / (2 * num)
    half = z * (share * (1 - share) / num + z**2 / (4 * num**2)) ** 0.5
    return (centre - half) / (1 + z**2 / num), (centre + half) / (1 + z**2 / num)


def publish(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    packages: Sequence[str],
    settings: Mapping[str, Any],
    figures: Mapping[str, float],
    equality: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Print the table for people, or one JSON object for programs.

    Args:
        name: of the benchmark.
        rows: mappings with equal keys, the first of them `case`.
        packages: whose versions belong to the figures.
        settings: what the run was asked to do.
        figures: the headline numbers; a ratio stands here only if `equality` holds.
        equality: what was checked to give the same results.
        as_json: print JSON, and nothing else.
    """
    if not as_json:
        _print_table(rows)
        for label, value in (*equality.items(), *figures.items()):
            print(f"{label}: {value}")
        return
    report = {
        "name": name,
        "commit": _commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "gpu": None,
            "load": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), **_versions(packages)},
        "settings": dict(settings),
        "figures": dict(figures),
        "equality": dict(equality),
        "rows": list(rows),
    }
    print(json.dumps(report, indent=2))


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Texts to the left, numbers to the right with four digits."""
    columns = list(rows[0])
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    are_texts = [isinstance(rows[0][column], str) for column in columns]
    for line in cells:
        padded = (
            f"{cell:<{width}}" if is_text else f"{cell:>{width}}"
            for cell, width, is_text in zip(line, widths, are_texts, strict=True)
        )
        print("  ".join(padded).rstrip())


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    head = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(head, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
