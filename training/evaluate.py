"""Measure a model on data sets, or on held-out simulated tables.

`python -m molmo2_ros.training.evaluate --engine engines/nano --scenes 500` renders what it asks
about; `--dataset FOLDER` asks all that a data set (docs/dataset_format.md) knows. `--engine` is an
engine folder, the URL of a server, or `torch:CHECKPOINT`. It prints a table; `--json` prints one
JSON object whose `figures` holds the headline numbers, `--report FOLDER` draws plots and a page of
the worst failures, `--write` puts the figures of rendered scenes into the engine's manifest.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from molmo2_ros.errors import ConfigError, Molmo2Error
from molmo2_ros.runtime.engine import engine_folder
from molmo2_ros.runtime.manifest import FILE_NAME, Manifest
from molmo2_ros.training.data.dataset import Dataset
from molmo2_ros.training.evaluation.answer_log import open_log
from molmo2_ros.training.evaluation.any_engine import Opened, open_any
from molmo2_ros.training.evaluation.context import context, show_progress
from molmo2_ros.training.evaluation.on_dataset import evaluate_dataset
from molmo2_ros.training.evaluation.probes import PairProbe, PhrasingProbe
from molmo2_ros.training.evaluation.rendered import AskedScene
from molmo2_ros.training.evaluation.rendered_scores import evaluate, report, with_metrics
from molmo2_ros.training.evaluation.rendered_truth import scored_scene
from molmo2_ros.training.evaluation.report import Report
from molmo2_ros.training.evaluation.result import Result, table
from molmo2_ros.training.evaluation.segmenter import open_segmenter


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    try:
        _check(options)
        dataset = None
        if options.dataset is not None:
            dataset = Dataset.open(options.dataset, options.source)
        segmenter = None if options.sam2 is None else open_segmenter(options.sam2)
        opened = open_any(options.engine, threads=options.threads, dtype=options.dtype)
        written = None if options.report is None else Report(options.report)
        if dataset is not None:
            outcome = evaluate_dataset(
                opened.grounder,
                dataset,
                limit=options.limit,
                progress=show_progress,
                report=written,
                segmenter=segmenter,
                log=open_log(options.answers, options.engine, dataset.about.name),
            )
            title, result, notes = dataset.about.name, outcome.result, outcome.notes
            settings = {"dataset": str(options.dataset), **outcome.settings}
        else:
            title, result = "rendered scenes", _on_scenes(opened, options, written)
            pairs = "excluded from training" if opened.pairs_excluded else "not excluded"
            notes = [f"held-out pairs: {pairs} (training/pairs.py)"]
            settings = {**_scene_settings(options), "held_out_pairs": pairs}
        if written is not None:
            written.write(title=f"{opened.name} on {title}")
    except Molmo2Error as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    settings = {
        "engine": options.engine,
        **settings,
        "seconds": round(time.monotonic() - started, 1),
    }
    if options.json:
        print(
            json.dumps({"name": "evaluate", **context(), "settings": settings, **result}, indent=2)
        )
        return 0
    print("\n".join([*table(result), "", *notes]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--engine", default="engines/nano", help="folder, http address, or torch:CHECKPOINT"
    )
    parser.add_argument("--dataset", type=Path, help="folder of a data set to ask about")
    parser.add_argument("--limit", type=int, help="with --dataset: its first examples alone")
    parser.add_argument(
        "--source", action="append", help="with --dataset: whose labels; may be given again"
    )
    parser.add_argument(
        "--sam2", type=Path, metavar="FOLDER", help="with --dataset: checkpoint of SAM 2, for J&F"
    )
    parser.add_argument("--scenes", type=int, default=500, help="rendered stills")
    parser.add_argument("--clips", type=int, help="rendered clips; default: as many as stills")
    parser.add_argument("--frames", type=int, default=8, help="frames of a rendered clip")
    parser.add_argument("--seed", type=int, default=0, help="of the rendered scenes")
    parser.add_argument(
        "--no-phrasings", action="store_true", help="ask each question in one phrasing alone"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of torch:CHECKPOINT"
    )
    parser.add_argument(
        "--answers",
        type=Path,
        metavar="FILE",
        help="with --dataset: keep answers there, and go on behind them",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument(
        "--report", type=Path, metavar="FOLDER", help="plots, and a page of the worst failures"
    )
    parser.add_argument("--write", action="store_true", help="figures into the engine's manifest")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not belong together, before anything is opened."""
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit is {options.limit}, expected one example at least")
    if options.dataset is None and (options.sam2 or options.answers):
        name = "--sam2" if options.sam2 else "--answers"
        raise ConfigError(f"{name} is for data sets, expected --dataset with it")
    if options.write and options.dataset is not None:
        raise ConfigError("--write keeps figures of rendered scenes, expected no --dataset with it")
    if options.write and not (engine_folder(options.engine) / FILE_NAME).exists():
        raise ConfigError(f"--write needs an engine folder, met {options.engine!r}")


def _on_scenes(opened: Opened, options: argparse.Namespace, written: Report | None) -> Result:
    num_clips = options.scenes if options.clips is None else options.clips
    pairs = PairProbe(grounder=opened.grounder)
    phrasings = None if options.no_phrasings else PhrasingProbe(grounder=opened.grounder)

    def draw(number: int, scene: AskedScene) -> None:
        if written is not None:
            for one in scored_scene(scene, f"scene {number}"):
                written.add(one, list(scene.clip.frames), _stamps(scene))

    tally = evaluate(
        opened.grounder,
        seed=options.seed,
        num_stills=options.scenes,
        num_clips=num_clips,
        num_frames=options.frames,
        progress=show_progress,
        also=[pairs, draw] if phrasings is None else [pairs, phrasings, draw],
    )
    result = report(tally)
    pairs.add_to(result)
    if phrasings is not None:
        phrasings.add_to(result)
    if options.write:
        folder = engine_folder(options.engine)
        with_metrics(
            Manifest.load(folder),
            result["figures"],
            num_stills=options.scenes,
            num_clips=num_clips,
            seed=options.seed,
        ).write(folder)
    return result


def _stamps(scene: AskedScene) -> list[float]:
    return [0.5 * number for number in range(len(scene.clip.frames))]


def _scene_settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "scenes": options.scenes,
        "clips": options.scenes if options.clips is None else options.clips,
        "frames": options.frames,
        "seed": options.seed,
    }


if __name__ == "__main__":
    raise SystemExit(main())
