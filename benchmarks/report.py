"""A benchmark's rows as a table, and as JSON with the machine, versions and commit behind them."""

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
    return [
        {
            "case": case,
            **{
                name: round(float(np.percentile(times, share)), 3)
                for name, share in (("median", 50), ("p90", 90), ("p99", 99))
            },
            "n": num_runs,
            "unit": "ms",
        }
        for case, times in spent.items()
    ]


def publish(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    packages: Sequence[str],
    settings: Mapping[str, Any],
    ratios: Mapping[str, float],
    equality: Mapping[str, Any],
    json_path: str | None,
) -> None:
    """Print the table; write the JSON where a path is given.

    Args:
        name: of the benchmark.
        rows: from `timed`.
        packages: whose versions belong to the figures.
        settings: what the run was asked to do.
        ratios: each printed beside the equality that it rests on.
        equality: what was checked to give the same results.
        json_path: file to write, or None.
    """
    width = max(len(row["case"]) for row in rows)
    print(f"{'case':{width}}  {'median':>9}  {'p90':>9}  {'p99':>9}  n")
    for row in rows:
        values = "  ".join(f"{row[key]:9.2f}" for key in ("median", "p90", "p99"))
        print(f"{row['case']:{width}}  {values}  {row['n']}  {row['unit']}")
    for label, value in (*equality.items(), *ratios.items()):
        print(f"{label}: {value}")
    if json_path is None:
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
        "rows": list(rows),
        "ratios": dict(ratios),
        "equality": dict(equality),
    }
    Path(json_path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


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
