"""A folder for people: plots, and a page of the answers that were worst."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import DataError
from molmo2_ros.training.evaluation.failures import (
    PAGE_FILE,
    SHEET_FILE,
    Failure,
    draw_sheet,
    draw_strip,
    failures_page,
)
from molmo2_ros.training.evaluation.plots import write_plots
from molmo2_ros.training.evaluation.scoring import Scored

NUM_FAILURES, MOST_OF_EXAMPLE = 8, 2  # shown of each main measure; of one example among them
_NUM_KEPT = 4 * NUM_FAILURES


class Report:
    """Takes questions as they are scored, and keeps the pictures of the worst alone.

    Args:
        folder: of its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._scored: list[Scored] = []
        # By main measure the worst; the best of them first, ready to be dropped.
        self._worst: dict[str, list[tuple[float, float, int, Failure]]] = {}
        self._number = itertools.count()

    def add(
        self, one: Scored, pictures: Sequence[npt.NDArray[np.uint8]], places: Sequence[float]
    ) -> None:
        """Take a question.

        Args:
            one: with its score.
            pictures: that the model read, uint8 [H, W, 3] RGB each.
            places: of each: seconds from the clip's first frame, or the image's number.
        """
        self._scored.append(one)
        if one.score >= 1.0:
            return
        worst = self._worst.setdefault(one.main, [])
        # Of equal scores the surest one is worst; the number keeps failures from being compared.
        order = (-one.score, _sureness(one), -next(self._number))
        if len(worst) == _NUM_KEPT and order < worst[0][:3]:
            return
        failure = Failure(scored=one, strip=draw_strip(one, pictures, places))
        push = heapq.heappush if len(worst) < _NUM_KEPT else heapq.heapreplace
        push(worst, (*order, failure))

    def write(self, title: str) -> list[Path]:
        """Draw all files.

        Args:
            title: what was measured on what.

        Raises:
            DataError: nothing was added, or the folder cannot be written to.
        """
        if not self._scored:
            raise DataError(f"nothing to report on in {self.folder}: no question was scored")
        failures = {
            main: _chosen(
                failure for *_, failure in sorted(worst, key=lambda w: w[:3], reverse=True)
            )
            for main, worst in self._worst.items()
        }
        page = self.folder / PAGE_FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            page.write_text("".join(failures_page(title, failures)), encoding="utf-8")
            files = [page]
            if failures:
                files.append(self.folder / SHEET_FILE)
                files[-1].write_bytes(draw_sheet(failures))
            return [*files, *write_plots(self.folder, title, self._scored)]
        except OSError as error:
            raise DataError(f"cannot write to {self.folder}: {error}") from error


def _chosen(worst: Iterable[Failure]) -> list[Failure]:
    """The first ones, few of any one example."""
    shown: Counter[str] = Counter()
    chosen: list[Failure] = []
    for failure in worst:
        shown[failure.scored.example] += 1
        if shown[failure.scored.example] <= MOST_OF_EXAMPLE and len(chosen) < NUM_FAILURES:
            chosen.append(failure)
    return chosen


def _sureness(one: Scored) -> float:
    sure = [point.confidence for point in one.judged if np.isfinite(point.confidence)]
    return float(np.mean(sure)) if sure else 0.0
