"""Carrying targets by optical flow: CPU time of each step, and pixels of error against the truth.

`python benchmarks/flow.py [--json]`. Times are CPU time of one thread, which a busy machine
does not change; errors are those of points that are half a second old when they arrive.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.report import publish, spread  # noqa: E402
from molmo2_ros.answers.answer import Answer, AnsweredPoint  # noqa: E402
from molmo2_ros.camera.frame import Frame  # noqa: E402
from molmo2_ros.prompt.query import Query, QueryKind  # noqa: E402
from molmo2_ros.tracking.flow import seed  # noqa: E402
from molmo2_ros.tracking.grey import GreyFrame  # noqa: E402
from molmo2_ros.tracking.replay import Start, replay  # noqa: E402
from molmo2_ros.tracking.tracker import Tracker  # noqa: E402

RATE_HZ = 30.0
SPEED_PX_S = np.array([220.0, -90.0])
NUM_TARGETS = 20
DELAY_FRAMES = 15
QUERY = Query(name="q", kind=QueryKind.POINT, words="things")


def plane(width: int, height: int) -> npt.NDArray[np.uint8]:
    """A textured plane, larger than a view."""
    rng = np.random.default_rng(0)
    total = np.zeros((height + 500, width + 700, 3), np.float32)
    for sigma in (1.5, 4, 12, 40):
        noise = rng.standard_normal(total.shape).astype(np.float32)
        layer = cv2.GaussianBlur(noise, (0, 0), sigma)
        total += layer / layer.std()
    return np.clip(128 + 22 * total, 0, 255).astype(np.uint8)


def stream(width: int, height: int, num_frames: int) -> list[Frame]:
    """A camera that pans over the plane, with noise."""
    texture = plane(width, height)
    noise = np.random.default_rng(1).normal(0, 2, (height, width, 3)).astype(np.float32)
    frames = []
    for index in range(num_frames):
        shift = SPEED_PX_S * index / RATE_HZ - (500, 200)
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
        view = cv2.warpAffine(texture, matrix, (width, height)).astype(np.float32)
        view += np.roll(noise, 7919 * index)
        image = np.clip(view, 0, 255).astype(np.uint8)
        frames.append(Frame(image=image, stamp_ns=round(index * 1e9 / RATE_HZ)))
    return frames


def cpu_ms(case: str, function: Callable[[], object], num_runs: int) -> dict[str, Any]:
    """One row of the table."""
    function()
    spent = []
    for _ in range(num_runs):
        started = time.thread_time()
        function()
        spent.append((time.thread_time() - started) * 1e3)
    return spread(case, spent, "CPU ms")


def places(width: int, height: int) -> npt.NDArray[np.float64]:
    """Where the targets are in the first frame, pixels; all stay in view."""
    rng = np.random.default_rng(2)
    return rng.uniform((60, 0.35 * height), (width - 220, height - 60), (NUM_TARGETS, 2))


def answer(frame: Frame, pixels: npt.NDArray[np.float64]) -> Answer:
    """What a model would say of a frame."""
    points = tuple(
        AnsweredPoint(object_id=i, time_s=0.0, x=u / frame.width, y=v / frame.height)
        for i, (u, v) in enumerate(pixels, 1)
    )
    return Answer(query=QUERY, text="", stamps_ns=(frame.stamp_ns,), points=points)


def measure(name: str, frames: list[Frame], num_runs: int) -> list[dict[str, Any]]:
    """CPU time of an update, of seeding, and of bringing an old answer to now."""
    first, pixels = frames[0], places(frames[0].width, frames[0].height)
    tracker = Tracker()
    tracker.update(first)
    tracker.measure(answer(first, pixels), 1)
    following = iter(frames[1:])
    grey = [GreyFrame.of(frame) for frame in frames[: DELAY_FRAMES + 1]]
    starts = [Start(stamp_ns=first.stamp_ns, u=u, v=v) for u, v in pixels]
    num_updates = min(num_runs, len(frames) - 2)
    return [
        cpu_ms(f"{name}: update, 20 targets", lambda: tracker.update(next(following)), num_updates),
        cpu_ms(
            f"{name}: seed 20 targets", lambda: seed(grey[0], grey[0].to_grey(pixels)), num_runs
        ),
        cpu_ms(
            f"{name}: replay 20 targets over 0.5 s", lambda: replay(starts, grey), num_runs // 4
        ),
    ]


def errors_px(frames: list[Frame]) -> dict[str, float]:
    """Error of half a second old answers, carried to now and as they came."""
    carried, stale = [], []
    pixels = places(frames[0].width, frames[0].height)
    tracker = Tracker()
    for frame in frames[: DELAY_FRAMES + 1]:
        tracker.update(frame)
    tracker.measure(answer(frames[0], pixels), 1)
    truth = pixels + SPEED_PX_S * DELAY_FRAMES / RATE_HZ
    for target in tracker.targets():
        true = truth[target.track_id - 1]
        carried.append(np.hypot(target.u - true[0], target.v - true[1]))
        stale.append(np.linalg.norm(pixels[target.track_id - 1] - true))
    return {
        "targets_carried": len(carried),
        "median_error_px": round(float(np.median(carried)), 3),
        "p95_error_px": round(float(np.percentile(carried, 95)), 3),
        "uncompensated_error_px": round(float(np.median(stale)), 1),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    vga, hd = stream(640, 480, 50), stream(1280, 720, 50)
    rows = [*measure("640x480", vga, options.runs), *measure("1280x720", hd, options.runs)]
    publish(
        "flow",
        rows,
        packages=["numpy", "opencv-python-headless"],
        settings={"runs": options.runs, "targets": NUM_TARGETS, "speed_px_s": SPEED_PX_S.tolist()},
        figures={"update_cpu_ms": rows[0]["median"], **errors_px(vga)},
        equality={},
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
