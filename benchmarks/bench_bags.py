"""How fast robot logs become clips: pictures a second of one core, and 20 bags on two cores by Ray.

python -m benchmarks.bench_bags [--json] [--seconds 20] [--bags 20]

Bags of VGA pictures, raw (rgb8) and JPEG, are written first. `from-bag` without labels then reads
them with one thread: as it samples by default (2 a second of a 30 Hz camera), and keeping every
picture, which is the most work that a bag can make. The figure is the slower kind of bag with every
picture kept. For Ray the same bags are done by one worker and by two, in turn; both start Ray, not
timed. The speed-up is told where nothing else ran: before each run the cores are watched.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.recorded_bags import NS, START_NS, TOPIC, Message, jpeg, raw, scene, write_bag
from benchmarks.report import publish
from molmo2_ros.training.logs.from_bags import BagJob, BagOutcome, by_ray, from_bag
from molmo2_ros.training.logs.sampling import ClipSettings
from molmo2_ros.training.logs.spoken import LogTopics

VGA = (640, 480)
CAMERA_HZ = 30.0
ROUNDS = 3  # of one and of two workers, in turn
IDLE_CORES = 0.15  # of others' work beside a run; with more of it two workers have no two cores
ALL_HZ = 10.0  # the densest that is kept: a camera of this rate is kept whole
KINDS = {"rgb8": raw, "jpeg": jpeg}


def film(make: Any, num: int, rate_hz: float, seed: int) -> Iterator[Message]:
    """Pictures with a moving square and the noise of a sensor, as a camera publishes them."""
    noise = np.random.default_rng(seed).normal(0, 3, (8, VGA[1], VGA[0], 3))
    for step in range(num):
        image = np.clip(scene(step, VGA, 6) + noise[step % 8], 0, 255).astype(np.uint8)
        stamp_ns = START_NS + round(step * NS / rate_hz)
        yield TOPIC, stamp_ns, *make(image, stamp_ns)


def job(bag: Path, out: Path, fps: float) -> BagJob:
    """One bag, kept as a whole for training."""
    clips = ClipSettings(fps=fps, held_out=0.0)
    return BagJob(bag=bag, topics=LogTopics(image=TOPIC), out=out, clips=clips)


def checked(outcome: BagOutcome) -> BagOutcome:
    """An outcome without errors."""
    assert outcome.report is not None, outcome.error
    assert not outcome.report.skips["counts"], outcome.report.skips
    return outcome


def one_core(bags: dict[str, Path], folder: Path, fps: float, case: str) -> list[dict[str, Any]]:
    """Rows of each kind of bag: pictures read and kept a second."""
    rows = []
    for kind, bag in bags.items():
        rates = []
        for number in range(3):
            out = folder / f"{case}_{kind}_{number}"
            started = time.process_time(), time.perf_counter()
            report = checked(from_bag(job(bag, out, fps))).report
            spent_s = time.process_time() - started[0], time.perf_counter() - started[1]
            assert report is not None
            rates.append(report.num_images / max(spent_s))
            shutil.rmtree(out)
        rows.append(
            {
                "case": f"{kind}, {case}",
                "median": round(float(np.median(rates)), 1),
                "worst": round(min(rates), 1),
                "kept": report.num_kept,
                "n": len(rates),
                "unit": "pictures/s",
            }
        )
    return rows


def shared_out(bags: list[Path], folder: Path, workers: int) -> tuple[float, dict[str, bytes]]:
    """Seconds for all bags with so many workers of Ray's, and what was made."""
    import ray

    out = folder / f"ray_{workers}"
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=40)
    try:
        warm = [job(bags[0], folder / f"warm_{workers}_{n}", ALL_HZ) for n in range(workers)]
        assert len(list(by_ray(warm, workers))) == workers
        started = time.perf_counter()
        for outcome in by_ray([job(bag, out, ALL_HZ) for bag in bags], workers):
            checked(outcome)
        spent_s = time.perf_counter() - started
    finally:
        ray.shutdown()
    files = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    shutil.rmtree(out)
    return spent_s, files


def busy_cores(for_s: float = 1.0) -> float:
    """How many cores others keep busy while this process waits."""

    def read() -> list[int]:
        with open("/proc/stat", encoding="ascii") as file:
            return [int(value) for value in file.readline().split()[1:9]]

    before = read()
    time.sleep(for_s)
    spent = [after - earlier for after, earlier in zip(read(), before, strict=True)]
    idle = spent[3] + spent[4]  # idle, and waiting for a disk
    return (1 - idle / sum(spent)) * (os.cpu_count() or 1)


def main() -> None:
    """Write bags, read them, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=20.0, help="of film in a bag")
    parser.add_argument("--bags", type=int, default=20, help="for Ray")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    with tempfile.TemporaryDirectory(prefix="bench_bags_") as name:
        folder = Path(name)
        num = round(options.seconds * ALL_HZ)
        whole = {
            kind: write_bag(folder / kind, film(make, num, ALL_HZ, 0))
            for kind, make in KINDS.items()
        }
        num = round(options.seconds * CAMERA_HZ)
        fast = {
            kind: write_bag(folder / f"{kind}_fast", film(make, num, CAMERA_HZ, 0))
            for kind, make in KINDS.items()
        }
        rows = one_core(whole, folder, ALL_HZ, "every picture kept")
        kept_rates = [row["median"] for row in rows]
        rows += one_core(fast, folder, 2.0, "2 of 30 a second kept")
        shutil.rmtree(folder / "rgb8_fast")
        many = [shutil.copytree(whole["jpeg"], folder / f"bag_{n}") for n in range(options.bags)]
        seconds: dict[int, list[float]] = {1: [], 2: []}
        made: list[dict[str, bytes]] = []
        busy = []
        for _ in range(ROUNDS):
            for workers, spent in seconds.items():
                busy.append(busy_cores())
                spent_s, files = shared_out(many, folder, workers)
                spent.append(spent_s)
                made.append(files)
    is_equal = all(files == made[0] for files in made)
    is_idle = float(np.median(busy)) <= IDLE_CORES
    rows += [
        {"case": f"{options.bags} bags, {n} of Ray's workers", "median": round(np.median(s), 2),
         "worst": round(max(s), 2), "kept": len(made[0]), "n": ROUNDS, "unit": "s"}
        for n, s in seconds.items()
    ]  # fmt: skip
    figures = {"from_bag_frames_per_s_core": min(kept_rates)}
    if is_equal and is_idle:
        one_s, two_s = (float(np.median(spent)) for spent in seconds.values())
        figures["ray_speedup_20_bags"] = round(one_s / two_s, 3)
    publish(
        "bags",
        rows,
        packages=("rosbags", "ray", "opencv-python-headless", "numpy"),
        settings={"size": list(VGA), "seconds": options.seconds, "bags": options.bags},
        figures=figures,
        equality={
            "both numbers of workers wrote the same files": is_equal,
            "cores that others kept busy, median": round(float(np.median(busy)), 2),
        },
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
