"""What proving an engine costs: its first load on a machine, later ones, and up to an answer."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import publish, spread, timed
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.golden import verify_golden
from molmo2_ros.runtime.self_test import prove

_ANSWER = """
import sys
from molmo2_ros import Frame, Grounder, load_engine, parse_query
from molmo2_ros.camera.clip import Clip
from molmo2_ros.runtime.golden import Golden
engine = load_engine(sys.argv[1], threads=int(sys.argv[2]), self_test=sys.argv[3])
golden = Golden.load(engine.folder / engine.manifest.golden.file)
print(Grounder(engine).answer(Clip((Frame(image=golden.frames[0], stamp_ns=0),)), parse_query(
    "Point to the mugs")).text)
"""


def first_answers(engine: Path, threads: int, runs: int) -> list[dict[str, Any]]:
    """Seconds from the start of a process to its first answer, by what is known of the engine."""
    spent: dict[str, list[float]] = {"no self-test": [], "first load": [], "later load": []}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "XDG_CACHE_HOME": cache}
            for case, mode in zip(spent, ("off", "refuse", "refuse"), strict=True):
                spent[case].append(_process_s(engine, threads, mode, environment))
    return [
        spread(f"start to first answer, {case}", [1e3 * value for value in values], "ms")
        for case, values in spent.items()
    ]


def _process_s(engine: Path, threads: int, mode: str, environment: Mapping[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", _ANSWER, str(engine), str(threads), mode],
        env=environment,
        cwd=Path(__file__).parents[1],
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - started


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, default=NANO)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=20, help="of a self-test; a fifth of processes")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    engine = load_engine(options.engine, threads=options.threads)
    functions = {
        "self-test": lambda: verify_golden(engine),
        "remembered self-test": lambda: prove(engine),
        "load without": lambda: load_engine(
            options.engine, threads=options.threads, self_test="off"
        ),
    }
    rows = timed(functions, options.runs)
    rows += first_answers(options.engine, options.threads, max(1, options.runs // 5))
    median_ms = {row["case"]: row["median"] for row in rows}
    publish(
        "self_test",
        rows,
        packages=("numpy", "onnxruntime"),
        settings={"engine": engine.manifest.name, "threads": options.threads},
        figures={
            "self_test_s": median_ms["self-test"] / 1e3,
            "remembered_s": median_ms["remembered self-test"] / 1e3,
            "first_answer_s": median_ms["start to first answer, first load"] / 1e3,
        },
        equality={"largest logit error of the golden example": verify_golden(engine)},
        as_json=options.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
