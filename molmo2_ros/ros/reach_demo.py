"""The arm as a demonstration: three nodes as processes, told what to touch, filmed and judged.

python -m molmo2_ros.ros.reach_demo [--object "red mug"] [--belt 0.05]
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from molmo2_ros.errors import Molmo2Error
from molmo2_ros.ros.demo_process import (
    DemoProcess,
    prepare_environment,
    ros_arguments,
    watch,
)
from molmo2_ros.ros.reach_watch import ReachWatcher
from molmo2_ros.simulation.reach import named_object

_AFTERWARDS_S = 3.0  # filmed after the touch
_START_PATIENCE_S = 180.0  # a busy machine; the first answer usually takes some seconds


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration.

    Returns:
        0 if the fingertip touched what was asked for; 1 if not, or where a process died; 2 for bad
        input; 130 for Ctrl-C.
    """
    wanted = _parser().parse_args(arguments)
    try:
        named_object(wanted.object)
    except Molmo2Error as error:
        print(f"reach: {error}", file=sys.stderr)
        return 2
    if not Path(wanted.output).is_dir():
        print(f"reach: --output {wanted.output} is no folder; make it first", file=sys.stderr)
        return 2
    interrupted: list[int] = []
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: interrupted.append(1))
    prepare_environment()
    query = wanted.query or f"point: the {wanted.object}"
    watcher = ReachWatcher(wanted.object, query, Path(wanted.output))
    with tempfile.TemporaryDirectory(prefix="molmo2_reach_") as folder:
        processes = _start(wanted, query, Path(folder))
        try:
            look = partial(_end, watcher, wanted.seconds)
            problem = watch(watcher.join, processes, look, interrupted)
        finally:
            died = [process.end() for process in processes]
            watcher.close()
    for trouble in filter(None, [problem] if problem or interrupted else died):
        print(f"reach: {trouble}", file=sys.stderr)
        problem = trouble
    for path in watcher.files:
        print(f"reach: wrote {path}", file=sys.stderr, flush=True)
    print(watcher.summary, flush=True)
    if interrupted:
        return 130
    return 0 if watcher.touched_at is not None and not problem else 1


def _start(wanted: argparse.Namespace, query: str, logs: Path) -> list[DemoProcess]:
    table = ros_arguments(
        source="reach",
        reach_object=wanted.object,
        belt_speed=wanted.belt,
        table_seed=wanted.seed,
    )
    return [
        DemoProcess("camera_node", table, logs),
        DemoProcess("grounding_node", ros_arguments(engine=wanted.engine, queries=[query]), logs),
        DemoProcess("arm_node", [*ros_arguments(), "-r", "target:=grounding/target"], logs),
    ]


def _end(watcher: ReachWatcher, seconds: float, since_s: float) -> str | None:
    """Whether the demonstration is over, as `watch` asks."""
    if watcher.refusal:
        return watcher.refusal
    if watcher.answered_at is None:
        return f"no answer in {_START_PATIENCE_S:.0f} s" if since_s > _START_PATIENCE_S else None
    now = time.monotonic()
    if watcher.touched_at is not None and now - watcher.touched_at > _AFTERWARDS_S:
        return ""
    return "" if now - watcher.answered_at > seconds else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m molmo2_ros.ros.reach_demo",
        description="Let a simulated arm touch what a question asks for, over real ROS 2.",
    )
    parser.add_argument("--object", default="red mug", help="what stands within the arm's reach")
    parser.add_argument("--query", help='what is asked (default: "point: the OBJECT")')
    parser.add_argument("--belt", type=float, default=0.0, help="m/s of the belt under it; 0: none")
    parser.add_argument("--seed", type=int, default=2, help="which table")
    parser.add_argument("--engine", default="nano", help="engine folder (default: nano)")
    parser.add_argument(
        "--seconds", type=float, default=40.0, help="at most, from the first answer on"
    )
    parser.add_argument("--output", default=".", help="folder of reach.mp4 and reach.png")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
