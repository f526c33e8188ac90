"""An arm that must touch what was asked for: standing still, and on a belt that does not wait.

    python benchmarks/bench_reach.py [--trials 100] [--delay 0.5] [--jobs 1] [--json]

Each trial is a table of its own: five objects, an arm, and a camera at 10 Hz (320x240, with depth)
that also sees the arm. The embedded model is asked to point to one object, by its name as a person
would say it, again and again through the real `Grounder`; each answer arrives `--delay` seconds
after the frame that it speaks of. The real `Tracker` carries it to each new frame and lifts it to
metres, and the surest target of a frame is all that the controller (`simulation/reaching.py`) gets,
20 ms after the frame was taken, beside the arm's own joints. Everything happens in simulated time:
no trial depends on how fast the machine is.

- Reached: the fingertip is within 2 cm of the object's surface for half a second on end, within
  5 s. The object has weight and friction: pushed away, it is away.
- Model right: the surest point of the first answer lies on the asked object (within 3 px of one of
  its pixels). Only these trials count for what was reached; the others end there.
- Uncompensated: the place on the answered frame is handed over when the answer arrives, as if it
  were of that moment: what a robot gets from a node that publishes answers as they come. The
  controller still makes a velocity of successive places.
- Stamped: the same, but under the stamp of the answered frame, so that the controller's own model
  of motion can carry it on: what a careful robot makes of such a node.

Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.report import publish, share_interval  # noqa: E402
from molmo2_ros.answers.answer import Answer  # noqa: E402
from molmo2_ros.camera.clip import Clip  # noqa: E402
from molmo2_ros.grounder import Grounder  # noqa: E402
from molmo2_ros.prompt.query import Query, QueryKind  # noqa: E402
from molmo2_ros.ros.markers import best_target  # noqa: E402
from molmo2_ros.ros.parameters import GroundingParameters  # noqa: E402
from molmo2_ros.runtime.engine import load_engine  # noqa: E402
from molmo2_ros.simulation.physics import STEP_S  # noqa: E402
from molmo2_ros.simulation.reach import ReachTable, camera_from_foot  # noqa: E402
from molmo2_ros.simulation.reaching import Reacher  # noqa: E402
from molmo2_ros.simulation.source import TableFrame  # noqa: E402
from molmo2_ros.simulation.world import World  # noqa: E402
from molmo2_ros.tracking.depth import lift  # noqa: E402
from molmo2_ros.tracking.target import Target  # noqa: E402
from molmo2_ros.tracking.tracker import Tracker  # noqa: E402

TICK_STEPS = 5  # of the physics; the controller's period, 20 ms
FRAME_TICKS = 5  # 100 ms
LIMIT_S = 5.0
NEAR_M, HOLD_S = 0.02, 0.5
BESIDE_PX = 3
LOT = 10  # trials that share their shapes and textures
SHOWN = GroundingParameters()
COMPENSATED, UNCOMPENSATED, STAMPED = "compensated", "uncompensated", "stamped"
CASES = (
    ("still", 0.0, COMPENSATED),
    ("conveyor_5", 0.05, COMPENSATED),
    ("conveyor_10", 0.10, COMPENSATED),
    ("still_uncompensated", 0.0, UNCOMPENSATED),
    ("conveyor_5_uncompensated", 0.05, UNCOMPENSATED),
    ("conveyor_10_uncompensated", 0.10, UNCOMPENSATED),
    ("conveyor_10_stamped", 0.10, STAMPED),
)


_grounder: Grounder  # of this process


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a trial came to."""

    is_right: bool  # the model's first answer
    is_reached: bool = False
    time_s: float = 0.0  # at the end of the half second
    label: str = ""


class Model:
    """The real Grounder, whose answers arrive late: asked anew about the newest frame each time."""

    def __init__(self, grounder: Grounder, words: str, delay_s: float) -> None:
        self._grounder = grounder
        self._query = Query(name="asked", kind=QueryKind.POINT, words=words)
        self._delay_s = delay_s
        self._asked: tuple[float, TableFrame] | None = None

    @property
    def is_free(self) -> bool:
        """Nothing is being answered."""
        return self._asked is None

    def ask(self, time_s: float, table: TableFrame) -> None:
        """Begin to answer about the newest frame."""
        self._asked = (time_s, table)

    def answer(self, time_s: float) -> tuple[Answer, TableFrame] | None:
        """The answer that arrives by now, if one does, and the frame that it speaks of."""
        if self._asked is None or time_s < self._asked[0] + self._delay_s - 1e-6:
            return None
        (_, table), self._asked = self._asked, None
        return self._grounder.answer(Clip((table.frame,)), self._query), table


class Trial:
    """One table from its beginning to the touch, or to its end."""

    def __init__(
        self, grounder: Grounder, world: World, seed: int, speed: float, way: str, delay_s: float
    ) -> None:
        direction = 1 if seed % 2 else -1
        self._table = ReachTable(seed, belt_speed=direction * speed, world=world)
        self._label = self._table.objects[0].label
        self._model = Model(grounder, f"the {self._label}", delay_s)
        self._tracker = Tracker()
        self._reacher = Reacher(*camera_from_foot())
        self._way = way
        self._waiting: list[tuple[int, int, tuple[float, float, float]]] = []
        self._is_right: bool | None = None

    def run(self) -> Outcome:
        """Everything, tick by tick."""
        physics, held_s = self._table.physics, 0.0
        for tick in range(round(LIMIT_S / (TICK_STEPS * STEP_S))):
            if tick % FRAME_TICKS == 0:
                self._look(tick)
            self._take_answer(tick)
            if self._is_right is False:
                return Outcome(is_right=False, label=self._label)
            self._control(tick)
            physics.advance(TICK_STEPS)
            held_s = held_s + TICK_STEPS * STEP_S if self._table.gap_m() <= NEAR_M else 0.0
            if held_s > HOLD_S - 1e-6:
                return Outcome(
                    is_right=True, is_reached=True, time_s=physics.time_s, label=self._label
                )
        return Outcome(is_right=bool(self._is_right), label=self._label)

    def _look(self, tick: int) -> None:
        """A camera frame; without compensation, only those that the model reads matter."""
        if self._way != COMPENSATED and not self._model.is_free:
            return
        time_s = self._table.physics.time_s
        table = self._table.look(round(time_s * 1e9))
        targets = [
            target
            for target in self._tracker.update(table.frame)
            if target.age_s <= SHOWN.target_max_age_s and target.quality >= SHOWN.min_quality
        ]
        best = best_target(targets)
        if self._way == COMPENSATED and best is not None and best.point_m is not None:
            self._waiting.append((tick + 1, best.stamp_ns, best.point_m))
        if self._model.is_free:
            self._model.ask(time_s, table)

    def _take_answer(self, tick: int) -> None:
        time_s = self._table.physics.time_s
        arrived = self._model.answer(time_s)
        if arrived is None:
            return
        answer, table = arrived
        rows = self._tracker.measure(answer, 1)
        surest = max(rows, key=lambda row: np.nan_to_num(row.confidence), default=None)
        if self._is_right is None:
            self._is_right = surest is not None and _is_on_asked(table, surest)
        if self._way == COMPENSATED or surest is None:
            return
        sighting = lift(table.frame, surest.u, surest.v)
        if sighting is not None:
            stamp_ns = table.frame.stamp_ns if self._way == STAMPED else round(time_s * 1e9)
            self._waiting.append((tick + 1, stamp_ns, sighting.point_m))

    def _control(self, tick: int) -> None:
        physics = self._table.physics
        self._reacher.feel(physics.drives.angles, physics.time_s)
        for due, stamp_ns, point_m in self._waiting:
            if due == tick:
                self._reacher.see(np.array(point_m), stamp_ns / 1e9)
        physics.command(self._reacher.command(physics.time_s))


def _is_on_asked(table: TableFrame, target: Target) -> bool:
    """A pixel of the asked object lies within BESIDE_PX of the target's place."""
    column, row = round(target.u), round(target.v)
    near = table.instances[
        max(0, row - BESIDE_PX) : row + BESIDE_PX + 1,
        max(0, column - BESIDE_PX) : column + BESIDE_PX + 1,
    ]
    return bool((near == 1).any())


def prepare() -> None:
    """Each process has an engine of its own, and one thread."""
    global _grounder
    cv2.setNumThreads(1)
    _grounder = Grounder(load_engine(threads=1))


def run_lot(case: tuple[str, float, str], seeds: Sequence[int], delay_s: float) -> list[Outcome]:
    """Trials of one case on tables that share their stock of shapes and textures."""
    world = World(seeds[0], variants=1)
    return [Trial(_grounder, world, seed, *case[1:], delay_s).run() for seed in seeds]


def row_of(case: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A line of the table."""
    right = [outcome for outcome in outcomes if outcome.is_right]
    reached = [outcome for outcome in right if outcome.is_reached]
    share = len(reached) / max(len(right), 1)
    low, high = share_interval(share, len(right))
    return {
        "case": case,
        "trials": len(outcomes),
        "model_right": len(right),
        "reached": len(reached),
        "share": round(share, 4),
        "low": round(low, 3),
        "high": round(high, 3),
        "median_s": round(float(np.median([o.time_s for o in reached])), 2) if reached else 0.0,
        "missed": ", ".join(o.label for o in right if not o.is_reached),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, help="of each case")
    parser.add_argument("--delay", type=float, default=0.5, help="seconds from frame to answer")
    parser.add_argument("--seed", type=int, default=1000, help="of the first table")
    parser.add_argument("--cases", nargs="*", default=[case for case, *_ in CASES])
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    wanted = [case for case in CASES if case[0] in options.cases]
    seeds = range(options.seed, options.seed + options.trials)
    lots = [
        (case, list(seeds[start : start + LOT]), options.delay)
        for start in range(0, len(seeds), LOT)
        for case in wanted
    ]
    with ProcessPoolExecutor(options.jobs, initializer=prepare) as pool:
        done = []
        for (case, lot, _), outcomes in zip(
            lots, pool.map(run_lot, *zip(*lots, strict=True)), strict=True
        ):
            done.append(outcomes)
            row = row_of(case[0], outcomes)
            told = f"{row['reached']} of {row['model_right']}, missed: {row['missed'] or 'none'}"
            print(f"{case[0]}, seeds {lot[0]} to {lot[-1]}: {told}", file=sys.stderr, flush=True)
    rows = []
    for case in wanted:
        lots_of_case = [lot for (of, *_), lot in zip(lots, done, strict=True) if of == case]
        rows.append(row_of(case[0], [outcome for lot in lots_of_case for outcome in lot]))
    compensated = [row for row in rows if "_u" not in row["case"] and "_s" not in row["case"]]
    num_trials = sum(row["trials"] for row in compensated)
    figures = {row["case"]: row["share"] for row in rows}
    if num_trials:
        right = sum(row["model_right"] for row in compensated)
        figures["model_right"] = round(right / num_trials, 4)
    publish(
        "bench_reach",
        rows,
        packages=["numpy", "opencv-python-headless", "scipy", "mujoco-core", "onnxruntime"],
        settings={"trials": options.trials, "delay_s": options.delay, "seeds": list(seeds)},
        figures=figures,
        equality={},
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
