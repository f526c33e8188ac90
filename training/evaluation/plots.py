"""Plots of scored questions: by size, visible fraction and speed, of confidence, of distances."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molmo2_ros.training.evaluation.figures import (
    ATTRIBUTES,
    Attribute,
    bar,
    binned,
    bins_of,
    by_main,
    known,
)
from molmo2_ros.training.evaluation.scoring import Scored
from molmo2_ros.training.evaluation.truth import NEAR
from molmo2_ros.training.metrics import calibration_error

_BLUE, _GREY = "#2f6fb7", "#888888"
_LABEL = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
_F1 = ("pointing_f1", "video_pointing_f1", "tracking_f1")
_FARTHEST = 0.5  # diagonals; what is farther stands in the last bar


def write_plots(folder: Path, title: str, scored: Sequence[Scored]) -> list[Path]:
    """Draw what there is to draw; a plot without a case is not made.

    Args:
        folder: of the PNGs.
        title: what was measured on what.
        scored: the questions.
    """
    from matplotlib.figure import Figure  # matplotlib takes a second to import

    made = []
    for name, draw in (
        *((f"by_{a.name}", lambda f, a=a: _by_attribute(f, scored, a)) for a in ATTRIBUTES),
        ("reliability", lambda f: _reliability(f, scored)),
        ("distances", lambda f: _distances(f, scored)),
    ):
        figure = Figure(figsize=(4.6, 3.4), dpi=130, layout="constrained")
        if draw(figure):
            figure.suptitle(title, fontsize=8, color=_GREY)
            figure.savefig(folder / f"{name}.png")
            made.append(folder / f"{name}.png")
    return made


def _by_attribute(figure: Any, scored: Sequence[Scored], attribute: Attribute) -> bool:
    """One panel for each F1, a bar for each bin, with its 95 % interval."""
    panels = [
        (main, [bar(title, chosen) for title, chosen in binned(asked, attribute)])
        for main, asked in by_main(scored).items()
        if main in _F1
    ]
    panels = [(main, bars) for main, bars in panels if bars]
    if not panels:
        return False
    figure.set_size_inches(4.6 * len(panels), 3.4)
    for axes, (main, bars) in zip(
        np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels, strict=True
    ):
        values = np.array([b.value for b in bars])
        ends = np.array([(b.low, b.high) for b in bars]).T
        places = np.arange(len(bars))
        axes.bar(places, values, color=_BLUE, width=0.7)
        axes.errorbar(
            places, values, yerr=abs(ends - values), fmt="none", ecolor="black", capsize=3
        )
        for place, each in zip(places, bars, strict=True):
            axes.text(place, 0.02, f"n={each.num}", ha="center", fontsize=7, bbox=_LABEL)
        labels = [each.title.replace(" and more", "+") for each in bars]
        axes.set_xticks(places, labels, fontsize=7, rotation=20, ha="right")
        axes.set_xlabel(f"{attribute.name}, {attribute.unit}", fontsize=8)
        axes.set_title(f"{main}, mean and 95 % interval", fontsize=9)
        _tidy(axes)
    return True


def _reliability(figure: Any, scored: Sequence[Scored]) -> bool:
    """Share of right points over confidence; the area of a dot is the number of its points."""
    judged = known(point for one in scored for point in one.judged)
    if not judged:
        return False
    bins = bins_of(judged)
    axes = figure.subplots()
    axes.plot(
        [0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--", label="as confident as right"
    )
    foretold, came = [b.foretold for b in bins], [b.came for b in bins]
    sizes = np.array([b.num for b in bins]) / len(judged)
    axes.plot(foretold, came, color=_BLUE, linewidth=1)
    axes.scatter(foretold, came, s=20 + 300 * sizes, color=_BLUE, zorder=3)
    axes.set_xlabel("confidence", fontsize=8)
    axes.set_ylabel("share of points that are right", fontsize=8)
    error = calibration_error(bins)
    axes.set_title(f"{len(judged)} points, calibration error {error:.3f}", fontsize=9)
    axes.set_xlim(0, 1)
    axes.legend(fontsize=7, loc="lower right", frameon=False)
    _tidy(axes)
    return True


def _distances(figure: Any, scored: Sequence[Scored]) -> bool:
    """How far answered points lie from the true ones that they are paired with."""
    distances = np.array([distance for one in scored for distance in one.distances])
    if not distances.size:
        return False
    axes = figure.subplots()
    edges = np.linspace(0, _FARTHEST, 41)
    weights = np.full(len(distances), 1 / len(distances))
    axes.hist(np.minimum(distances, _FARTHEST), bins=edges, weights=weights, color=_BLUE)
    axes.axvline(NEAR, color=_GREY, linestyle="--", linewidth=1)
    axes.text(NEAR + 0.005, axes.get_ylim()[1] * 0.93, f"{100 * NEAR:g} %", fontsize=7, color=_GREY)
    axes.set_xlabel(
        f"distance, diagonals of the picture (from {_FARTHEST:g} on: last bar)", fontsize=8
    )
    axes.set_ylabel("share of pairs", fontsize=8)
    axes.set_title(f"{len(distances)} pairs, median {np.median(distances):.3f}", fontsize=9)
    axes.set_xlim(0, _FARTHEST)
    axes.tick_params(labelsize=7)
    return True


def _tidy(axes: Any) -> None:
    axes.set_ylim(0, 1.05)
    axes.tick_params(labelsize=7)
    axes.grid(axis="y", linewidth=0.4)
    axes.set_axisbelow(True)
