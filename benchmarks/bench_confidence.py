"""Whether a confidence of 0.8 means right in eight of ten: calibration on scenes no fit has seen.

    python benchmarks/bench_confidence.py [--engine DIR] [--scenes 500] [--seed 0] [--json]
        [--plot docs/images/reliability.svg]

Every point that the engine gives on held-out scenes is judged by the scene's masks. The expected
calibration error (ECE) is the mean difference of confidence and share of right points in ten bins,
each weighed by its points: bins of equal width, and beside them (`mass`) of equal numbers. ECE of a
perfect engine is not 0 but what chance leaves in bins of so many points (`floor`: the mean over
outcomes drawn with the given confidences).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.report import publish, share_interval  # noqa: E402
from molmo2_ros.errors import Molmo2Error  # noqa: E402
from molmo2_ros.grounder import Grounder  # noqa: E402
from molmo2_ros.runtime.engine import NANO, load_engine  # noqa: E402
from molmo2_ros.training.calibrate import JudgedPoint, judged_points  # noqa: E402
from molmo2_ros.training.evaluation.context import show_progress  # noqa: E402
from molmo2_ros.training.evaluation.rendered import ask_held_out  # noqa: E402
from molmo2_ros.training.held_out import FIRST_FIT_SEED  # noqa: E402
from molmo2_ros.training.metrics import (  # noqa: E402
    ReliabilityBin,
    auroc,
    brier_score,
    calibration_error,
    reliability,
)

NUM_FLOOR_DRAWS = 200
KINDS = ("point", "point_all", "count", "track")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print the table, or the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, default=NANO)
    parser.add_argument("--scenes", type=int, default=500, help="stills")
    parser.add_argument("--clips", type=int, help="clips of 8 frames; default: a quarter")
    parser.add_argument("--seed", type=int, default=0, help=f"below {FIRST_FIT_SEED}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="reliability diagram, SVG")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    if options.seed >= FIRST_FIT_SEED:
        parser.error(
            f"seed {options.seed} may have been fitted on, expected less than {FIRST_FIT_SEED}"
        )
    num_clips = options.scenes // 4 if options.clips is None else options.clips
    try:
        engine = load_engine(options.engine, threads=options.threads)
        scenes = ask_held_out(
            Grounder(engine),
            seed=options.seed,
            num_stills=options.scenes,
            num_clips=num_clips,
            progress=show_progress,
        )
        points = list(judged_points(scenes))
    except Molmo2Error as error:
        print(f"bench_confidence: {error}", file=sys.stderr)
        return 2
    if not points:
        parser.error("no point was given; use more scenes")
    calibration = engine.manifest.calibration
    whole, whole_raw = measured(points), measured(points, of_score)
    publish(
        "confidence",
        [table_row(case, chosen) for case, chosen in cases(points) if chosen],
        packages=("numpy", "onnxruntime", "scipy"),
        settings={
            "engine": str(options.engine),
            "scenes": options.scenes,
            "clips": num_clips,
            "seed": options.seed,
            "fit_seed": None if calibration is None else calibration.seed,
            "bins": 10,
        },
        figures={
            "confidence_ece": whole["ece"],
            "confidence_ece_mass": whole["mass"],
            "confidence_ece_floor": whole["floor"],
            "confidence_ece_raw": whole_raw["ece"],
            "confidence_brier": whole["brier"],
            "confidence_brier_raw": whole_raw["brier"],
            "confidence_auroc": whole["auroc"],
            "confidence_auroc_raw": whole_raw["auroc"],
            "points": len(points),
        },
        equality={},
        as_json=options.json,
    )
    if options.plot is not None:
        curves = {"confidence": bins(points), "raw score": bins(points, of_score)}
        options.plot.write_text(diagram(curves), encoding="utf-8")
    return 0


def of_confidence(point: JudgedPoint) -> float:
    """What the engine publishes."""
    return point.confidence


def of_score(point: JudgedPoint) -> float:
    """What it would publish without a curve."""
    return point.score


Value = Callable[[JudgedPoint], float]


def bins(
    points: Sequence[JudgedPoint], value: Value = of_confidence, *, equal_mass: bool = False
) -> list[ReliabilityBin]:
    """Ten bins."""
    return reliability(
        [value(p) for p in points], [p.is_right for p in points], equal_mass=equal_mass
    )


def measured(points: Sequence[JudgedPoint], value: Value = of_confidence) -> dict[str, float]:
    """All figures of some points."""
    values = np.array([value(p) for p in points])
    are_right = np.array([p.is_right for p in points])
    rng = np.random.default_rng(0)
    floor = [
        calibration_error(reliability(values, rng.random(len(values)) < values))
        for _ in range(NUM_FLOOR_DRAWS)
    ]
    figures = {
        "ece": calibration_error(bins(points, value)),
        "mass": calibration_error(bins(points, value, equal_mass=True)),
        "floor": float(np.mean(floor)),
        "brier": brier_score(values, are_right),
        "auroc": auroc(values, are_right),
    }
    return {name: round(number, 4) for name, number in figures.items()}


def cases(points: Sequence[JudgedPoint]) -> Iterable[tuple[str, list[JudgedPoint]]]:
    """All points, those of each kind of question, and those of each frame of a track."""
    yield "all", list(points)
    for kind in KINDS:
        yield kind, [p for p in points if p.kind == kind]
    for frame in sorted({p.frame for p in points if p.kind == "track"}):
        yield f"track, frame {frame}", [p for p in points if p.kind == "track" and p.frame == frame]


def table_row(case: str, points: Sequence[JudgedPoint]) -> dict[str, Any]:
    """One line."""
    return {
        "case": case,
        "points": len(points),
        "right": round(float(np.mean([p.is_right for p in points])), 4),
        "confidence": round(float(np.mean([p.confidence for p in points])), 4),
        **measured(points),
        "ece_raw": round(calibration_error(bins(points, of_score)), 4),
    }


SIDE, LEFT, TOP = 360, 60, 20  # pixels: of the diagram's square, and round it
COLOURS = ("#0b6e4f", "#b0b0b0")


def diagram(curves: dict[str, list[ReliabilityBin]]) -> str:
    """A reliability diagram as SVG: share of right points over confidence.

    Args:
        curves: bins by the name of what foretold them, the first one drawn on top. A disc's area is
            the bin's number of points, the line through it the 95 % interval of the share.
    """
    total = sum(entry.num for entry in next(iter(curves.values())))

    def x(value: float) -> float:
        return LEFT + SIDE * value

    def y(value: float) -> float:
        return TOP + SIDE * (1 - value)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIDE + 90}" height="{SIDE + 80}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{SIDE + 90}" height="{SIDE + 80}" fill="white"/>',
        f'<rect x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#888"/>',
        f'<path d="M{x(0)} {y(0)}L{x(1)} {y(1)}" stroke="#888" stroke-dasharray="4 4"/>',
    ]
    for tenth in range(0, 11, 2):
        value = tenth / 10
        parts += [
            f'<text x="{x(value)}" y="{y(0) + 18}" text-anchor="middle">{value:g}</text>',
            f'<text x="{x(0) - 8}" y="{y(value) + 4}" text-anchor="end">{value:g}</text>',
        ]
    parts += [
        f'<text x="{x(0.5)}" y="{y(0) + 42}" text-anchor="middle">confidence</text>',
        f'<text transform="translate(18 {y(0.5)}) rotate(-90)" text-anchor="middle">'
        "share of right points</text>",
    ]
    for curve, colour in reversed(list(zip(curves.values(), COLOURS, strict=True))):
        path = "L".join(f"{x(entry.foretold):.1f} {y(entry.came):.1f}" for entry in curve)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for entry in curve:
            radius = 2 + 14 * (entry.num / total) ** 0.5
            low, high = share_interval(entry.came, entry.num)
            at = f"{x(entry.foretold):.1f}"
            parts += [
                f'<path d="M{at} {y(low):.1f}V{y(high):.1f}" stroke="{colour}"/>',
                f'<circle cx="{at}" cy="{y(entry.came):.1f}" r="{radius:.1f}" fill="{colour}" '
                f'fill-opacity="0.7"><title>{entry.num} points</title></circle>',
            ]
    for number, (name, curve) in enumerate(curves.items()):
        at = y(0.10 - 0.06 * number)
        parts += [
            f'<circle cx="{x(0.5)}" cy="{at - 4}" r="6" fill="{COLOURS[number]}"/>',
            f'<text x="{x(0.5) + 12}" y="{at}">{escape(name)}: ECE {calibration_error(curve):.3f}'
            "</text>",
        ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    raise SystemExit(main())
