"""What an answer costs as clips, questions and pictures grow.

    python benchmarks/bench_growth.py [--engine DIR] [--threads 2] [--runs 10] [--json]

Steady state on a simulated table's sliding clip: every answer is about one new frame. Vision is
paid for the new frame alone, so its cost must not grow with the clip; reading the clip does grow,
as all of its visual tokens see each other. The nano was trained on clips of up to eight frames:
longer ones show cost, not sense.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.report import publish  # noqa: E402
from molmo2_ros.answers.answer import Answer  # noqa: E402
from molmo2_ros.camera.clip import Clip  # noqa: E402
from molmo2_ros.camera.frame import Frame  # noqa: E402
from molmo2_ros.grounder import Grounder  # noqa: E402
from molmo2_ros.prompt.query import Query, parse_query  # noqa: E402
from molmo2_ros.runtime.engine import NANO, Engine, load_engine  # noqa: E402
from molmo2_ros.simulation.source import TableSource  # noqa: E402

NUM_FRAMES = (1, 2, 4, 8, 16, 32, 64)
NUM_QUERIES = (1, 2, 4, 8, 16, 32)
SIZES = ((320, 240), (640, 480), (1280, 720), (1920, 1080))  # width, height
USUAL_FRAMES = 8
STEP_NS = 500_000_000  # between the frames of a clip
MAX_NEW_TOKENS = 128  # what eight frames take; on longer clips the nano writes without end
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "white")
THINGS = ("lemon", "mug", "bowl", "cone", "duck")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, default=NANO)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    engine = load_engine(options.engine, threads=options.threads)
    images = _images(max(NUM_FRAMES) + options.runs + 1)
    queries = [parse_query(f"track: the {c} {thing}") for thing in THINGS for c in COLOURS]
    rows, encode_ms, equal = [], {}, True
    for num_frames in NUM_FRAMES:
        case = f"{num_frames} frames, 1 query, 320x240"
        answers, same = _answers(engine, images, num_frames, queries[:1], options.runs)
        rows.append(_row(case, answers))
        encode_ms[num_frames] = rows[-1]["encode_ms"]
        equal = equal and same
    for num_queries in NUM_QUERIES:
        case = f"{USUAL_FRAMES} frames, {num_queries} queries, 320x240"
        asked = queries[:num_queries]
        answers, same = _answers(engine, images, USUAL_FRAMES, asked, options.runs)
        rows.append(_row(case, answers))
        equal = equal and same
    for width, height in SIZES:
        case = f"{USUAL_FRAMES} frames, 1 query, {width}x{height}"
        larger = [cv2.resize(image, (width, height)) for image in images]
        answers, same = _answers(engine, larger, USUAL_FRAMES, queries[:1], options.runs)
        rows.append(_row(case, answers))
        equal = equal and same
    publish(
        "growth",
        rows,
        packages=("numpy", "onnxruntime", "opencv-python-headless"),
        settings={"runs": options.runs, "threads": options.threads, "medians": True},
        figures={
            "vision_growth": round(encode_ms[max(NUM_FRAMES)] / encode_ms[min(NUM_FRAMES)], 2),
            "equal": float(equal),
        },
        equality={"tokens with drafts and without, first answer of each case": equal},
        as_json=options.json,
    )


def _images(number: int) -> list[Any]:
    source = TableSource(seed=2, rate_hz=2.0)
    return [source.read().image for _ in range(number)]


def _sliding(images: list[Any], num_frames: int) -> Iterator[Clip]:
    frames = [Frame(image=image, stamp_ns=i * STEP_NS) for i, image in enumerate(images)]
    for start in range(len(frames) - num_frames + 1):
        yield Clip(tuple(frames[start : start + num_frames]))


def _answers(
    engine: Engine, images: list[Any], num_frames: int, queries: list[Query], num_runs: int
) -> tuple[list[list[Answer]], bool]:
    """Answers of a warm runtime, and whether plain decoding writes the first of them alike."""
    grounder = Grounder(engine)
    clips = _sliding(images, num_frames)
    grounder.answer_all(next(clips), queries, max_new_tokens=MAX_NEW_TOKENS)
    answers, same = [], True
    for number, clip in zip(range(num_runs), clips, strict=False):
        answers.append(grounder.answer_all(clip, queries, max_new_tokens=MAX_NEW_TOKENS))
        if number == 0:
            plain = Grounder(engine, drafted=False).answer_all(
                clip, queries, max_new_tokens=MAX_NEW_TOKENS
            )
            same = [a.text for a in plain] == [a.text for a in answers[0]]
    return answers, same


def _row(case: str, runs: list[list[Answer]]) -> dict[str, Any]:
    # All questions share encoding and prefill; the slowest answer's decoding is that of all.
    timings = [max((a.timing for a in answers), key=lambda t: t.decode_s) for answers in runs]
    parts = {
        f"{part}_ms": 1e3 * float(np.median([getattr(t, f"{part}_s") for t in timings]))
        for part in ("encode", "prefill", "decode")
    }
    passes = [max(answer.timing.num_passes for answer in answers) for answers in runs]
    return {
        "case": case,
        **{name: round(value, 2) for name, value in parts.items()},
        "whole_ms": round(sum(parts.values()), 2),
        "passes": float(np.median(passes)),
        "prompt_tokens": timings[0].num_prompt_tokens,
        "n": len(runs),
    }


if __name__ == "__main__":
    main()
