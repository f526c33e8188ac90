"""Bags become datasets: on this core, or on many by Ray Data, on one machine or a cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2

from molmo2_ros.errors import ConfigError, DataError, Molmo2Error
from molmo2_ros.training.logs.label_log import LabelSettings, label_log
from molmo2_ros.training.logs.labellers import LabelWish
from molmo2_ros.training.logs.sample_bag import LogReport, sample_bag
from molmo2_ros.training.logs.sampling import ClipSettings
from molmo2_ros.training.logs.spoken import LogTopics

_log = logging.getLogger(__name__)
_RETRIES = 3  # of a bag whose worker was killed
_DIED = (
    f"its worker died {_RETRIES + 1} times, or failed in a way that Ray's log names; where memory "
    "ran out give fewer --workers, else --workers 1 to see the failure"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BagJob:
    """All that a worker is told: it may run on another machine that sees the same files.

    Args:
        bag: absolute path of a bag's folder or file.
        topics: what of it is read.
        out: absolute path of the datasets' folder.
        clips: how clips are made.
        wishes: who labels what.
        labels: how clips are labelled.
    """

    bag: Path
    topics: LogTopics
    out: Path
    clips: ClipSettings = ClipSettings()
    wishes: tuple[LabelWish, ...] = ()
    labels: LabelSettings = LabelSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class BagOutcome:
    """What became of one job.

    Args:
        bag: its path.
        topic: of the camera.
        report: None where nothing could be made of it.
        labels: clips by what came of their labels.
        error: why there is no report, or why it was not labelled.
    """

    bag: str
    topic: str
    report: LogReport | None = None
    labels: dict[str, int] | None = None
    error: str = ""


def from_bag(job: BagJob) -> BagOutcome:
    """Make clips of one camera of one bag and label them; goes on where an earlier run stood.

    Bad input is told in the outcome: one bag costs no other.
    """
    report: LogReport | None = None
    labels: dict[str, int] | None = None
    error = ""
    try:
        report = sample_bag(job.bag, job.topics, job.out, job.clips)
        labels = label_log(job.out, report.key, job.wishes, job.labels)
    except Molmo2Error as problem:
        error = f"{type(problem).__name__}: {problem}"
        _log.error("%s: %s", job.bag, error)
    return BagOutcome(
        bag=str(job.bag), topic=job.topics.image, report=report, labels=labels, error=error
    )


def from_bags(jobs: Sequence[BagJob], *, workers: int = 1) -> Iterator[BagOutcome]:
    """Do all jobs.

    Args:
        jobs: in any order; those that were done before cost nothing.
        workers: cores; with more than one, or where RAY_ADDRESS names a cluster, Ray Data does it.

    Yields:
        the outcomes, in the order in which they come.

    Raises:
        ConfigError: Ray is wanted and not installed, or `workers` is below 1.
        DataError: two jobs are the same.
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}, expected at least 1")
    seen: set[tuple[Path, str]] = set()
    for job in jobs:
        place = (job.bag.resolve(), job.topics.image)
        if place in seen:
            raise DataError(f"bag {job.bag} with topic {job.topics.image} is given twice")
        seen.add(place)
    if workers == 1 and "RAY_ADDRESS" not in os.environ:
        yield from map(from_bag, jobs)
    else:
        yield from by_ray(jobs, workers)


def by_ray(jobs: Sequence[BagJob], workers: int) -> Iterator[BagOutcome]:
    """Share jobs out over Ray's workers; one that dies is replaced, and its bag taken up again.

    A Ray that runs already is used as it is.

    Raises:
        ConfigError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "several workers need the package ray, which is not installed; "
            '`pip install "ray[data]"`, or give --workers 1'
        ) from error
    was_running = ray.is_initialized()
    if not was_running:
        on_cluster = "RAY_ADDRESS" in os.environ
        ray.init(
            num_cpus=None if on_cluster else workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # a bag whose worker dies each time costs no other
        rows = ray.data.from_items(list(jobs), override_num_blocks=len(jobs))
        # A worker that dies takes no other bag with it, and its own is taken up where it was.
        cores = float(ray.cluster_resources().get("CPU", 0.0))
        pool = ray.data.TaskPoolStrategy(size=_handed_out(len(jobs), workers, cores))
        # Else no bag is handed out for which no core is free.
        context.op_resource_reservation_enabled = False
        done = rows.map(_row, num_cpus=1, compute=pool, max_retries=_RETRIES)
        left = dict.fromkeys((str(job.bag), job.topics.image) for job in jobs)
        for row in done.iter_rows():
            outcome = BagOutcome(**_read(row))
            left.pop((outcome.bag, outcome.topic), None)
            yield outcome
        for bag, topic in left:
            yield BagOutcome(bag=bag, topic=topic, error=_DIED)
    finally:
        if not was_running:
            ray.shutdown()


def _handed_out(num_jobs: int, workers: int, cores: float) -> int:
    """How many bags Ray has at once.

    Ray Data looks for what is done ten times a second, and a worker without a next bag would wait
    for that. Where Ray has no more cores than workers are wanted, those cores bound what runs and
    as many bags again may wait for them; elsewhere only this number bounds it.
    """
    ahead = workers if cores <= workers else 0
    return max(1, min(workers + ahead, num_jobs))


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """One job in a worker of Ray's."""
    cv2.setNumThreads(1)  # the other cores have their own workers
    return {"outcome": asdict(from_bag(row["item"]))}


def _read(row: dict[str, Any]) -> dict[str, Any]:
    found = dict(row["outcome"])
    report = found["report"]
    return {**found, "report": None if report is None else LogReport(**report)}
