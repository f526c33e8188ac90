"""Whether the grounding node lasts: minutes of changing work, and faults out of which it must come.

    python benchmarks/soak.py [--minutes 30] [--cameras front,wrist] [--json]
    python benchmarks/soak.py --faults-only [--only camera_killed,disk_full]

Every part is a process of its own and talks over DDS: each camera (soak_camera.py, VGA at 30 Hz,
frames of the simulated table, whose truth is known), the grounding node with the embedded engine,
and what a fault needs beside it. This process listens.

Lasting: five queries stand, and each second one goes and another one comes. After a warm-up of a
third of the time, five minutes at most:

- memory_growth: median resident memory of the last fifth against the first; threads_growth and
  open_files_growth likewise, as numbers.
- max_points_gap_s: the longest time between two messages of `~/points` of any camera.
- unhandled_exceptions: tracebacks in the node's output, from the start.

Faults (soak_faults.py) are injected one after another into a running node, which is never started
again. Recovered: from the end of the fault to `~/points` that are fresh (the model confirmed each
query's on an image of after the fault) and right (on their things), of every camera, within 3 s.
Honest: all that came meanwhile bears a stamp that a readable image had, once each, and an age that
leads to such an image; no answer confirmed anything while the model could not answer; and no more
than a twentieth of the rows are beside their things. The engine runs in a thread of the node, so it
cannot be killed alone: instead the runtime raises on every picture for a while.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.bench_nodes import cpu_seconds  # noqa: E402  isort: skip  (sets the ROS domain)

import rclpy  # noqa: E402

from benchmarks.report import publish, spread  # noqa: E402
from benchmarks.soak_faults import NAMES, START_S, run_faults, scratch, until  # noqa: E402
from benchmarks.soak_rig import Rig  # noqa: E402
from molmo2_ros.ros.process_meter import ProcessMeter  # noqa: E402

NUM_QUERIES = 5
CHANGE_S = 1.0
MOST_WARM_UP_S = 300.0
RECOVERED_S = 3.0
ASKED = (
    "point: the red mug",
    "track: the lemon",
    "count: mugs",
    "point: the blue mug",
    "track[1 fps]: the red mug",
    "point: the lemon",
    "track: the blue mug",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds."""

    at_s: float
    memory_mb: float
    threads: int
    open_files: int

    @classmethod
    def of(cls, pid: int) -> Sample:
        """Now."""
        values: dict[str, Any] = ProcessMeter(Path(f"/proc/{pid}")).values()
        held = (values[name] for name in ("memory_mb", "threads", "open_files"))
        return cls(time.monotonic(), *held)


class Changes:
    """Queries that come and go: so many stand, shared evenly by the cameras."""

    def __init__(self, rig: Rig) -> None:
        self._watcher = rig.watcher
        self._cameras = itertools.cycle(rig.watcher.cameras)
        self._asked = itertools.cycle(ASKED)
        self._standing: deque[tuple[str, str]] = deque()
        self.num = 0

    def add(self) -> None:
        """One more."""
        self.num += 1
        camera, name = next(self._cameras), f"q{self.num}"
        self._watcher.query(camera, f"{name}={next(self._asked)}")
        self._standing.append((camera, name))

    def change(self) -> None:
        """The oldest goes, another one comes."""
        camera, name = self._standing.popleft()
        self._watcher.query(camera, f"remove: {name}")
        self.add()


def growth(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and of the last fifth."""
    fifth = max(1, len(values) // 5)
    return statistics.median(values[:fifth]), statistics.median(values[-fifth:])


def gaps_s(arrivals_s: Sequence[float], begin_s: float, end_s: float) -> list[float]:
    """Times between messages of a while; its begin and its end count as messages."""
    inside = [at_s for at_s in arrivals_s if begin_s < at_s < end_s]
    return [after - before for before, after in itertools.pairwise([begin_s, *inside, end_s])]


def last(
    folder: Path,
    cameras: Sequence[str],
    num_frames: int,
    minutes: float,
    told: Callable[[str], None],
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The soak: its rows and its figures."""
    with Rig(folder, cameras, (), num_frames) as rig:
        changes = Changes(rig)
        until(lambda: rig.watcher.counts()[1] > 0, "~/points", START_S)
        for _ in range(NUM_QUERIES):
            changes.add()
        until(lambda: rig.watcher.counts()[2] > 0, "answer", START_S)
        begun_s = time.monotonic()
        warm_s = begun_s + min(MOST_WARM_UP_S, 20.0 * minutes)
        end_s = begun_s + 60.0 * minutes
        samples, before = [], rig.watcher.counts()
        cpu_s = cpu_seconds(rig.node.pid)
        for due_s in itertools.count(begun_s + CHANGE_S, CHANGE_S):
            time.sleep(max(0.0, due_s - time.monotonic()))
            if due_s > end_s or not rig.node.is_alive:
                break
            changes.change()
            samples.append(Sample.of(rig.node.pid))
            if len(samples) % 60 == 0:
                told(f"{samples[-1]}, counts {rig.watcher.counts()}")
        is_alive = rig.node.is_alive
        took_s = time.monotonic() - begun_s
        cores = (cpu_seconds(rig.node.pid) - cpu_s) / took_s if is_alive else 0.0
        counts = [
            after - so_far for after, so_far in zip(rig.watcher.counts(), before, strict=True)
        ]
        honesty = rig.watcher.honesty(max(warm_s, time.monotonic() - 60.0), time.monotonic())
        gaps = {
            name: gaps_s(rig.watcher.arrivals_s(name), warm_s, begun_s + took_s) for name in cameras
        }
        num_exceptions = rig.num_exceptions
    kept = [sample for sample in samples if sample.at_s >= warm_s]
    memory_mb = [sample.memory_mb for sample in kept]
    first_mb, last_mb = growth(memory_mb)
    counted = {
        name: growth([getattr(sample, name) for sample in kept])
        for name in ("threads", "open_files")
    }
    rows = [
        *(
            spread(f"~/points of {name or 'the camera'}, gap", [1e3 * g for g in gaps[name]], "ms")
            for name in cameras
        ),
        spread("resident memory", memory_mb, "MB"),
        *(spread(name, [getattr(s, name) for s in kept], "") for name in counted),
        spread("cores of the node", [cores], ""),
    ]
    figures = {
        "memory_growth": round(last_mb / first_mb - 1.0, 5),
        "memory_mb": round(last_mb, 1),
        "max_points_gap_s": round(max(max(gap) for gap in gaps.values()), 3),
        "unhandled_exceptions": num_exceptions + (not is_alive),
        **{f"{name}_growth": after - first for name, (first, after) in counted.items()},
        "images": counts[0],
        "points_messages": counts[1],
        "answers": counts[2],
        "queries_changed": changes.num - NUM_QUERIES,
        "wrong_points_share": round(honesty.wrong / max(1, honesty.rows), 4),
    }
    return rows, figures


def fault_figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the faults' rows."""
    recovered = [row for row in rows if row["recovered"] and row["recovered_s"] <= RECOVERED_S]
    return {
        "faults_injected": len(rows),
        "faults_recovered": len(recovered),
        "faults_honest": sum(row["honest"] for row in rows),
        "slowest_recovery_s": max(row["recovered_s"] for row in rows),
        **{f"recovered_s_{row['case']}": row["recovered_s"] for row in rows},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Last, break and mend; print the tables or the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="of lasting")
    parser.add_argument("--cameras", default="front,wrist", help="names; '' for one without")
    parser.add_argument("--frames", type=int, default=24, help="drawn of each camera's table")
    parser.add_argument("--fault-cameras", default="front", help="names, as in --cameras")
    parser.add_argument("--faults", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--faults-only", action="store_true", help="without lasting")
    parser.add_argument("--only", default=",".join(NAMES), help="these faults")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    wanted = parser.parse_args(arguments)
    cameras, names = wanted.cameras.split(","), wanted.only.split(",")
    fault_cameras = wanted.fault_cameras.split(",")
    if unknown := set(names) - set(NAMES):
        parser.error(f"unknown faults {sorted(unknown)}, expected of {', '.join(NAMES)}")

    def told(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    rclpy.init(args=[])
    parts: list[tuple[str, list[dict[str, Any]], dict[str, float]]] = []
    with scratch() as name:
        if not wanted.faults_only:
            parts.append(("soak", *last(Path(name), cameras, wanted.frames, wanted.minutes, told)))
        if wanted.faults or wanted.faults_only:
            rows = run_faults(Path(name), fault_cameras, wanted.frames, names, told)
            parts.append(("soak_faults", rows, fault_figures(rows)))
    rclpy.try_shutdown()
    if wanted.json:
        all_rows = [row for _, rows, _ in parts for row in rows]
        all_figures = {key: value for _, _, found in parts for key, value in found.items()}
        parts = [("soak", all_rows, all_figures)]
    for name, rows, figures in parts:
        publish(
            name,
            rows,
            packages=("numpy", "opencv-python-headless", "onnxruntime", "ros-rclpy"),
            settings={
                "minutes": 0.0 if wanted.faults_only else wanted.minutes,
                "cameras": cameras,
                "fault_cameras": fault_cameras,
                "images": "640x480 rgb8, 30 Hz",
                "queries": NUM_QUERIES,
            },
            figures=figures,
            equality={},
            as_json=wanted.json,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
