"""Make the embedded engine of a finished run: export, calibrate, measure, say where it comes from.

`python -m molmo2_ros.training.nano.publish --run runs/nano --engine engines/nano`
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from molmo2_ros.engines.export import Description, export_checkpoint
from molmo2_ros.errors import DataError, Molmo2Error
from molmo2_ros.grounder import Grounder
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.golden import Golden
from molmo2_ros.runtime.manifest import Manifest, SamplingFacts, TrainingFacts
from molmo2_ros.simulation.motion import sample_clip
from molmo2_ros.simulation.objects import CATEGORIES
from molmo2_ros.simulation.world import World
from molmo2_ros.training.calibrate import fit
from molmo2_ros.training.evaluation.context import git_commit, show_progress
from molmo2_ros.training.evaluation.rendered_scores import evaluate, report, with_metrics
from molmo2_ros.training.held_out import FIRST_FIT_SEED, FIRST_WORLD, clip_test_questions
from molmo2_ros.training.nano.card import CURVES, EVALUATION, write_card
from molmo2_ros.training.scenes import locate

SKILLS = ("track", "point", "count", "seed")
# Seven half-second steps and the newest frame between two of them: the eight frames of training.
SAMPLING = SamplingFacts(point_fps=2.0, track_fps=2.0, max_frames=8, max_clip_s=3.4)
GOLDEN_FRAMES = 4
LICENSE = "Apache-2.0"


def draw_golden(image_size: int) -> Golden:
    """A rendered clip and a tracking question, always the same."""
    rng = np.random.default_rng(FIRST_WORLD)
    stamps_s = tuple(0.5 * i for i in range(GOLDEN_FRAMES))
    world = World(FIRST_WORLD - 1)
    while True:
        clip = sample_clip(world, rng, GOLDEN_FRAMES, size=(image_size, image_size))
        for question in clip_test_questions(locate(clip), stamps_s, rng):
            if not question.absent:
                return Golden(
                    frames=np.array(clip.frames),
                    times_s=np.array(stamps_s),
                    question=question.text,
                )


def publish(
    run: Path, engine: Path, *, num_stills: int, num_clips: int, seed: int, fit_seed: int
) -> Manifest:
    """Turn a run's checkpoint into an engine folder with figures and curves in its manifest.

    The Hugging Face checkpoint goes into `engine/checkpoint`: parity tests and fine-tuning use it.

    Args:
        run: folder of a finished training.
        engine: folder to make or replace.
        num_stills: held-out scenes of one frame for the figures, and as many for the curves.
        num_clips: held-out clips for the figures; the curves take a quarter of `num_stills`.
        seed: of the held-out scenes for the figures.
        fit_seed: of the held-out scenes for the curves that calibrate confidences.

    Raises:
        DataError: the run is not finished, or `fit_seed` is one for measuring.
    """
    checkpoint = run / "checkpoint"
    if not (checkpoint / "model.safetensors").exists():
        raise DataError(f"{run} holds no finished checkpoint; train it to the end first")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    training = TrainingFacts(commit=git_commit(), config=config, seed=config["seed"])
    description = Description(
        name="molmo2-nano",
        skills=SKILLS,
        vocabulary=tuple(category.noun for category in CATEGORIES),
        sampling=SAMPLING,
        training=training,
    )
    golden = draw_golden(config["model"]["image_size"])
    with tempfile.TemporaryDirectory(dir=run) as scratch:
        fresh = Path(scratch) / "engine"
        manifest = export_checkpoint(checkpoint, fresh, description=description, golden=golden)
        grounder = Grounder(load_engine(fresh, threads=1))
        calibration = fit(
            grounder,
            seed=fit_seed,
            num_stills=num_stills,
            num_clips=num_stills // 4,
            progress=show_progress,
        )
        tally = evaluate(
            grounder,
            seed=seed,
            num_stills=num_stills,
            num_clips=num_clips,
            progress=show_progress,
        )
        # Its own model under its own name; the run's folder means nothing to anybody else.
        source = dataclasses.replace(manifest.source, checkpoint="molmo2-nano", license=LICENSE)
        measured = report(tally)
        manifest = with_metrics(
            dataclasses.replace(manifest, calibration=calibration, source=source),
            measured["figures"],
            num_stills=num_stills,
            num_clips=num_clips,
            seed=seed,
        )
        manifest.write(fresh)
        text = json.dumps(measured, indent=1) + "\n"
        (fresh / EVALUATION).write_text(text, encoding="utf-8")
        if (run / CURVES).exists():
            shutil.copy(run / CURVES, fresh)
        write_card(fresh)
        shutil.rmtree(engine, ignore_errors=True)
        shutil.move(fresh, engine)
    shutil.copytree(checkpoint, engine / "checkpoint")
    return manifest


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/nano"))
    parser.add_argument("--engine", type=Path, default=Path("engines/nano"))
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--clips", type=int, help="for the figures; default: as many as stills")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes for the figures")
    parser.add_argument(
        "--fit-seed", type=int, default=FIRST_FIT_SEED, help="of the scenes for the curves"
    )
    options = parser.parse_args(arguments)
    try:
        manifest = publish(
            options.run,
            options.engine,
            num_stills=options.scenes,
            num_clips=options.scenes if options.clips is None else options.clips,
            seed=options.seed,
            fit_seed=options.fit_seed,
        )
    except Molmo2Error as error:
        print(f"publish: {error}", file=sys.stderr)
        return 2
    for name, value in manifest.training.metrics.items():
        print(f"{name:<22}{value:>10}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
