"""What `molmo2 data from-bag` does: all bags, the data sets of all, and what to tell of it."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from molmo2_ros.errors import DataError
from molmo2_ros.runtime.durable import replace_text
from molmo2_ros.training.logs.collect import write_data_sets
from molmo2_ros.training.logs.from_bags import BagJob, BagOutcome, from_bags
from molmo2_ros.training.logs.label_log import LabelSettings
from molmo2_ros.training.logs.labellers import make_labeller, parse_wish
from molmo2_ros.training.logs.records import cannot_write
from molmo2_ros.training.logs.sampling import ClipSettings
from molmo2_ros.training.logs.spoken import LogTopics

EXIT_PARTLY = 1  # some bags, or some topics of theirs, could not be used


def run(options: argparse.Namespace) -> int:
    """Do what the command line says.

    Returns:
        0, or 1 where a bag could not be used.

    Raises:
        ConfigError: a setting or a labeller that is not there.
        DataError: no bag at all could be used, or no space is left.
    """
    wishes = tuple(parse_wish(text) for text in options.label)
    for wish in wishes:
        if wish.name != "teacher":  # which is loaded by those who ask it
            make_labeller(wish)
    out = Path(options.out).absolute()
    jobs = [
        BagJob(
            bag=Path(bag).absolute(),
            topics=LogTopics(
                image=topic,
                answers=_topics(options.answers),
                corrections=_topics(options.corrections),
            ),
            out=out,
            clips=ClipSettings(
                fps=options.fps,
                clip_s=options.clip,
                near_duplicate=options.near_duplicate,
                held_out=options.held_out,
            ),
            wishes=wishes,
            labels=LabelSettings(every=options.every, max_clips=options.max_clips),
        )
        for bag in options.bag
        for topic in options.topic
    ]
    outcomes = []
    for outcome in from_bags(jobs, workers=options.workers):
        outcomes.append(outcome)
        print(_told(outcome), flush=True)
    if all(outcome.report is None for outcome in outcomes):
        raise DataError("; ".join(outcome.error for outcome in outcomes))
    sizes = write_data_sets(out, as_frames=options.as_frames)
    _write_report(out, outcomes)
    print("; ".join(f"{out / split}: {num} examples" for split, num in sizes.items()))
    return EXIT_PARTLY if any(outcome.error for outcome in outcomes) else 0


def _topics(given: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(given)


def _told(outcome: BagOutcome) -> str:
    """One line about a bag."""
    report = outcome.report
    if report is None:
        return f"{outcome.bag} {outcome.topic}: error: {outcome.error}"
    parts = [
        f"{report.num_clips} clips with {report.num_kept} of {report.num_images} pictures",
        f"{report.num_duplicates} dropped as near-duplicates",
    ]
    labels = Counter(outcome.labels or {})
    if labels.total():
        parts.append(", ".join(f"{num} clips {kind}" for kind, num in labels.items() if num))
    left_out = ", ".join(f"{num} x {kind}" for kind, num in report.skips["counts"].items())
    if left_out:
        parts.append(f"left out: {left_out}")
    if outcome.error:
        parts.append(f"error: {outcome.error}")
    return f"{outcome.bag} {outcome.topic}: {'; '.join(parts)}"


def _write_report(out: Path, outcomes: Sequence[BagOutcome]) -> None:
    path = out / "report.json"
    text = json.dumps([asdict(outcome) for outcome in outcomes], indent=1, ensure_ascii=False)
    try:
        replace_text(path, text + "\n")
    except OSError as error:
        raise cannot_write(path, error) from error
